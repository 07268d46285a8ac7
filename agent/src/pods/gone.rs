//! Sees to it that the namespaces of pods that are gone can end.
//!
//! A socket that was closed with something still to send or to be acknowledged lives on in the kernel, and its namespace with it: for
//! minutes where nobody is left to answer, as between two pods that went together. Such sockets are ended here, a moment after their
//! pod went. What a process still has open is its own.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use super::{Found, entrant::Entrant};
use crate::revoke::{Seen, close, orphans, see};

/// How long they may end by themselves: proxies close what they have there, and a peer that is there answers.
const GRACE: Duration = Duration::from_secs(1);

/// For how long the namespace is looked through then, each half second, while there is a TCP socket in it at all: the last to close
/// is who notices last. It is held open meanwhile.
const LOOKS: Duration = Duration::from_secs(30);

/// Namespaces at once: all pods of a node twice over. More are left to the kernel's own time.
const MAX: usize = 1_000;

/// What there was before this look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
}

/// Ends what nobody has open in the calling thread's namespace.
fn end() -> io::Result<Left> {
    let Seen { listening, connections, datagrams: _, by_service: _ } = see(None)?;
    let orphans = orphans()?;
    orphans.iter().try_for_each(close)?;
    Ok(if listening.is_empty() && connections.is_empty() && orphans.is_empty() { Left::Nothing } else { Left::Some })
}

/// Namespaces of pods that are gone, and since when.
#[derive(Debug, Default)]
pub(super) struct Gone(Vec<(Instant, Found)>);

impl Gone {
    /// A pod is gone, as of `now`.
    pub(super) fn add(&mut self, found: &Found, now: Instant) {
        if self.0.len() < MAX {
            self.0.push((now, found.clone()));
        }
    }

    /// Ends what is left in them, and lets go of those that were looked through for long enough, and of those that are `in_use`
    /// again: a pod that was made again under its name may have its predecessor's namespace, where what was closed may be its own.
    pub(super) async fn sweep(&mut self, entrant: &Entrant, in_use: &BTreeSet<u64>, now: Instant) {
        for (since, found) in std::mem::take(&mut self.0) {
            let age = now.saturating_duration_since(since);
            let goes_on = age < GRACE
                || !in_use.contains(&found.cookie) && {
                    let left = entrant.within(found.namespace.clone(), end).await;
                    let left = left.unwrap_or_else(|why| {
                        tracing::debug!(
                            error = &why as &dyn std::error::Error,
                            "what a pod left can't be looked through"
                        );
                        Left::Nothing
                    });
                    left == Left::Some && age < GRACE + LOOKS
                };
            if goes_on {
                self.0.push((since, found));
            }
        }
    }
}
