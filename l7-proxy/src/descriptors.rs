//! Counts open descriptors, so that a connection too many is refused by name before the process can open nothing at all.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors kept back for what is no connection: epoll, admin, agent, a packet of 64 in flight, and one to accept and refuse with.
const RESERVE: u64 = 256;

/// The most that is counted; a limit above it is as good as none on one node.
const MOST: u64 = 4_000_000;

/// What is left of RLIMIT_NOFILE.
#[derive(Clone, Debug)]
pub(crate) struct Descriptors {
    left: Arc<Semaphore>,
    limit: u64,
}

/// The right to hold some descriptors open; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Descriptors {
    /// Raises the soft limit to the hard one, and counts against that.
    pub(crate) fn at_limit() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
        let limit = if raised { maximum } else { current };
        Self::new(limit.unwrap_or(MOST))
    }

    /// Counts against `limit`.
    pub(crate) fn new(limit: u64) -> Self {
        let limit = limit.min(MOST);
        let left = usize::try_from(limit.saturating_sub(RESERVE)).unwrap_or(0).min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(left)), limit }
    }

    /// The right to `count` more; None where they would run out.
    pub(crate) fn take(&self, count: u32) -> Option<Held> {
        self.left.clone().try_acquire_many_owned(count).ok().map(Held)
    }

    /// How many may be open at once, all in all.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// How many connections' descriptors are left.
    pub(crate) fn left(&self) -> usize {
        self.left.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::Descriptors;

    #[test]
    fn what_would_exceed_the_limit_is_refused_and_what_is_closed_comes_back() {
        let descriptors = Descriptors::new(super::RESERVE + 2);
        let held = descriptors.take(2);
        assert!(held.is_some());
        assert!(descriptors.take(1).is_none());
        drop(held);
        assert!(descriptors.take(1).is_some());
        assert!(Descriptors::new(10).take(1).is_none(), "a limit below the reserve leaves none");
    }
}
