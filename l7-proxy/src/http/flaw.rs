//! Keeps the fault in what a client of HTTP/1 sent, for all who have to do with its requests.

use std::sync::{Arc, OnceLock};

use super::heads::Bad;

/// One connection's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flaw(Arc<OnceLock<Bad>>);

impl Flaw {
    /// Its bytes are no HTTP.
    pub(crate) fn is_bad(&self, bad: Bad) {
        self.0.get_or_init(|| bad);
    }

    /// Why they are none, where they are not.
    pub(crate) fn bad(&self) -> Option<Bad> {
        self.0.get().copied()
    }
}
