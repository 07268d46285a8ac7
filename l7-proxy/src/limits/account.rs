//! Keeps what one workload has of this process: connections, what waits in buffers, and how often it was refused more.
//!
//! Each thing that it has is a guard, given back when dropped. A peer (who calls it, or whom it calls) may have more than
//! half only while three quarters are not spent: so a single hostile one leaves the last quarter to the others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_model::ObjectName;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{Budget, Limit, Processor, WorkloadLimits};
use crate::handshakes::Caller;

/// Limits below this keep nothing back for others: a quarter of little is nothing.
const SHARED_FROM: u64 = 64;

/// From this part of what may wait for a workload on its windows are small, and they are large again below half of that. Until then
/// each reader that takes nothing fills a whole window: four of 4 MiB, by the limit that is usual, and not sixteen.
const TIGHT: u64 = 8;
const LARGE_AGAIN: u64 = 2 * TIGHT;

/// How long who waits for room in buffers waits before it looks by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One workload's.
#[derive(Debug)]
pub(crate) struct Account {
    /// Whose it is.
    pub(crate) workload: ObjectName,
    /// What it has of processors.
    pub(crate) processor: Processor,
    budget: Arc<Budget>,
    max_connections: AtomicUsize,
    max_pending: AtomicUsize,
    max_buffered: AtomicU64,
    weight: AtomicU32,
    connections: AtomicUsize,
    pending: AtomicUsize,
    /// Of them, those of callers that are no pods of the mesh.
    strange: AtomicUsize,
    buffered: AtomicU64,
    peers: Mutex<HashMap<Caller, Arc<OfPeer>>>,
    limited: [AtomicU64; Limit::ALL.len()],
    /// How often its work waited for its next turn.
    turns_waited: AtomicU64,
    /// Told when a place among the pending may be free again.
    freed: Notify,
    /// Told one by one as buffers are given back, while somebody waits for them.
    drained: Notify,
    n_thirsty: AtomicUsize,
    /// Whether windows are small: an eighth of what may wait does.
    tight: watch::Sender<bool>,
    is_tight: AtomicBool,
}

/// What one peer of a workload has of the workload's.
#[derive(Debug, Default)]
struct OfPeer {
    connections: AtomicUsize,
    pending: AtomicUsize,
    buffered: AtomicU64,
}

impl Account {
    pub(super) fn open(workload: ObjectName, limits: WorkloadLimits, budget: &Arc<Budget>) -> Self {
        let WorkloadLimits { max_connections, max_pending, max_buffered, weight, cpu_millis } = limits;
        budget.enter(weight);
        Self {
            workload,
            processor: Processor::new(cpu_millis),
            budget: budget.clone(),
            max_connections: max_connections.into(),
            max_pending: max_pending.into(),
            max_buffered: max_buffered.into(),
            weight: weight.into(),
            connections: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            strange: AtomicUsize::new(0),
            buffered: AtomicU64::new(0),
            peers: Mutex::default(),
            limited: Default::default(),
            turns_waited: AtomicU64::new(0),
            freed: Notify::new(),
            drained: Notify::new(),
            n_thirsty: AtomicUsize::new(0),
            tight: watch::Sender::new(false),
            is_tight: AtomicBool::new(false),
        }
    }

    pub(super) fn set(&self, limits: WorkloadLimits) {
        let WorkloadLimits { max_connections, max_pending, max_buffered, weight, cpu_millis } = limits;
        self.processor.set(cpu_millis);
        self.max_connections.store(max_connections, Ordering::Relaxed);
        self.max_pending.store(max_pending, Ordering::Relaxed);
        self.max_buffered.store(max_buffered, Ordering::Relaxed);
        self.budget.enter(weight);
        self.budget.leave(self.weight.swap(weight, Ordering::Relaxed));
        self.freed.notify_waiters();
    }

    /// One connection more, made by `caller` where that is not the workload itself.
    pub(crate) fn connect(self: &Arc<Self>, caller: Option<Caller>) -> Result<Connection, Limit> {
        let most = self.max_connections.load(Ordering::Relaxed);
        let now = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // From here on a return gives it back.
        let mut connection = Connection { account: self.clone(), peer: None };
        if now > most {
            return Err(self.limited(Limit::Connections));
        }
        let Some(caller) = caller else { return Ok(connection) };
        let peer = self.peer(caller);
        let own = peer.connections.fetch_add(1, Ordering::Relaxed) + 1;
        connection.peer = Some((caller.counted(), peer));
        if is_too_much(own as u64, now as u64, most as u64) {
            return Err(self.limited(Limit::CallerConnections));
        }
        Ok(connection)
    }

    /// One more that is being opened, by whoever made `connection`.
    pub(crate) fn begin(self: &Arc<Self>, connection: &Connection) -> Result<Pending, Limit> {
        let mut pending = self.try_begin().ok_or_else(|| self.limited(Limit::Pending))?;
        let Some((caller, peer)) = &connection.peer else { return Ok(pending) };
        let own = peer.pending.fetch_add(1, Ordering::Relaxed) + 1;
        let strange = match caller {
            Caller::Other(_) => self.strange.fetch_add(1, Ordering::Relaxed) + 1,
            Caller::Pod(_) => 0,
        };
        // From here on a return gives it back.
        pending.by = Some((*caller, peer.clone()));
        let (all, most) = (self.n_pending() as u64, self.max_pending.load(Ordering::Relaxed) as u64);
        if strange as u64 > most.div_ceil(2) || is_too_much(own as u64, all, most) {
            return Err(self.limited(Limit::CallerPending));
        }
        Ok(pending)
    }

    /// One more of the workload's own, once there is room for it.
    pub(crate) async fn begin_in_turn(self: &Arc<Self>) -> Pending {
        let mut has_waited = false;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(pending) = self.try_begin() {
                return pending;
            }
            if !std::mem::replace(&mut has_waited, true) {
                self.limited(Limit::Pending);
            }
            freed.await;
        }
    }

    fn try_begin(self: &Arc<Self>) -> Option<Pending> {
        let most = self.max_pending.load(Ordering::Relaxed);
        let one_more = |now| (now < most).then_some(now + 1);
        let taken = self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        taken.then(|| Pending { account: self.clone(), by: None })
    }

    /// What will wait in buffers for this workload and `peer`; nothing yet.
    pub(crate) fn waits(self: &Arc<Self>, peer: Caller) -> Waits {
        Waits { account: self.clone(), caller: peer.counted(), peer: self.peer(peer) }
    }

    /// Its share of a worker, or what it may have of processors, was spent while it had more to do.
    pub(crate) fn waits_for_its_turn(&self) {
        self.turns_waited.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub(crate) fn n_turns_waited(&self) -> u64 {
        self.turns_waited.load(Ordering::Relaxed)
    }

    /// Whether an eighth of what may wait for it does, or half of what may for all; told when it turns.
    pub(crate) fn tight(&self) -> watch::Receiver<bool> {
        self.tight.subscribe()
    }

    /// Its part of a busy worker's time.
    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub(super) fn n_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many of them are being opened.
    pub(super) fn n_pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many bytes wait.
    pub(crate) fn n_buffered(&self) -> u64 {
        self.buffered.load(Ordering::Relaxed)
    }

    /// How often each bound was reached.
    pub(super) fn n_limited(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().zip(self.limited.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    fn limited(&self, limit: Limit) -> Limit {
        for (each, count) in Limit::ALL.iter().zip(&self.limited) {
            if *each == limit {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        limit
    }

    fn peer(&self, caller: Caller) -> Arc<OfPeer> {
        self.peers().entry(caller.counted()).or_default().clone()
    }

    /// Forgets a peer that has nothing: whoever holds the lock and finds only the map's own reference is the last.
    fn part(&self, caller: Caller, peer: Arc<OfPeer>) {
        let mut peers = self.peers();
        drop(peer);
        if peers.get(&caller).is_some_and(|peer| Arc::strong_count(peer) == 1) {
            peers.remove(&caller);
        }
    }

    #[cfg(test)]
    pub(super) fn n_peers(&self) -> usize {
        self.peers().len()
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<Caller, Arc<OfPeer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, count: u64, peer: &OfPeer) -> Result<(), Limit> {
        let most = self.max_buffered.load(Ordering::Relaxed);
        let now = self.buffered.fetch_add(count, Ordering::Relaxed) + count;
        let own = peer.buffered.fetch_add(count, Ordering::Relaxed) + count;
        let limit = if now > most {
            Limit::Buffered
        } else if is_too_much(own, now, most) {
            Limit::PeerBuffered
        } else if self.budget.take(count, now, self.weight()) {
            if now > most / TIGHT || self.budget.is_tight() {
                self.turn(true);
            }
            return Ok(());
        } else {
            Limit::Budget
        };
        self.buffered.fetch_sub(count, Ordering::Relaxed);
        peer.buffered.fetch_sub(count, Ordering::Relaxed);
        Err(limit)
    }

    fn give(&self, count: u64, peer: &OfPeer) {
        self.budget.give(count);
        self.buffered.fetch_sub(count, Ordering::Relaxed);
        peer.buffered.fetch_sub(count, Ordering::Relaxed);
        self.relax();
        if self.n_thirsty.load(Ordering::Relaxed) > 0 {
            self.drained.notify_one();
        }
    }

    /// Windows grow again where buffers have emptied: those of the process too, which others may have done.
    pub(super) fn relax(&self) {
        if self.is_tight.load(Ordering::Relaxed)
            && self.n_buffered() <= self.max_buffered.load(Ordering::Relaxed) / LARGE_AGAIN
            && !self.budget.is_tight()
        {
            self.turn(false);
        }
    }

    fn turn(&self, is_tight: bool) {
        if self.is_tight.swap(is_tight, Ordering::Relaxed) != is_tight {
            // Read again where only one at a time can: of two that turn it at once, what the last one tells is so.
            self.tight.send_modify(|told| *told = self.is_tight.load(Ordering::Relaxed));
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.leave(self.weight());
    }
}

/// Whether a peer with `own` of `all` has what is kept for the others, where `most` may be.
fn is_too_much(own: u64, all: u64, most: u64) -> bool {
    most >= SHARED_FROM && all > most - most / 4 && own > most / 2
}

/// A connection, counted until dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    account: Arc<Account>,
    peer: Option<(Caller, Arc<OfPeer>)>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.account.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some((caller, peer)) = self.peer.take() {
            peer.connections.fetch_sub(1, Ordering::Relaxed);
            self.account.part(caller, peer);
        }
    }
}

/// A connection that is being opened, counted until dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    account: Arc<Account>,
    by: Option<(Caller, Arc<OfPeer>)>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Self { account, by } = self;
        let before = account.pending.fetch_sub(1, Ordering::Relaxed);
        // Only then can somebody wait: a notification for each connection would be a lock for each.
        if before >= account.max_pending.load(Ordering::Relaxed) {
            account.freed.notify_waiters();
        }
        if let Some((caller, peer)) = by.take() {
            peer.pending.fetch_sub(1, Ordering::Relaxed);
            if matches!(caller, Caller::Other(_)) {
                account.strange.fetch_sub(1, Ordering::Relaxed);
            }
            account.part(caller, peer);
        }
    }
}

/// Whose buffers they are, at both ends of a connection or a tunnel.
#[derive(Debug)]
pub(crate) struct Waits {
    account: Arc<Account>,
    caller: Caller,
    peer: Arc<OfPeer>,
}

impl Waits {
    /// Whose they are.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Nothing held yet, of these.
    pub(crate) fn nothing(self: &Arc<Self>) -> Charge {
        Charge { waits: self.clone(), count: 0 }
    }

    /// Whether buffers are to be kept small now.
    pub(crate) fn are_tight(&self) -> bool {
        self.account.is_tight.load(Ordering::Relaxed)
    }

    /// Whether buffers are to be kept small; told when it turns.
    pub(crate) fn tight(&self) -> watch::Receiver<bool> {
        self.account.tight()
    }

    /// So many bytes, once there is room for them.
    pub(crate) async fn charge_in_turn(self: &Arc<Self>, count: usize) -> Charge {
        let account = &self.account;
        let _thirsty = Thirsty::new(account);
        loop {
            // What made room may have been another's: what frees it for this peer need not wake this one first.
            let drained = timeout(LOOK_AGAIN, account.drained.notified());
            if let Ok(charge) = self.try_charge(count) {
                return charge;
            }
            drained.await.ok();
        }
    }

    fn try_charge(self: &Arc<Self>, count: usize) -> Result<Charge, Limit> {
        self.account.take(count as u64, &self.peer)?;
        Ok(Charge { waits: self.clone(), count: count as u64 })
    }

    /// So many bytes; the bound that forbids it is counted.
    pub(crate) fn charge(self: &Arc<Self>, count: usize) -> Result<Charge, Limit> {
        self.try_charge(count).map_err(|limit| self.account.limited(limit))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let peer = std::mem::take(&mut self.peer);
        self.account.part(self.caller, peer);
    }
}

/// One that waits for room in buffers, until dropped.
struct Thirsty<'a>(&'a Account);

impl<'a> Thirsty<'a> {
    fn new(account: &'a Account) -> Self {
        account.n_thirsty.fetch_add(1, Ordering::Relaxed);
        Self(account)
    }
}

impl Drop for Thirsty<'_> {
    fn drop(&mut self) {
        self.0.n_thirsty.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that wait, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    waits: Arc<Waits>,
    count: u64,
}

impl Charge {
    /// Holds so many more from now on; where that may not be, what was held stays held.
    pub(crate) fn raise(&mut self, by: usize) -> Result<(), Limit> {
        let Waits { account, peer, .. } = &*self.waits;
        account.take(by as u64, peer).map_err(|limit| account.limited(limit))?;
        self.count += by as u64;
        Ok(())
    }

    /// Gives so much of it back.
    pub(crate) fn lower(&mut self, by: usize) {
        let by = self.count.min(by as u64);
        if by > 0 {
            self.count -= by;
            self.waits.account.give(by, &self.waits.peer);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.lower(usize::MAX);
    }
}
