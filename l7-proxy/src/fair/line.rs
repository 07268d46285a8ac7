//! Queues the tasks of one workload on one worker.
//!
//! One thread polls them all, so what a poll that need not wait reads and writes are plain loads and stores of atomics that nobody else
//! touches: it takes no lock. The lock is that of the queue, and is taken while somebody waits in it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use millrace_node::clock;

use super::Shared;
use crate::limits::Account;

/// What a round gives for each unit of weight: 200 microseconds at the usual weight of 100. A new round costs about two, and
/// two workloads that are both busy wait for each other no longer than this and a poll.
const QUANTUM_NS: i64 = 2_000;

/// The most that one poll is charged, in quanta: the clock runs also while another process has the core.
const MOST: i64 = 8;

/// Processor time from which on it is told to the account, which all workers write to: a few polls.
const TELL_FROM: u64 = 50_000;

/// One workload's queue on one worker.
#[derive(Debug)]
pub(super) struct Line {
    account: Arc<Account>,
    shared: Arc<Shared>,
    /// The round that `left` is of.
    round: AtomicU64,
    /// Nanoseconds of its quantum; below zero what the last poll took too much.
    left: AtomicI64,
    /// Nanoseconds of processor time that the account was not told yet.
    untold: AtomicU64,
    /// Whether somebody waits in the queue, or was called from it and has not run yet.
    is_queued: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, in order.
    waiting: BTreeMap<u64, Waker>,
    /// The ticket that may run now.
    called: Option<u64>,
    next: u64,
    /// True where the worker knows that somebody waits.
    is_told: bool,
}

impl Line {
    pub(super) fn new(account: Arc<Account>, shared: Arc<Shared>) -> Self {
        let (left, round) = (quantum(&account).into(), shared.round().into());
        let (untold, is_queued) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { account, shared, round, left, untold, is_queued, queue: Mutex::default() }
    }

    /// Whether the task may run. If not it has a ticket, and is woken when that is called.
    pub(super) fn may_run(self: &Arc<Self>, ticket: &mut Option<u64>, now: Instant, waker: &Waker) -> bool {
        if ticket.is_none() {
            self.refill();
            let has_its_turn = self.left.load(Ordering::Relaxed) > 0 && !self.is_queued.load(Ordering::Relaxed);
            if has_its_turn && self.waits(now).is_none() {
                return true;
            }
        }
        let mut queue = self.lock();
        match ticket {
            None => {
                let mine = queue.next;
                queue.next += 1;
                queue.waiting.insert(mine, waker.clone());
                *ticket = Some(mine);
                self.account.waits_for_its_turn();
                self.is_queued.store(true, Ordering::Relaxed);
                self.tell(&mut queue, now);
                false
            }
            Some(mine) if queue.called == Some(*mine) => {
                self.is_gone(&mut queue);
                *ticket = None;
                true
            }
            Some(mine) => {
                // Woken by what it waits for itself: it keeps its place.
                if let Some(kept) = queue.waiting.get_mut(mine) {
                    kept.clone_from(waker);
                }
                false
            }
        }
    }

    /// A task ran from then to now: the next in the queue may run while the quantum lasts.
    pub(super) fn ran(this: &Arc<Self>, began: Instant, now: Instant) {
        let elapsed = now.saturating_duration_since(began);
        this.used(this.shared.meter.of(elapsed), now);
        let most = quantum(&this.account).saturating_mul(MOST);
        let spent = i64::try_from(elapsed.as_nanos()).unwrap_or(most).min(most);
        this.left.store(this.left.load(Ordering::Relaxed) - spent, Ordering::Relaxed);
        if this.is_queued.load(Ordering::Relaxed) {
            this.go_on(&mut this.lock(), now);
        }
    }

    /// A new round, or the end of being held back.
    pub(super) fn turn(this: &Arc<Self>, now: Instant) {
        let mut queue = this.lock();
        queue.is_told = false;
        this.refill();
        this.go_on(&mut queue, now);
    }

    /// How long the workload has to wait for processor time; None where it need not.
    pub(super) fn waits(&self, now: Instant) -> Option<Duration> {
        self.account.processor.waits(now)
    }

    /// It was held back so long.
    pub(super) fn was_held(&self, time: Duration) {
        self.account.processor.has_waited(time);
    }

    /// A task that had a ticket is gone.
    pub(super) fn leave(this: &Arc<Self>, ticket: u64, now: Instant) {
        let mut queue = this.lock();
        if queue.called == Some(ticket) {
            this.is_gone(&mut queue);
        } else {
            queue.waiting.remove(&ticket);
        }
        this.go_on(&mut queue, now);
    }

    fn used(&self, nanos: u64, now: Instant) {
        let untold = self.untold.load(Ordering::Relaxed).saturating_add(nanos);
        let is_told = untold >= TELL_FROM;
        if is_told {
            self.account.processor.charge(now, Duration::from_nanos(untold));
        }
        self.untold.store(if is_told { 0 } else { untold }, Ordering::Relaxed);
    }

    /// Who was called runs, or will never.
    fn is_gone(&self, queue: &mut Queue) {
        queue.called = None;
        self.shared.n_called.fetch_sub(1, Ordering::Relaxed);
        self.is_queued.store(!queue.waiting.is_empty(), Ordering::Relaxed);
    }

    /// Calls the next where there is one: now, in the next round, or when the workload may have more.
    fn go_on(self: &Arc<Self>, queue: &mut Queue, now: Instant) {
        if queue.called.is_some() {
            return;
        }
        if queue.waiting.is_empty() {
            self.is_queued.store(false, Ordering::Relaxed);
        } else if self.left.load(Ordering::Relaxed) <= 0 || self.waits(now).is_some() {
            self.tell(queue, now);
        } else if let Some((ticket, waker)) = queue.waiting.pop_first() {
            queue.called = Some(ticket);
            self.shared.n_called.fetch_add(1, Ordering::Relaxed);
            waker.wake();
        }
    }

    fn tell(self: &Arc<Self>, queue: &mut Queue, now: Instant) {
        if !queue.is_told && queue.called.is_none() {
            queue.is_told = true;
            if self.waits(now).is_some() {
                self.shared.hold(self, now);
            } else {
                self.shared.waiting().push(self.clone());
            }
            self.shared.somebody_waits.notify_one();
        }
    }

    /// A quantum for each round since the last look, and never more than one in hand: who was idle has no claim on the past.
    fn refill(&self) {
        let round = self.shared.round();
        let before = self.round.load(Ordering::Relaxed);
        if round == before {
            return;
        }
        let rounds = i64::try_from(round.saturating_sub(before)).unwrap_or(i64::MAX);
        let quantum = quantum(&self.account);
        let left = self.left.load(Ordering::Relaxed).saturating_add(quantum.saturating_mul(rounds)).min(quantum);
        self.left.store(left, Ordering::Relaxed);
        self.round.store(round, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let untold = Duration::from_nanos(self.untold.load(Ordering::Relaxed));
        self.account.processor.charge(clock::now(), untold);
    }
}

fn quantum(account: &Account) -> i64 {
    QUANTUM_NS.saturating_mul(account.weight().max(1).into())
}
