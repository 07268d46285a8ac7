//! Divides a worker's time fairly among workloads: each connection's task is polled in its workload's turn.
//!
//! Deficit round robin, in nanoseconds. A workload may run as long as its quantum lasts; then its tasks wait in a queue of
//! its own, outside the runtime's, until a new round gives all workloads their quantum again. So a workload with a thousand
//! ready connections delays another's one by a quantum and a poll, and not by a thousand polls. While nobody's quantum is
//! spent, a poll costs two looks at the clock, and no lock. A worker with nothing to do has polled everybody who was ready: then
//! a new round begins by itself, so that who is alone, or lets others come, never waits for one.

mod line;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use millrace_node::clock;
use tokio::sync::Notify;

use self::line::Line;
use crate::limits::Account;

/// The turns of one worker's workloads.
#[derive(Debug)]
pub(crate) struct Turns {
    now: fn() -> Instant,
    shared: Arc<Shared>,
    /// By the account's address, which no other has while a line holds the account.
    lines: Mutex<HashMap<usize, Weak<Line>>>,
}

/// What lines tell the worker.
#[derive(Debug, Default)]
struct Shared {
    round: AtomicU64,
    /// Tasks that were called from a queue and have not run yet.
    n_called: AtomicUsize,
    /// Lines whose quantum is spent and in which somebody waits.
    waiting: Mutex<Vec<Arc<Line>>>,
    somebody_waits: Notify,
}

impl Default for Turns {
    fn default() -> Self {
        Self::by_clock(clock::now)
    }
}

impl Turns {
    pub(crate) fn by_clock(now: fn() -> Instant) -> Self {
        Self { now, shared: Arc::default(), lines: Mutex::default() }
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

    /// Begins a new round whenever somebody waits for one. It belongs into the worker's loop, beside what it schedules.
    #[expect(clippy::infinite_loop, reason = "it ends with the loop that it runs beside")]
    pub(crate) async fn pace(&self) {
        loop {
            self.shared.somebody_waits.notified().await;
            loop {
                // Comes back once everything that is ready was polled, or has had sixty polls; events are looked for then.
                tokio::task::yield_now().await;
                // A round ends when every queue has had its quantum: who has the larger share must not lose it to haste.
                if self.shared.n_called.load(Ordering::Relaxed) > 0 {
                    continue;
                }
                let waiting = std::mem::take(&mut *self.shared.waiting());
                if waiting.is_empty() {
                    break;
                }
                self.shared.round.fetch_add(1, Ordering::Relaxed);
                waiting.iter().for_each(Line::turn);
            }
        }
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
        if !line.may_run(ticket, cx.waker()) {
            return Poll::Pending;
        }
        let began = now();
        let polled = life.as_mut().poll(cx);
        Line::ran(line, now().saturating_duration_since(began));
        polled
    }
}

impl<F> Drop for Scheduled<F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            Line::leave(&self.line, ticket);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
