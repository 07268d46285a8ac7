//! Bounds what one workload may take of the shared proxy, and what the process holds for all together.
//!
//! Every workload of this node has an [`Account`]: connections, those of them still being opened, and bytes that wait in
//! buffers. What is over a bound is refused by name ([`Limit`]) or waits, and is counted by workload. All accounts draw on
//! one [`Budget`] of bytes; its second half is divided by weight, so that none can spend all of it.

mod account;
mod budget;
mod processor;
mod seen;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_model::{ObjectName, profile::cpu_quantity};
use millrace_node::wire::{mesh, node::InForce};

pub(crate) use account::{Account, Charge, Connection, Pending, Waits};
pub(crate) use budget::Budget;
pub(crate) use processor::Processor;

use crate::home::Pod;

/// What one workload may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadLimits {
    /// Connections open at once: captured ones, plain ones, tunnels, and streams in those that arrive.
    pub(crate) max_connections: usize,
    /// Of these, those whose target is not reached yet: a handshake, a policy, a dial. What an application of the pod
    /// connects beyond it waits in the listener's backlog; what comes from elsewhere is refused.
    pub(crate) max_pending: usize,
    /// Bytes that wait in this process because somebody reads too slowly. A quarter of the whole budget at most.
    pub(crate) max_buffered: u64,
    /// Its part, against the others', of time on a busy worker and of the budget's second half.
    pub(crate) weight: u32,
    /// Thousandths of a processor that its work may take at most, over all workers; None: as much as there is.
    pub(crate) cpu_millis: Option<u32>,
}

impl Default for WorkloadLimits {
    fn default() -> Self {
        Self { max_connections: 10_000, max_pending: 1024, max_buffered: 128 << 20, weight: 100, cpu_millis: None }
    }
}

impl WorkloadLimits {
    /// These, but for what a NodeProfile asks. That was checked when it was written, and is bounded here again.
    fn asked(self, asked: Option<mesh::WorkloadLimits>) -> Self {
        let mesh::WorkloadLimits {
            max_connections,
            max_pending_connections,
            max_buffered_bytes,
            share_weight,
            cpu_millis,
        } = asked.unwrap_or_default();
        let count = |asked: Option<u32>, own| asked.map_or(own, |n| usize::try_from(n).unwrap_or(usize::MAX).max(1));
        Self {
            max_connections: count(max_connections, self.max_connections),
            max_pending: count(max_pending_connections, self.max_pending),
            max_buffered: max_buffered_bytes.map_or(self.max_buffered, |bytes| bytes.max(LEAST_BUFFERED)),
            weight: share_weight.unwrap_or(self.weight).clamp(1, MAX_WEIGHT),
            cpu_millis: cpu_millis.map(|millis| millis.max(LEAST_CPU_MILLIS)).or(self.cpu_millis),
        }
    }

    /// By how many descriptors the process may have: half of them, at two to a connection.
    fn of_descriptors(limit: u64) -> Self {
        let quarter = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        Self { max_connections: quarter.max(LEAST_CONNECTIONS), ..Self::default() }
    }
}

/// The least that one workload may have: descriptors run out before, where there are so few.
const LEAST_CONNECTIONS: usize = 1024;

/// The least that may wait for one: a tunnel, and a stream's smallest window.
const LEAST_BUFFERED: u64 = 65_536;

/// The least of a processor that one may be held to: a handshake, which is half a millisecond, every twentieth of a second.
const LEAST_CPU_MILLIS: u32 = 10;

/// The largest weight: a hundred times the usual share.
pub(crate) const MAX_WEIGHT: u32 = 10_000;

/// The limits in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of each workload.
    pub(crate) each: WorkloadLimits,
    /// Of some, in place of those.
    pub(crate) of: BTreeMap<ObjectName, WorkloadLimits>,
}

impl Limits {
    fn of(&self, workload: &ObjectName) -> WorkloadLimits {
        let limits = self.of.get(workload).copied().unwrap_or(self.each);
        WorkloadLimits { weight: limits.weight.clamp(1, MAX_WEIGHT), ..limits }
    }
}

/// A bound that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// The workload has as many connections as it may.
    Connections,
    /// One caller has more than half of them, and the last quarter is kept for others.
    CallerConnections,
    /// As many of the workload's connections as may be are being opened.
    Pending,
    /// Half of them are of callers outside the mesh; or one caller has more than half, and the last quarter is kept for others.
    CallerPending,
    /// As many bytes wait for the workload as may.
    Buffered,
    /// More than half of them wait for one peer, and the last quarter is kept for others.
    PeerBuffered,
    /// The process holds as many bytes as it may.
    Budget,
}

impl Limit {
    /// Every one, in the order in which they are counted.
    pub(crate) const ALL: [Self; 7] = [
        Self::Connections,
        Self::CallerConnections,
        Self::Pending,
        Self::CallerPending,
        Self::Buffered,
        Self::PeerBuffered,
        Self::Budget,
    ];

    /// Its one name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "workload_connections",
            Self::CallerConnections => "caller_connections",
            Self::Pending => "workload_pending",
            Self::CallerPending => "caller_pending",
            Self::Buffered => "workload_buffers",
            Self::PeerBuffered => "peer_buffers",
            Self::Budget => "buffers",
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Limit {}

/// Every workload's account.
#[derive(Debug)]
pub(crate) struct Accounts {
    budget: Arc<Budget>,
    /// What each may have where nobody asks for anything.
    own: WorkloadLimits,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    limits: Limits,
    open: HashMap<Pod, Arc<Account>>,
}

impl Accounts {
    #[cfg(test)]
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget: Arc::new(budget), own: WorkloadLimits::default(), inside: Mutex::default() }
    }

    /// None yet; what each may have is by what this process may.
    pub(crate) fn of_process(budget: Budget, n_descriptors: u64) -> Self {
        let own = WorkloadLimits::of_descriptors(n_descriptors);
        let inside = Inside { limits: Limits { each: own, ..Limits::default() }, ..Inside::default() };
        Self { budget: Arc::new(budget), own, inside: Mutex::new(inside) }
    }

    /// The account of a pod; opened where there is none.
    pub(crate) fn of(&self, pod: &Pod) -> Arc<Account> {
        let mut inside = self.lock();
        let Inside { limits, open } = &mut *inside;
        let new = || Arc::new(Account::open(pod.name.clone(), limits.of(&pod.name), &self.budget));
        open.entry(pod.clone()).or_insert_with(new).clone()
    }

    /// Forgets a pod that is gone: its connections, which end with it, keep the account until then.
    pub(crate) fn close(&self, pod: &Pod) {
        self.lock().open.remove(pod);
    }

    /// Puts in force what a NodeProfile asks for each workload, over what this process has by itself.
    pub(crate) fn tune(&self, asked: Option<mesh::WorkloadLimits>) {
        let limits = Limits { each: self.own.asked(asked), ..Limits::default() };
        if limits != self.limits() {
            tracing::info!(?limits, "limits of workloads are set anew");
            self.set(limits);
        }
    }

    /// What is in force, by the NodeProfile's fields.
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let WorkloadLimits { max_connections, max_pending, max_buffered, weight, cpu_millis } = self.limits().each;
        let said = |field: &str, value| InForce { field: format!("spec.workloadLimits.{field}"), value };
        let row = |field: &str, value: u64| said(field, value.to_string());
        vec![
            row("maxConnections", max_connections as u64),
            row("maxPendingConnections", max_pending as u64),
            row("maxBufferedBytes", max_buffered),
            row("shareWeight", weight.into()),
            said("cpu", cpu_millis.map_or_else(|| "no limit".to_owned(), cpu_quantity)),
        ]
    }

    /// Puts other limits in force, at once and for what is open too: what is over them gets no more, and is not cut.
    pub(crate) fn set(&self, limits: Limits) {
        let mut inside = self.lock();
        for account in inside.open.values() {
            account.set(limits.of(&account.workload));
        }
        inside.limits = limits;
    }

    /// Lets windows grow again that were small for the sake of all: who sends nothing gives nothing back, and would not notice.
    pub(crate) fn relax(&self) {
        self.lock().open.values().for_each(|account| account.relax());
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        self.lock().limits.clone()
    }

    /// What all hold together.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    fn all(&self) -> Vec<Arc<Account>> {
        let mut all: Vec<_> = self.lock().open.values().cloned().collect();
        all.sort_by(|a, b| a.workload.cmp(&b.workload));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
