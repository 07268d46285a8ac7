//! Keeps what one workload has had of processors in this proxy, and says when it has had as much as it may.
//!
//! A bucket of processor time that fills as time goes by, over all workers together. What is drawn is known only once it was spent, so it
//! may be overdrawn, and who has overdrawn it waits until it is even again. The bucket is kept as the moment at which it is full.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use millrace_node::clock;

/// What the bucket holds, of processor time: ten TLS handshakes at once, or two hundred requests, wait for nothing. A neighbour has its
/// turns beside it as beside anybody's.
const BURST: Duration = Duration::from_millis(5);

/// What may be owed, as time until it is given: a poll that took long must not silence a workload for minutes, however little it may have.
const MOST_OWED: Duration = Duration::from_secs(1);

/// One workload's time on processors.
#[derive(Debug)]
pub(crate) struct Processor {
    /// What moments are counted from.
    epoch: Instant,
    /// What it may have: thousandths of a processor. 0: as much as there is.
    millis: AtomicU32,
    /// When the bucket is full, in nanoseconds.
    full_at: AtomicU64,
    used: AtomicU64,
    throttled: AtomicU64,
}

impl Processor {
    pub(super) fn new(millis: Option<u32>) -> Self {
        Self {
            epoch: clock::now(),
            millis: millis.unwrap_or(0).into(),
            full_at: AtomicU64::new(0),
            used: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        }
    }

    /// Another limit, with a full bucket.
    pub(super) fn set(&self, millis: Option<u32>) {
        let millis = millis.unwrap_or(0);
        if self.millis.swap(millis, Ordering::Relaxed) != millis {
            self.full_at.store(0, Ordering::Relaxed);
        }
    }

    /// Draws what was used of processors until `now`.
    pub(crate) fn charge(&self, now: Instant, used: Duration) {
        let used = nanos(used);
        self.used.fetch_add(used, Ordering::Relaxed);
        let Some(millis) = self.limit() else { return };
        let (now, most) = (self.at(now), fills(nanos(BURST), millis) + nanos(MOST_OWED));
        let drawn = |full_at: u64| Some((full_at.max(now) + fills(used, millis)).min(now + most));
        // Two workers may draw at once: both count.
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, drawn).ok();
    }

    /// How long it has to wait until it may have more; None where it need not.
    pub(crate) fn waits(&self, now: Instant) -> Option<Duration> {
        let even_at = self.full_at.load(Ordering::Relaxed).saturating_sub(fills(nanos(BURST), self.limit()?));
        even_at.checked_sub(self.at(now)).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    /// It waited so long on one worker, with something to do.
    pub(crate) fn has_waited(&self, time: Duration) {
        self.throttled.fetch_add(nanos(time), Ordering::Relaxed);
    }

    /// What it has had.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// How long it was held back, over all workers.
    pub(crate) fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled.load(Ordering::Relaxed))
    }

    fn limit(&self) -> Option<u64> {
        Some(self.millis.load(Ordering::Relaxed)).filter(|millis| *millis > 0).map(u64::from)
    }

    fn at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }
}

/// How long it takes until so much processor time is given.
fn fills(used: u64, millis: u64) -> u64 {
    used.saturating_mul(1000) / millis
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use millrace_node::clock;

    use super::{BURST, MOST_OWED, Processor};

    const MS: Duration = Duration::from_millis(1);

    fn quarter() -> (Processor, Instant) {
        (Processor::new(Some(250)), clock::now() + MS)
    }

    #[test]
    fn a_burst_waits_for_nothing_and_what_is_over_it_until_it_was_given() {
        let (processor, now) = quarter();
        processor.charge(now, BURST);
        assert_eq!(processor.waits(now), None);
        processor.charge(now, MS);
        assert_eq!(processor.waits(now), Some(MS * 4), "a quarter of a processor gives a millisecond in four");
        assert_eq!(processor.waits(now + MS * 4), None);
        assert_eq!(processor.used(), BURST + MS);
    }

    #[test]
    fn who_was_idle_has_a_burst_and_no_more() {
        let (processor, now) = quarter();
        let later = now + Duration::from_secs(600);
        processor.charge(later, BURST + MS);
        assert_eq!(processor.waits(later), Some(MS * 4));
    }

    #[test]
    fn one_long_poll_is_not_owed_for_longer_than_a_second() {
        let (processor, now) = quarter();
        processor.charge(now, Duration::from_secs(10));
        assert_eq!(processor.waits(now), Some(MOST_OWED));
    }

    #[test]
    fn without_a_limit_or_with_another_one_nobody_waits_for_what_was_spent_before() {
        let (processor, now) = quarter();
        processor.charge(now, BURST * 2);
        assert!(processor.waits(now).is_some());
        processor.set(Some(250));
        assert!(processor.waits(now).is_some(), "the same limit is no other one");
        processor.set(Some(500));
        assert_eq!(processor.waits(now), None);
        processor.set(None);
        processor.charge(now, Duration::from_secs(10));
        assert_eq!(processor.waits(now), None);
        assert_eq!(processor.used(), BURST * 2 + Duration::from_secs(10));
    }
}
