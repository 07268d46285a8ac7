//! Numbers editions, so that no two of one process are alike and none of another process is taken for one's own.
//!
//! A number is the time and, below it, the mark of the process that counts. Two replicas publish the same change at the same
//! moment: were their numbers alike, a node that goes from one to the other would be sent a difference from what it does not have.

use std::time::Duration;

/// The publisher publishes ten times a second at most.
const TICK_MS: u128 = 100;
/// One in 262,144 processes has another's mark. The whole number stays below 2^53 until the year 3058: what reads it as a double
/// loses nothing.
const MARK_BITS: u32 = 18;

/// Counts one process's editions.
#[derive(Clone, Copy, Debug)]
pub struct Generations {
    mark: u64,
    clock: fn() -> Duration,
}

impl Generations {
    /// Those of a process with these random bits, by this clock from the Unix epoch.
    pub fn new(random: u64, clock: fn() -> Duration) -> Self {
        // No mark is 0: an earlier version's numbers, milliseconds, are all below the first of these.
        Self { mark: random % ((1 << MARK_BITS) - 1) + 1, clock }
    }

    /// The one after `last`: by the clock, so that it grows across a restart, which keeps no count.
    pub fn after(&self, last: u64) -> u64 {
        let now = u64::try_from((self.clock)().as_millis() / TICK_MS).unwrap_or(u64::MAX >> MARK_BITS);
        let tick = now.max((last >> MARK_BITS).saturating_add(1)).min(u64::MAX >> MARK_BITS);
        tick << MARK_BITS | self.mark
    }

    /// True for one that this process made.
    pub fn is_own(&self, generation: u64) -> bool {
        generation & ((1 << MARK_BITS) - 1) == self.mark
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Generations;

    fn noon() -> Duration {
        Duration::from_millis(1_795_000_000_000)
    }

    #[test]
    fn each_is_greater_than_the_one_before_also_when_the_clock_stands_still_or_was_set_back() {
        let generations = Generations::new(7, noon);
        let first = generations.after(0);
        let second = generations.after(first);
        assert!(second > first);
        let earlier = Generations::new(7, || noon() - Duration::from_secs(3600));
        assert!(earlier.after(second) > second);
        assert!(first > 1_795_000_000_000, "an earlier version counted milliseconds");
    }

    #[test]
    fn two_processes_never_count_alike() {
        let (one, other) = (Generations::new(7, noon), Generations::new(8, noon));
        let (a, b) = (one.after(0), other.after(0));
        assert!(a != b && one.is_own(a) && other.is_own(b) && !one.is_own(b) && !other.is_own(a));
        assert!(one.is_own(one.after(b)), "counting on from another's stays one's own");
    }

    #[test]
    fn what_reads_them_as_doubles_loses_nothing() {
        assert!(Generations::new(u64::MAX, noon).after(0) < 1 << 53);
    }
}
