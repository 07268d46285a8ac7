//! Says how much of what polls took was a processor's: the clock also runs while another process has the core.
//!
//! The thread's own clock would say it of each poll, but to read it is a call of the kernel, 0.6 us where a poll takes 10. So it is read
//! once for many polls, and what they had of it together is taken for each one's part.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Time in polls from one look at the thread's clock to the next: a look costs a thousandth of it.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// All of it. A part is counted by its 1024ths.
const WHOLE: u64 = 1024;

/// What one worker's polls have of a processor. One thread reads and writes it.
#[derive(Debug)]
pub(super) struct Meter {
    /// The thread's clock. None: polls have all of the time that they take.
    cpu: Option<fn() -> Duration>,
    /// Nanoseconds that polls took since the last look.
    polled: AtomicU64,
    /// What the thread's clock said then.
    had: AtomicU64,
    part: AtomicU64,
}

impl Default for Meter {
    fn default() -> Self {
        Self::by(None)
    }
}

impl Meter {
    pub(super) fn by(cpu: Option<fn() -> Duration>) -> Self {
        Self { cpu, polled: AtomicU64::new(0), had: AtomicU64::new(0), part: AtomicU64::new(WHOLE) }
    }

    /// What a poll that took so long had of a processor, in nanoseconds.
    pub(super) fn of(&self, took: Duration) -> u64 {
        let took = nanos(took);
        let Some(cpu) = self.cpu else { return took };
        let mut polled = self.polled.load(Ordering::Relaxed).saturating_add(took);
        if polled >= nanos(LOOK_EVERY) {
            let had = nanos(cpu());
            // What the runtime took around them is theirs, as far as it is no more than they took.
            let had_since = had.saturating_sub(self.had.swap(had, Ordering::Relaxed));
            self.part.store((had_since.saturating_mul(WHOLE) / polled).min(WHOLE), Ordering::Relaxed);
            polled = 0;
        }
        self.polled.store(polled, Ordering::Relaxed);
        took.saturating_mul(self.part.load(Ordering::Relaxed)) / WHOLE
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::Meter;

    thread_local! {
        static HAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    #[test]
    fn a_thread_that_had_half_of_the_time_is_charged_half_and_never_more_than_its_polls_took() {
        let meter = Meter::by(Some(|| HAD.get()));
        let poll = |took: u64, had: u64| {
            HAD.set(HAD.get() + Duration::from_micros(had));
            meter.of(Duration::from_micros(took))
        };
        let polls = |had| (0..1000).map(|_| poll(20, had)).sum::<u64>() / 1000;
        polls(20);
        let half = polls(10);
        assert!((10_000..10_600).contains(&half), "{half} ns of 20 us");
        polls(20);
        assert_eq!(polls(25), 20_000, "the runtime's own work is charged to nobody beyond what was polled");
    }
}
