//! Counts the bytes that this process holds for all workloads together.

use std::sync::atomic::{AtomicU64, Ordering};

/// What waits in buffers, all in all: eight workloads' usual traffic of bulk streams between hosts a millisecond apart.
const MOST: u64 = 512 << 20;

/// No more than this part of the machine's memory: the proxy is a guest on it.
const PART: u64 = 8;

/// The least: what one bulk stream and a few hundred small ones need.
const LEAST: u64 = 32 << 20;

/// Bytes held, against how many may be.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    held: AtomicU64,
    /// The sum of all accounts' weights: the second half is divided by it.
    weights: AtomicU64,
}

impl Budget {
    /// As much as this machine's memory allows for. Asks the system: call it before the filter forbids that.
    pub(crate) fn of_machine() -> Self {
        let system = rustix::system::sysinfo();
        let memory = system.totalram.saturating_mul(u64::from(system.mem_unit));
        Self::new((memory / PART).clamp(LEAST, MOST))
    }

    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, held: AtomicU64::new(0), weights: AtomicU64::new(0) }
    }

    /// How much may be held.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// How much is.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether half of what may be held is.
    pub(super) fn is_tight(&self) -> bool {
        self.held() > self.limit / 2
    }

    /// An account with this weight has a part from now on.
    pub(super) fn enter(&self, weight: u32) {
        self.weights.fetch_add(weight.into(), Ordering::Relaxed);
    }

    /// It has none any more.
    pub(super) fn leave(&self, weight: u32) {
        self.weights.fetch_sub(weight.into(), Ordering::Relaxed);
    }

    /// Takes `count` for an account that then has `own`. While half is free anybody may; after that, who has less than its
    /// part of the other half.
    pub(super) fn take(&self, count: u64, own: u64, weight: u32) -> bool {
        let held = self.held.fetch_add(count, Ordering::Relaxed) + count;
        let half = self.limit / 2;
        let part = half.saturating_mul(weight.into()) / self.weights.load(Ordering::Relaxed).max(1);
        let may = held <= half || (held <= self.limit && own <= part);
        if !may {
            self.give(count);
        }
        may
    }

    /// Gives back.
    pub(super) fn give(&self, count: u64) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }
}
