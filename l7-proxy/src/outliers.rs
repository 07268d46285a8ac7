//! Leaves out the endpoints of other nodes to which connections fail: by the agent's own decision, from what this process met.
//!
//! The agent is told of each failure too, and takes the endpoint out of the kernel's tables for everybody; while it is away, this
//! is all there is.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use millrace_model::{
    Ejected, Mesh, Outliers as Said,
    outlier::{Cause, Change, Pool, Watch},
};
use millrace_node::clock;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Outcomes that wait to be told to the agent; more are counted and dropped: it decides by fewer then.
pub(crate) const OUTCOMES: usize = 1024;

/// How a connection to an endpoint went, for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) endpoint: SocketAddr,
    /// None: it was made, after others failed.
    pub(crate) failed: Option<Cause>,
}

/// What is known of failing endpoints.
#[derive(Debug)]
pub(crate) struct Outliers {
    began: Instant,
    watch: Mutex<Watch>,
    outcomes: mpsc::Sender<Outcome>,
    metrics: Arc<Metrics>,
}

/// What a connection is made by: the mesh, and this node's name.
pub(crate) type View<'v> = (&'v Mesh, &'v str);

impl Outliers {
    pub(crate) fn new(outcomes: mpsc::Sender<Outcome>, metrics: Arc<Metrics>) -> Self {
        Self { began: clock::now(), watch: Mutex::default(), outcomes, metrics }
    }

    /// True where no endpoint of any pool fails.
    pub(crate) fn is_calm(&self) -> bool {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).pools().next().is_none()
    }

    /// Who is left out of a pool now.
    pub(crate) fn out_of(&self, view: View<'_>, pool: &Pool) -> Ejected {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ejected = Ejected::default();
        if watch.troubles(pool).next().is_none() {
            return ejected;
        }
        // Whose time is over returns when it is asked for: nobody else would notice.
        self.decide(&mut watch, view, pool);
        let out: BTreeSet<SocketAddr> =
            watch.troubles(pool).filter(|(_, trouble)| trouble.out.is_some()).map(|(endpoint, _)| endpoint).collect();
        for endpoint in out {
            ejected.insert(pool.clone(), endpoint);
        }
        ejected
    }

    /// The mesh is another: an endpoint that was gone, or not to be called, for a moment begins anew when it is back.
    pub(crate) fn turn(&self, (mesh, node): View<'_>) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let pools: Vec<Pool> = watch.pools().cloned().collect();
        for pool in pools {
            watch.keep_members(&pool, &pool.members(mesh, node).0);
        }
    }

    /// An endpoint of this pool could not be reached, or its application could not.
    pub(crate) fn failed(&self, view: View<'_>, (pool, endpoint): (&Pool, SocketAddr), cause: Cause) {
        let said = view.0.snapshot.services.get(&pool.service).map(|service| service.traffic.outliers);
        let Some(Said::Ejected(bounds)) = said else { return };
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.failed(pool, (endpoint, 1), cause, (&bounds, self.now()));
        self.decide(&mut watch, view, pool);
        drop(watch);
        self.tell(Outcome { endpoint, failed: Some(cause) });
    }

    /// One of this pool was reached.
    pub(crate) fn succeeded(&self, (pool, endpoint): (&Pool, SocketAddr)) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if !watch.troubles(pool).any(|(other, trouble)| other == endpoint && trouble.run > 0) {
            return;
        }
        watch.succeeded(pool, endpoint);
        drop(watch);
        self.tell(Outcome { endpoint, failed: None });
    }

    fn decide(&self, watch: &mut Watch, (mesh, node): View<'_>, pool: &Pool) {
        let (members, said) = pool.members(mesh, node);
        for change in watch.decide(pool, &members, said, self.now()) {
            let Pool { service, port, family: _ } = pool;
            match change {
                Change::Ejected(endpoint, trouble) => {
                    let (failures, cause) = (trouble.run, trouble.cause.name());
                    tracing::warn!(%service, port, %endpoint, cause, failures, "an endpoint is left out: it fails");
                    self.metrics.ejected(cause);
                }
                Change::Returned(endpoint) => tracing::info!(%service, port, %endpoint, "an endpoint returns"),
            }
        }
    }

    fn tell(&self, outcome: Outcome) {
        if self.outcomes.try_send(outcome).is_err() {
            self.metrics.outcomes_dropped.inc();
        }
    }

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.began)
    }
}
