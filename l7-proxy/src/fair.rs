//! Divides a worker's time fairly among workloads: each connection's task is polled in its workload's turn.
//!
//! Deficit round robin, in nanoseconds. A workload may run as long as its quantum lasts; then its tasks wait in a queue of
//! its own, outside the runtime's, until a new round gives all workloads their quantum again. So a workload with a thousand
//! ready connections delays another's one by a quantum and a poll, and not by a thousand polls. While nobody's quantum is
//! spent, a poll costs two looks at the clock, and no lock. A worker with nothing to do has polled everybody who was ready: then
//! a new round begins by itself, so that who is alone, or lets others come, never waits for one.
//!
//! A workload that has had as much of processors as it may ([`Processor`](crate::limits::Processor)) waits in the same queue, also where
//! nobody else wants the worker: until a timer says that it may have more. Its bytes wait where they are, in sockets.

mod line;
mod meter;
mod timer;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use millrace_node::clock;
use tokio::sync::Notify;

use self::{line::Line, meter::Meter, timer::Timer};
use crate::limits::Account;

/// The longest that a workload is held back without a look whether it still has to be: its limit may be another one since.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The shortest: to wake a worker costs some 5 us, and so no more than a fiftieth of it.
const LEAST_REST: Duration = Duration::from_micros(250);

/// The turns of one worker's workloads.
#[derive(Debug)]
pub(crate) struct Turns {
    now: fn() -> Instant,
    shared: Arc<Shared>,
    /// By the account's address, which no other has while a line holds the account.
    lines: Mutex<HashMap<usize, Weak<Line>>>,
    /// What wakes it to let somebody go on, made when that is first asked; None: by the runtime's own timers.
    timer: OnceLock<Option<Timer>>,
}

/// A line that is held back, and since when.
type Held = (Weak<Line>, Instant);

/// What lines tell the worker.
#[derive(Debug, Default)]
struct Shared {
    round: AtomicU64,
    /// Tasks that were called from a queue and have not run yet.
    n_called: AtomicUsize,
    /// Lines whose quantum is spent and in which somebody waits.
    waiting: Mutex<Vec<Arc<Line>>>,
    somebody_waits: Notify,
    /// Lines whose workload has had what it may, and in which somebody waits; each since when.
    held: Mutex<Vec<Held>>,
    meter: Meter,
}

impl Default for Turns {
    fn default() -> Self {
        Self::by_clocks(clock::now, Some(clock::thread_cpu))
    }
}

impl Turns {
    #[cfg(test)]
    pub(crate) fn by_clock(now: fn() -> Instant) -> Self {
        let turns = Self::by_clocks(now, None);
        // What tests wait for is the runtime's own time, which they turn.
        turns.timer.set(None).unwrap();
        turns
    }

    /// By the time, and by what the thread has had of a processor.
    fn by_clocks(now: fn() -> Instant, cpu: Option<fn() -> Duration>) -> Self {
        let shared = Shared { meter: Meter::by(cpu), ..Shared::default() };
        Self { now, shared: Arc::new(shared), lines: Mutex::default(), timer: OnceLock::new() }
    }

    /// Begins a new round: for the worker's runtime to call whenever its thread has nothing to do.
    pub(crate) fn rests(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || {
            shared.round.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// `life`, lived in the turns of the workload that this account is of.
    pub(crate) fn schedule<F: Future>(&self, account: &Arc<Account>, life: F) -> Scheduled<F> {
        Scheduled { life: Box::pin(life), now: self.now, line: self.line(account), ticket: None }
    }

    /// Begins a new round whenever somebody waits for one, and lets go who was held back, once it may go on. It belongs into the worker's
    /// loop, beside what it schedules.
    pub(crate) async fn pace(&self) {
        loop {
            let held_for = self.shared.held_for(self.now);
            tokio::select! {
                () = self.shared.somebody_waits.notified() => {}
                () = self.rest(held_for.unwrap_or_default()), if held_for.is_some() => {}
            }
            loop {
                // Comes back once everything that is ready was polled, or has had sixty polls; events are looked for then.
                tokio::task::yield_now().await;
                self.shared.release(self.now);
                // A round ends when every queue has had its quantum: who has the larger share must not lose it to haste.
                if self.shared.n_called.load(Ordering::Relaxed) > 0 {
                    continue;
                }
                let waiting = std::mem::take(&mut *self.shared.waiting());
                if waiting.is_empty() {
                    break;
                }
                self.shared.round.fetch_add(1, Ordering::Relaxed);
                let now = (self.now)();
                waiting.iter().for_each(|line| Line::turn(line, now));
            }
        }
    }

    /// Comes back after so long.
    async fn rest(&self, time: Duration) {
        let time = time.max(LEAST_REST);
        let timer = self.timer.get_or_init(|| {
            let made = Timer::new();
            made.inspect_err(|why| tracing::warn!(%why, "who is held back goes on by whole milliseconds")).ok()
        });
        if let Some(timer) = timer
            && timer.after(time).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(time).await;
    }

    fn line(&self, account: &Arc<Account>) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(account).addr();
        if let Some(line) = lines.get(&key).and_then(Weak::upgrade) {
            return line;
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Line::new(account.clone(), self.shared.clone()));
        lines.insert(key, Arc::downgrade(&line));
        line
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Line>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn round(&self) -> u64 {
        self.round.load(Ordering::Relaxed)
    }

    /// Holds a line back until its workload may have more.
    fn hold(&self, line: &Arc<Line>, now: Instant) {
        self.held().push((Arc::downgrade(line), now));
    }

    /// How long until one that is held back is to be looked at; None where nobody is.
    fn held_for(&self, now: fn() -> Instant) -> Option<Duration> {
        let held = self.held();
        let lines = held.iter().filter_map(|(line, _)| line.upgrade());
        lines.map(|line| line.waits(now()).unwrap_or_default().min(LOOK_AGAIN)).min()
    }

    /// Lets go who need not wait any longer.
    fn release(&self, now: fn() -> Instant) {
        let mut held = self.held();
        if held.is_empty() {
            return;
        }
        let now = now();
        let mut free = Vec::new();
        held.retain(|(line, since)| {
            let Some(line) = line.upgrade() else { return false };
            let waits = line.waits(now).is_some();
            if !waits {
                free.push((line, now.saturating_duration_since(*since)));
            }
            waits
        });
        drop(held);
        for (line, waited) in free {
            line.was_held(waited);
            Line::turn(&line, now);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that is polled in its workload's turn.
#[derive(Debug)]
pub(crate) struct Scheduled<F> {
    life: Pin<Box<F>>,
    now: fn() -> Instant,
    line: Arc<Line>,
    /// Its place in the queue, while it waits.
    ticket: Option<u64>,
}

impl<F: Future> Future for Scheduled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { life, now, line, ticket } = &mut *self;
        let began = now();
        if !line.may_run(ticket, began, cx.waker()) {
            return Poll::Pending;
        }
        let polled = life.as_mut().poll(cx);
        Line::ran(line, began, now());
        polled
    }
}

impl<F> Drop for Scheduled<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            Line::leave(&self.line, ticket, (self.now)());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
