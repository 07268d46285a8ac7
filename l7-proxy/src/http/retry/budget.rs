//! Bounds how many requests this process sends again, by service: a part of what is asked of it, and a few in any case.
//!
//! Only requests of rules with a retry are counted, so that all others pay nothing: the bound is the tighter for it. The windows are
//! pure: the time is an argument.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use millrace_model::{ObjectName, RetryBudget};
use millrace_node::clock;

/// Services that are counted at once: as many as a node calls by such rules, and more. Of others nothing is sent again.
const MAX_SERVICES: usize = 1024;

/// Parts that a window moves on by. With one more than these it is never shorter than it should be.
const PARTS: u32 = 10;
const SLOTS: usize = PARTS as usize + 1;

/// What was sent to each service.
#[derive(Debug)]
pub(crate) struct Budgets {
    began: Instant,
    of: Mutex<HashMap<ObjectName, Window>>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { began: clock::now(), of: Mutex::default() }
    }
}

impl Budgets {
    /// A request for a service that may be sent again came.
    pub(crate) fn asked(&self, service: &ObjectName, budget: &RetryBudget) {
        self.with(service, budget, Window::asked);
    }

    /// Whether one may be sent again. It is counted then.
    pub(crate) fn take(&self, service: &ObjectName, budget: &RetryBudget) -> bool {
        self.with(service, budget, |window, now| window.take(budget, now)).unwrap_or(false)
    }

    fn with<T>(
        &self,
        service: &ObjectName,
        budget: &RetryBudget,
        with: impl FnOnce(&mut Window, Duration) -> T,
    ) -> Option<T> {
        let now = clock::now().saturating_duration_since(self.began);
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = of.get_mut(service).filter(|window| window.is_for(budget)) {
            return Some(with(window, now));
        }
        if of.len() >= MAX_SERVICES {
            of.retain(|_, window| !window.is_idle(now));
        }
        if of.len() >= MAX_SERVICES && !of.contains_key(service) {
            return None;
        }
        of.insert(service.clone(), Window::new(budget));
        of.get_mut(service).map(|window| with(window, now))
    }
}

/// What was sent to one service of late.
#[derive(Debug)]
struct Window {
    requests: Ring,
    retries: Ring,
    /// The retries again, of the time in which a few may be made in any case.
    least: Ring,
}

impl Window {
    fn new(budget: &RetryBudget) -> Self {
        Self {
            requests: Ring::new(budget.interval),
            retries: Ring::new(budget.interval),
            least: Ring::new(budget.min_interval),
        }
    }

    fn is_for(&self, budget: &RetryBudget) -> bool {
        self.requests.time == budget.interval && self.least.time == budget.min_interval
    }

    fn is_idle(&mut self, now: Duration) -> bool {
        self.requests.sum(now) == 0 && self.retries.sum(now) == 0 && self.least.sum(now) == 0
    }

    fn asked(&mut self, now: Duration) {
        self.requests.add(now);
    }

    fn take(&mut self, budget: &RetryBudget, now: Duration) -> bool {
        let share = self.requests.sum(now).saturating_mul(budget.percent.into()) / 100;
        let may = self.retries.sum(now) < share || self.least.sum(now) < u64::from(budget.min_count);
        if may {
            self.retries.add(now);
            self.least.add(now);
        }
        may
    }
}

/// How many there were within a time.
#[derive(Debug)]
struct Ring {
    time: Duration,
    /// Which part of time the newest slot is.
    newest: u64,
    slots: [u64; SLOTS],
}

impl Ring {
    fn new(time: Duration) -> Self {
        Self { time, newest: 0, slots: [0; SLOTS] }
    }

    /// The part of time that is now.
    fn part(&self, now: Duration) -> u64 {
        let part = (self.time / PARTS).as_micros().max(1);
        u64::try_from(now.as_micros() / part).unwrap_or(u64::MAX)
    }

    fn turn(&mut self, now: Duration) {
        let part = self.part(now);
        let n_passed = part.saturating_sub(self.newest).min(SLOTS as u64);
        for passed in 0..n_passed {
            let index = part.wrapping_sub(passed) % SLOTS as u64;
            if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index)) {
                *slot = 0;
            }
        }
        self.newest = part.max(self.newest);
    }

    fn add(&mut self, now: Duration) {
        self.turn(now);
        let index = self.newest % SLOTS as u64;
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index)) {
            *slot += 1;
        }
    }

    fn sum(&mut self, now: Duration) -> u64 {
        self.turn(now);
        self.slots.iter().sum()
    }
}

#[cfg(test)]
mod tests;
