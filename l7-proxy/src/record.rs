//! Writes the one wide event of each proxied connection at its end, counts it, and tells the agent of a refusal.
//!
//! A Record is begun when the connection is accepted and speaks when it is dropped, so that a panic is recorded too.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use millrace_model::{Identity, Workload};
use millrace_node::clock;

use crate::{
    copy::Carried,
    fault::{Side, Why},
    metrics::Direction,
    proxy::Proxy,
};

/// A refusal, as the agent's flow records show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) reason: &'static str,
    pub(crate) policy: String,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Party {
    /// Its pod.
    pub(crate) workload: Option<String>,
    /// Who it is.
    pub(crate) identity: Option<String>,
    /// Its address.
    pub(crate) address: Option<SocketAddr>,
}

impl Party {
    /// What the snapshot says of a workload, and the address in use.
    pub(crate) fn of(workload: &Workload, address: SocketAddr) -> Self {
        Self {
            workload: Some(workload.name.to_string()),
            identity: Some(workload.identity.to_string()),
            address: Some(address),
        }
    }

    /// Somebody with a certificate.
    pub(crate) fn named(identity: &Identity, address: SocketAddr) -> Self {
        Self { workload: None, identity: Some(identity.to_string()), address: Some(address) }
    }

    /// Somebody of whom only the address is known.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { workload: None, identity: None, address: Some(address) }
    }

    fn name(&self) -> String {
        let address = || self.address.map(|address| address.to_string());
        self.workload.clone().or_else(|| self.identity.clone()).or_else(address).unwrap_or_default()
    }
}

/// Whether bytes could flow yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Carrying,
}

/// What is known of a connection so far.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) source: Party,
    pub(crate) target: Party,
    /// What the application asked for, where that is not the target.
    pub(crate) asked: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub(crate) attempts: u32,
    /// Bytes so far.
    pub(crate) carried: Arc<Carried>,
    proxy: Arc<Proxy>,
    direction: Direction,
    began: Instant,
    stage: Stage,
    outcome: Result<(), Why>,
}

impl Record {
    /// Begins with a connection from `source`.
    pub(crate) fn begin(proxy: Arc<Proxy>, direction: Direction, source: Party) -> Self {
        proxy.metrics.opened(direction);
        Self {
            source,
            target: Party::default(),
            asked: None,
            attempts: 0,
            carried: Arc::default(),
            proxy,
            direction,
            began: clock::now(),
            stage: Stage::Opening,
            outcome: Err(Why::Aborted),
        }
    }

    /// From here on bytes can flow.
    pub(crate) fn carrying(&mut self) {
        self.stage = Stage::Carrying;
    }

    /// Ends it.
    pub(crate) fn end(mut self, outcome: Result<(), Why>) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Self { source, target, asked, attempts, carried, proxy, direction, began, stage, outcome } = self;
        // Its task was dropped before it could say how it ended.
        let was_cut = *outcome == Err(Why::Aborted) && !std::thread::panicking();
        if was_cut && proxy.drain.deadline().is_some() {
            *outcome = Err(Why::Drained);
        }
        let (sent, received) = (carried.sent.load(Ordering::Relaxed), carried.received.load(Ordering::Relaxed));
        let (name, side, policy) = match &outcome {
            Ok(()) => ("closed", None, None),
            Err(why) => (why.name(), Some(why.side()), why.policy()),
        };
        match stage {
            Stage::Opening => proxy.metrics.refused(*direction, name),
            Stage::Carrying => proxy.metrics.closed(*direction, name),
        }
        proxy.metrics.carried(*direction, sent, received);
        let duration = clock::now().saturating_duration_since(*began);
        let told = match stage {
            Stage::Opening if outcome.is_err() => proxy.pace.admits(name),
            Stage::Opening | Stage::Carrying => Some(0),
        };
        if told.is_none() {
            proxy.metrics.events_untold.inc();
        }
        if let Some(n_untold) = told {
            tracing::info!(
                target: "connection",
                direction = direction.name(),
                outcome = name,
                side = side.map(Side::name),
                policy,
                source_workload = source.workload,
                source_identity = source.identity,
                source_address = source.address.map(tracing::field::display),
                target_workload = target.workload,
                target_identity = target.identity,
                target_address = target.address.map(tracing::field::display),
                asked = asked.map(tracing::field::display),
                attempts = (*attempts > 1).then_some(*attempts),
                bytes_sent = sent,
                bytes_received = received,
                duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                untold = (n_untold > 0).then_some(n_untold),
                "connection ended"
            );
        }
        if let Err(why) = outcome
            && why.is_denial()
        {
            // As the kernel's own flow records have it: `ip:port`, and a name only where no address is known yet.
            let target = target.address.map_or_else(|| target.name(), |address| address.to_string());
            let denial = Denial { source: source.name(), target, reason: name, policy: policy.unwrap_or_default() };
            if proxy.denials.try_send(denial).is_err() {
                proxy.metrics.denials_dropped.inc();
            }
        }
    }
}
