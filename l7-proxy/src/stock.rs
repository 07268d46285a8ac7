//! Keeps unconnected, exempt sockets of each pod's namespace, which only the agent can make, and asks for more before they run out.
//!
//! Sized by recent use: two seconds of the busiest second of the last minute. A taker waits for a bounded time.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use millrace_node::{clock, handover::MAX_DESCRIPTORS};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::timeout,
};

use crate::{
    descriptors::{Descriptors, Held},
    fault::Why,
    home::Pod,
    metrics::Metrics,
};

/// Sockets kept for a pod that is not used: for a probe and a first client. 250 dual-stack pods have 2,000 of them.
const FLOOR: usize = 4;

/// The most kept for one pod and family: two seconds at 2,000 connections/s. Above that a taker may wait for the agent.
const CEILING: usize = 4096;

/// Of the descriptors that connections have left, one in this many may be in one pod's stock: a stock is for connections to come,
/// and must not be what there is no room for them because of.
const SHARE: usize = 8;

/// How much of the peak second's use is kept: the agent may be away for this many seconds before anybody waits.
const SECONDS_KEPT: usize = 2;

/// How many seconds the peak is remembered for: a roll-out's or a cron job's rhythm is a minute.
const PEAK_SECONDS: usize = 60;

/// How long a taker waits when the shelf is empty: an agent's restart takes less, a client's own timeout more.
const PATIENCE: Duration = Duration::from_secs(5);

/// After this an unanswered request counts as lost: the agent answers in well under a millisecond.
const ANSWER: Duration = Duration::from_secs(1);

/// Requests that wait for the agent's socket. One over it is asked again by the next taker.
pub(crate) const WANTS: usize = 1024;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; a v4-mapped one is IPv4.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A request to the agent for sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) pod: Pod,
    pub(crate) family: Family,
    pub(crate) count: usize,
}

/// An unconnected socket, and the right to have it open.
#[derive(Debug)]
pub(crate) struct Unconnected {
    pub(crate) socket: OwnedFd,
    pub(crate) held: Held,
}

/// Every pod's shelves.
#[derive(Debug)]
pub(crate) struct Stock {
    shelves: Mutex<Shelves>,
    wants: mpsc::Sender<Want>,
    descriptors: Descriptors,
    metrics: Arc<Metrics>,
}

/// By pod and family.
type Shelves = HashMap<(Pod, Family), Arc<Shelf>>;

#[derive(Debug)]
struct Shelf {
    pod: Pod,
    family: Family,
    /// One permit for each socket: what a taker waits on.
    ready: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sockets: VecDeque<Unconnected>,
    asked: usize,
    asked_at: Option<Instant>,
    use_: Use,
}

impl Stock {
    pub(crate) fn new(wants: mpsc::Sender<Want>, descriptors: Descriptors, metrics: Arc<Metrics>) -> Self {
        Self { shelves: Mutex::default(), wants, descriptors, metrics }
    }

    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A socket of `pod`'s namespace; waits for one for as long as a client may be made to.
    pub(crate) async fn take(&self, pod: &Pod, family: Family) -> Result<Unconnected, Why> {
        let shelf = self.lock().get(&(pod.clone(), family)).cloned().ok_or(Why::Gone)?;
        let at_once = shelf.ready.try_acquire().map(SemaphorePermit::forget).is_ok();
        self.restock(&shelf, clock::now(), 1);
        if !at_once {
            // Nobody else's socket becomes this one's within the time that a client waits.
            if self.descriptors.left() == 0 {
                self.metrics.stock_taken("empty");
                return Err(Why::NoDescriptor);
            }
            let waited = timeout(PATIENCE, self.wait(&shelf)).await;
            waited.unwrap_or(Err(Why::NoSocket)).inspect_err(|_| self.metrics.stock_taken("empty"))?;
        }
        let socket = shelf.lock().sockets.pop_front().ok_or(Why::NoSocket)?;
        self.metrics.stock_sockets.dec();
        self.shed(&shelf);
        self.metrics.stock_taken(if at_once { "at_once" } else { "waited" });
        Ok(socket)
    }

    /// Waits for a socket in turn, and asks again where the agent had none to give or never heard.
    async fn wait(&self, shelf: &Shelf) -> Result<(), Why> {
        let ready = shelf.ready.acquire();
        tokio::pin!(ready);
        loop {
            match timeout(ANSWER, &mut ready).await {
                Ok(Ok(permit)) => {
                    permit.forget();
                    return Ok(());
                }
                Ok(Err(_closed)) => return Err(Why::Gone),
                Err(_elapsed) => self.restock(shelf, clock::now(), 0),
            }
        }
    }

    /// Puts what the agent sent on the shelf; nothing means that it had none to give. More than the descriptors' limit lets be open are closed again, and so is
    /// what was asked for a pod that is gone by now: it would keep the namespace alive.
    pub(crate) fn put(&self, pod: &Pod, family: Family, sockets: Vec<OwnedFd>) {
        let Some(shelf) = self.lock().get(&(pod.clone(), family)).cloned() else { return };
        let mut state = shelf.lock();
        state.asked = if sockets.is_empty() { 0 } else { state.asked.saturating_sub(sockets.len()) };
        for socket in sockets {
            let Some(held) = self.descriptors.take(1) else { continue };
            state.sockets.push_back(Unconnected { socket, held });
            self.metrics.stock_sockets.inc();
            shelf.ready.add_permits(1);
        }
    }

    /// Makes a shelf for a pod whose listeners have come, and asks for a first stock.
    pub(crate) fn open(&self, pod: &Pod, family: Family) {
        let new = || Arc::new(Shelf::new(pod.clone(), family));
        let shelf = self.lock().entry((pod.clone(), family)).or_insert_with(new).clone();
        self.restock(&shelf, clock::now(), 0);
    }

    /// Closes what is kept for a pod that is gone; who waits for a socket of it stops waiting.
    pub(crate) fn close(&self, pod: &Pod) {
        for family in [Family::V4, Family::V6] {
            let Some(shelf) = self.lock().remove(&(pod.clone(), family)) else { continue };
            shelf.ready.close();
            let kept = std::mem::take(&mut shelf.lock().sockets);
            self.metrics.stock_sockets.dec_by(i64::try_from(kept.len()).unwrap_or(i64::MAX));
        }
    }

    /// A new agent knows nothing of what the last one was asked for: asks again for what is missing.
    pub(crate) fn ask_again(&self) {
        for shelf in self.all() {
            shelf.lock().asked = 0;
            self.restock(&shelf, clock::now(), 0);
        }
    }

    /// Closes what a burst left over, once it is a minute old.
    pub(crate) fn trim(&self, now: Instant) {
        for shelf in self.all() {
            shelf.lock().use_.note(now, 0);
            while self.shed(&shelf) {}
        }
    }

    /// Closes a socket that the shelf has too many of, now that others need the descriptors; false where it has none.
    fn shed(&self, shelf: &Shelf) -> bool {
        let mut state = shelf.lock();
        if state.sockets.len() <= state.wanted(self.descriptors.left()) {
            return false;
        }
        // A permit stands for each socket that nobody is about to take.
        let Ok(permit) = shelf.ready.try_acquire() else { return false };
        permit.forget();
        drop(state.sockets.pop_front());
        self.metrics.stock_sockets.dec();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Shelf>> {
        self.lock().values().cloned().collect()
    }

    /// Notes `taken` more, and asks the agent for what then is missing.
    fn restock(&self, shelf: &Shelf, now: Instant, taken: usize) {
        let mut left = {
            let mut state = shelf.lock();
            state.use_.note(now, taken);
            let missing = state.missing(now, self.descriptors.left());
            if missing > 0 {
                state.asked += missing;
                state.asked_at = Some(now);
            }
            missing
        };
        while left > 0 {
            let count = left.min(MAX_DESCRIPTORS);
            if self.wants.try_send(Want { pod: shelf.pod.clone(), family: shelf.family, count }).is_err() {
                let mut state = shelf.lock();
                state.asked = state.asked.saturating_sub(left);
                return;
            }
            left -= count;
        }
    }
}

impl Shelf {
    fn new(pod: Pod, family: Family) -> Self {
        let state = State { sockets: VecDeque::new(), asked: 0, asked_at: None, use_: Use::default() };
        Self { pod, family, ready: Semaphore::new(0), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wanted(&self, descriptors_left: usize) -> usize {
        // What it has is not among those left: a stock that is as it should be would want fewer the moment it is.
        let room = (descriptors_left + self.sockets.len()) / SHARE;
        self.use_.peak().saturating_mul(SECONDS_KEPT).min(room).clamp(FLOOR, CEILING)
    }

    /// How many to ask for now. Waits until a quarter is gone, so that a busy pod asks in batches.
    fn missing(&mut self, now: Instant, descriptors_left: usize) -> usize {
        if self.asked_at.is_some_and(|at| now.saturating_duration_since(at) >= ANSWER) {
            self.asked = 0;
        }
        let wanted = self.wanted(descriptors_left);
        let have = self.sockets.len() + self.asked;
        if have > wanted - wanted / 4 { 0 } else { wanted - have }
    }
}

/// How many were taken in each of the last seconds.
#[derive(Debug)]
struct Use {
    since: Option<Instant>,
    second: u64,
    counts: [u32; PEAK_SECONDS],
}

impl Default for Use {
    fn default() -> Self {
        Self { since: None, second: 0, counts: [0; PEAK_SECONDS] }
    }
}

impl Use {
    fn note(&mut self, now: Instant, taken: usize) {
        let since = *self.since.get_or_insert(now);
        let second = now.saturating_duration_since(since).as_secs();
        // Seconds in which nothing was taken were quiet ones; after a whole round all were.
        for quiet in (self.second + 1..=second).take(PEAK_SECONDS) {
            self.count(quiet, |count| *count = 0);
        }
        self.second = second;
        self.count(second, |count| *count = count.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX)));
    }

    fn count(&mut self, second: u64, change: impl FnOnce(&mut u32)) {
        let index = usize::try_from(second % PEAK_SECONDS as u64).unwrap_or(0);
        if let Some(count) = self.counts.get_mut(index) {
            change(count);
        }
    }

    fn peak(&self) -> usize {
        self.counts.iter().max().map_or(0, |peak| usize::try_from(*peak).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests;
