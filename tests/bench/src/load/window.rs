//! The time that is counted: after a warm-up, and with the machine's CPU time at both ends of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Measured, Task};
use crate::{clock, machine::Cpu, stats};

/// Of a hundred operations at most this many may fail: more, and it is no measurement.
const MOST_FAILED: f64 = 0.01;

/// Where a load is in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is counted yet.
    Warming,
    /// What ends now is counted.
    Counting,
    /// The load may end.
    Over,
}

/// The window of a load, and what was counted in it.
#[derive(Debug)]
pub(super) struct Window {
    opens: Instant,
    length: Duration,
    opened: Option<(Instant, Cpu)>,
    latencies_us: Vec<f64>,
    operations: u64,
    failures: u64,
}

impl Window {
    pub(super) fn of(task: Task) -> Self {
        let opens = clock::now() + task.warm;
        Self { opens, length: task.window, opened: None, latencies_us: Vec::new(), operations: 0, failures: 0 }
    }

    /// Ask it often: what is counted begins with the first answer that it is open.
    pub(super) fn phase(&mut self, now: Instant) -> Result<Phase> {
        if now < self.opens {
            return Ok(Phase::Warming);
        }
        let (opened, _cpu) = match self.opened {
            Some(opened) => opened,
            None => *self.opened.insert((clock::now(), Cpu::now()?)),
        };
        Ok(if now.saturating_duration_since(opened) < self.length { Phase::Counting } else { Phase::Over })
    }

    /// Counts one that took from `since` until `now`, if the window is open.
    pub(super) fn done(&mut self, since: Instant, now: Instant) {
        if self.opened.is_some() {
            self.operations += 1;
            self.latencies_us.push(now.saturating_duration_since(since).as_secs_f64() * 1e6);
        }
    }

    /// Counts one that failed.
    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// What was counted; call it as soon as it is over.
    pub(super) fn close(mut self) -> Result<Measured> {
        let (opened, cpu) = self.opened.context("the window never opened")?;
        let (seconds, cpu) = (opened.elapsed().as_secs_f64(), Cpu::now()?.since(cpu));
        ensure!(self.operations > 0, "nothing was done in {seconds:.1} s; {} failed", self.failures);
        let failed = self.failures as f64 / self.operations as f64;
        ensure!(failed <= MOST_FAILED, "{} of {} failed", self.failures, self.operations);
        self.latencies_us.sort_by(f64::total_cmp);
        Ok(Measured {
            seconds,
            bytes: 0.0,
            operations: self.operations as f64,
            failures: self.failures,
            cpu,
            p50_us: stats::of_sorted(&self.latencies_us, 0.5),
            p99_us: stats::of_sorted(&self.latencies_us, 0.99),
        })
    }
}
