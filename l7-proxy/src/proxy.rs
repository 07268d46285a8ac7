//! Holds what all connections of the proxy share. Built once; what changes in it is a watched value or has its own small lock.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use millrace_model::Mesh;
use millrace_node::{drain::Drain, wire::node::InForce};
use tokio::sync::{mpsc, watch};

use crate::{
    descriptors::Descriptors,
    fault::Why,
    handshakes::Handshakes,
    http::{Budgets, Requests},
    judged::Judged,
    keys::Keys,
    limits::{Accounts, Budget},
    maps::SocketMaps,
    metrics::Metrics,
    outliers::{Outcome, Outliers},
    pace::Pace,
    record::Denial,
    stock::Stock,
    tuning,
};

/// Denials that wait to be told to the agent; more are counted and dropped: a flood of them must cost nobody memory.
pub(crate) const DENIALS: usize = 1024;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Who may call whom, and where they are.
    pub(crate) mesh: watch::Receiver<Arc<Mesh>>,
    /// When that may refuse what it allowed.
    pub(crate) judged: Judged,
    /// This node's keys.
    pub(crate) keys: Keys,
    /// Unconnected sockets in the pods' namespaces.
    pub(crate) stock: Stock,
    /// What is left of the descriptors' limit.
    pub(crate) descriptors: Descriptors,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// What the agent is told of refusals.
    pub(crate) denials: mpsc::Sender<Denial>,
    /// Endpoints that fail.
    pub(crate) outliers: Outliers,
    /// Whether the process is ending.
    pub(crate) drain: Drain,
    /// TLS handshakes under way.
    pub(crate) handshakes: Handshakes,
    /// What each workload of this node has of its limits.
    pub(crate) accounts: Arc<Accounts>,
    /// How often each refusal is told.
    pub(crate) pace: Pace,
    /// Connections open to each endpoint.
    pub(crate) outstanding: Outstanding,
    /// How it is tuned.
    pub(crate) tuning: tuning::Held,
    /// What is recorded of requests.
    pub(crate) requests: Arc<Requests>,
    /// What services were sent again.
    pub(crate) retries: Budgets,
    welcome: Mutex<Option<Welcome>>,
    missing: watch::Sender<Vec<String>>,
}

/// What must have come once before the proxy can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The agent's Welcome.
    Agent,
    /// A snapshot.
    Snapshot,
}

impl Missing {
    fn sentence(self) -> &'static str {
        match self {
            Self::Agent => "the agent has not welcomed this proxy yet",
            Self::Snapshot => "no snapshot has come yet",
        }
    }
}

/// What the agent said and passed when this proxy registered.
#[derive(Clone, Debug)]
pub(crate) struct Welcome {
    /// The node's name.
    pub(crate) node: Arc<str>,
    /// Socket storage.
    pub(crate) maps: Arc<dyn SocketMaps>,
}

impl Proxy {
    pub(crate) fn new(
        mesh: watch::Receiver<Arc<Mesh>>,
        stock: Stock,
        (denials, outcomes): (mpsc::Sender<Denial>, mpsc::Sender<Outcome>),
        drain: Drain,
        tuning: tuning::Held,
    ) -> Self {
        let (descriptors, metrics) = (stock.descriptors().clone(), stock.metrics().clone());
        let outliers = Outliers::new(outcomes, metrics.clone());
        let accounts = Accounts::of_process(Budget::of_machine(), descriptors.limit());
        Self {
            mesh,
            judged: Judged::default(),
            keys: Keys::default(),
            stock,
            descriptors,
            metrics,
            denials,
            outliers,
            drain,
            handshakes: Handshakes::default(),
            accounts: Arc::new(accounts),
            pace: Pace::default(),
            outstanding: Outstanding::default(),
            tuning,
            requests: Arc::default(),
            retries: Budgets::default(),
            welcome: Mutex::default(),
            missing: watch::Sender::new([Missing::Agent, Missing::Snapshot].map(|m| m.sentence().to_owned()).to_vec()),
        }
    }

    /// How this proxy is tuned, and what workloads may take of it, by the NodeProfile's fields.
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let mut rows = self.tuning.now().in_force();
        rows.extend(self.accounts.in_force());
        rows
    }

    /// The mesh as it is now: borrow it once for a connection, and ask nothing newer until it ends or is revoked.
    pub(crate) fn current(&self) -> Arc<Mesh> {
        self.mesh.borrow().clone()
    }

    /// Why the proxy is not ready, a sentence each. What has come once stays: an agent that is away makes it no less ready.
    pub(crate) fn readiness(&self) -> watch::Receiver<Vec<String>> {
        self.missing.subscribe()
    }

    /// Notes that something has come.
    pub(crate) fn ready(&self, what: Missing) {
        self.missing.send_modify(|missing| missing.retain(|sentence| sentence != what.sentence()));
    }

    /// Serves by what a new agent said.
    pub(crate) fn welcomed(&self, welcome: Welcome) {
        *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(welcome);
    }

    /// What the agent said; a listener is never here before that.
    pub(crate) fn welcome(&self) -> Result<Welcome, Why> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Why::OriginalUnreadable)
    }
}

/// How many connections are open to each endpoint. Entries go with their last connection.
#[derive(Debug, Default)]
pub(crate) struct Outstanding(Mutex<HashMap<SocketAddr, usize>>);

impl Outstanding {
    /// How many are open to each of these.
    pub(crate) fn of(&self, endpoints: [SocketAddr; 2]) -> [usize; 2] {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.map(|endpoint| counts.get(&endpoint).copied().unwrap_or(0))
    }

    /// Counts one more until the result is dropped.
    pub(crate) fn open(&self, endpoint: SocketAddr) -> Open<'_> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(endpoint).or_default() += 1;
        Open { outstanding: self, endpoint }
    }
}

/// One connection to an endpoint, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Open<'o> {
    outstanding: &'o Outstanding,
    endpoint: SocketAddr,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut counts = self.outstanding.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.endpoint);
            }
        }
    }
}
