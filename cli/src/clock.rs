//! Reads the clock: the only place in this crate that does.

use std::time::Instant;

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
