//! Counts what an operator watches. Names, units and labels are documented in docs/OPERATING.md.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use millrace_abi::Reason;
use millrace_model::outlier::Cause;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{kernel::reconcile::Outcome, status::Status};

/// From the shortest plan, one verdict, to the largest mesh's.
const PLAN_BUCKETS: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMap {
    map: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByIdentity {
    identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    cause: &'static str,
}

/// Only services that have some: a service whose endpoints all serve has no series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByService {
    service: String,
}

/// The agent's metrics.
#[derive(Debug)]
pub struct Metrics {
    decisions: Family<ByReason, Counter>,
    entries: Family<ByMap, Gauge>,
    capacity: Family<ByMap, Gauge>,
    expiry: Family<ByIdentity, Gauge>,
    workloads: Family<ByState, Gauge>,
    generation: Gauge,
    control: Gauge,
    proxy: Gauge,
    writes: Counter,
    failures: Counter,
    plans: Histogram,
    /// Sockets given to proxies.
    pub sockets: Counter,
    /// Flow records.
    pub flows: Counter,
    /// Live connections closed because policy turned.
    pub revoked: Counter,
    ejections: Family<ByCause, Counter>,
    ejected: Family<ByService, Gauge>,
}

impl Metrics {
    /// The metrics, and where they are read.
    pub fn registered() -> (Self, Arc<Mutex<Registry>>) {
        let metrics = Self {
            decisions: Family::default(),
            entries: Family::default(),
            capacity: Family::default(),
            expiry: Family::default(),
            workloads: Family::default(),
            generation: Gauge::default(),
            control: Gauge::default(),
            proxy: Gauge::default(),
            writes: Counter::default(),
            failures: Counter::default(),
            plans: Histogram::new(PLAN_BUCKETS),
            sockets: Counter::default(),
            flows: Counter::default(),
            revoked: Counter::default(),
            ejections: Family::default(),
            ejected: Family::default(),
        };
        let mut all = Registry::with_prefix("millrace");
        let kernel = all.sub_registry_with_prefix("kernel");
        kernel.register("decisions", "Connections by what the kernel decided", metrics.decisions.clone());
        kernel.register("map_entries", "Entries of a kernel map", metrics.entries.clone());
        kernel.register("map_capacity", "Entries that a kernel map can hold", metrics.capacity.clone());
        kernel.register("map_writes", "Writes to kernel maps", metrics.writes.clone());
        kernel.register("map_write_failures", "Writes that kernel maps refused", metrics.failures.clone());
        kernel.register_with_unit("plan", "From a new plan to its last write", Unit::Seconds, metrics.plans.clone());
        let agent = all.sub_registry_with_prefix("agent");
        let expires = "When an identity's certificate expires, from the Unix epoch";
        agent.register_with_unit("certificate_expiry", expires, Unit::Seconds, metrics.expiry.clone());
        agent.register("workloads", "This node's workloads by state", metrics.workloads.clone());
        agent.register("generation", "The generation that the kernel's maps hold", metrics.generation.clone());
        agent.register("control_connected", "1 while the control plane is there", metrics.control.clone());
        agent.register("proxy_connected", "1 while a proxy serves", metrics.proxy.clone());
        agent.register("sockets", "Sockets given to proxies", metrics.sockets.clone());
        agent.register("flows", "Flow records", metrics.flows.clone());
        agent.register("revoked", "Live connections closed because policy turned", metrics.revoked.clone());
        agent.register("ejections", "Endpoints left out because connections failed", metrics.ejections.clone());
        agent.register("ejected", "Endpoints of a service that are left out now", metrics.ejected.clone());
        (metrics, Arc::new(Mutex::new(all)))
    }

    /// Counts a plan that was carried out in `seconds`.
    pub fn planned(&self, outcome: &Outcome, seconds: f64) {
        self.writes.inc_by(outcome.n_written);
        self.failures.inc_by(outcome.failures.values().sum());
        self.plans.observe(seconds);
    }

    /// Counts an endpoint that is left out from now on.
    pub fn ejected(&self, cause: Cause) {
        self.ejections.get_or_create(&ByCause { cause: cause.name() }).inc();
    }

    /// Takes over what the kernel has counted.
    pub fn decided(&self, counters: &[(Reason, u64)]) {
        for (reason, count) in counters {
            let label = ByReason { reason: reason.name() };
            // The kernel's counters outlive this process: what is shown is theirs, not a second sum.
            self.decisions.get_or_create(&label).inner().store(*count, Ordering::Relaxed);
        }
    }

    /// Shows how the node stands. `expiries` are by identity, in seconds from the Unix epoch.
    pub fn show(&self, status: &Status, kernel_generation: u64, expiries: impl Iterator<Item = (String, u64)>) {
        self.generation.set(signed(kernel_generation));
        self.control.set(i64::from(status.control.connected));
        self.proxy.set(i64::from(status.proxy.is_some()));
        for usage in &status.maps {
            let label = ByMap { map: usage.map };
            self.entries.get_or_create(&label).set(signed(usage.entries));
            self.capacity.get_or_create(&label).set(i64::from(usage.capacity));
        }
        let captured = status.workloads.iter().filter(|workload| workload.state == "captured").count();
        for (state, count) in [("captured", captured), ("pending", status.workloads.len() - captured)] {
            self.workloads.get_or_create(&ByState { state }).set(signed(count as u64));
        }
        self.ejected.clear();
        for ejected in &status.ejected {
            self.ejected.get_or_create(&ByService { service: ejected.service.clone() }).inc();
        }
        self.expiry.clear();
        for (identity, seconds) in expiries {
            self.expiry.get_or_create(&ByIdentity { identity }).set(signed(seconds));
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const _: fn(&Counter) -> &AtomicU64 = Counter::inner; // `decided` stores into it.
