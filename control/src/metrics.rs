//! Names what the control plane counts. The names stand in docs/OPERATING.md.

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    diagnostic::{Diagnostic, Effect},
    issue::Refusal,
};

/// From a compile of a small mesh to one that is too slow.
const COMPILE_SECONDS: [f64; 8] = [0.000_5, 0.002, 0.01, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Everything counted, and the registry that prints it.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    generation: Gauge<i64>,
    editions: Counter,
    compile: Histogram,
    publish: Histogram,
    diagnostics: Family<EffectLabel, Gauge>,
    /// When the root runs out, in seconds since 1970: another has to be in every bundle before.
    pub root_expires: Gauge,
    /// Nodes with a stream open.
    pub subscribers: Gauge,
    /// Updates sent, from the empty Snapshot or by resuming.
    pub updates: Family<UpdateLabel, Counter>,
    /// Certificates issued.
    pub certificates: Family<CallLabel, Counter>,
    /// Requests refused.
    refusals: Family<RefusalLabel, Counter>,
    /// Connections refused before any request.
    pub connections_refused: Family<ReasonLabel, Counter>,
    /// Whole lists read from the API server.
    lists: Family<KindLabel, Counter>,
    /// Faults of watches of the API server.
    watch_faults: Family<KindLabel, Counter>,
    /// Statuses that were to be written, by what became of it.
    statuses: Family<ResultLabel, Counter>,
    /// Objects that the API server asked about, by the answer.
    reviews: Family<ResultLabel, Counter>,
    /// Pods that other replicas take for not enrolled, as no Lease has room for them.
    listening_left_out: Gauge,
}

/// What becomes of the objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Of which kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// How an update began.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpdateLabel {
    /// `resumed` or `empty`.
    pub from: &'static str,
}

/// Which request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabel {
    /// `join`, `issue` or `subscribe`.
    pub call: &'static str,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The reason's name.
    pub reason: &'static str,
}

/// Which request, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    call: &'static str,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("millrace_control");
        let this = Self {
            registry: Mutex::default(),
            generation: Gauge::<i64, std::sync::atomic::AtomicI64>::default(),
            editions: Counter::<u64, AtomicU64>::default(),
            compile: Histogram::new(COMPILE_SECONDS),
            publish: Histogram::new(COMPILE_SECONDS),
            diagnostics: Family::default(),
            root_expires: Gauge::default(),
            subscribers: Gauge::default(),
            updates: Family::default(),
            certificates: Family::default(),
            refusals: Family::default(),
            connections_refused: Family::default(),
            lists: Family::default(),
            watch_faults: Family::default(),
            statuses: Family::default(),
            listening_left_out: Gauge::default(),
            reviews: Family::default(),
        };
        registry.register("generation", "The newest generation published", this.generation.clone());
        registry.register("editions", "Generations published", this.editions.clone());
        registry.register_with_unit("compile", "From the World to a Snapshot", Unit::Seconds, this.compile.clone());
        registry.register_with_unit(
            "publish",
            "From a change taken to its edition",
            Unit::Seconds,
            this.publish.clone(),
        );
        registry.register("diagnostics", "Faults of objects, by what becomes of the object", this.diagnostics.clone());
        registry.register(
            "root_expires_timestamp_seconds",
            "When the root certificate runs out, since 1970",
            this.root_expires.clone(),
        );
        registry.register("subscribers", "Streams open to nodes", this.subscribers.clone());
        registry.register("updates", "Updates sent, by where they start", this.updates.clone());
        registry.register("certificates", "Certificates issued", this.certificates.clone());
        registry.register("refusals", "Requests refused, by reason", this.refusals.clone());
        registry.register(
            "connections_refused",
            "Connections refused before any request, by reason",
            this.connections_refused.clone(),
        );
        registry.register("lists", "Whole lists of objects read from the API server", this.lists.clone());
        registry.register("watch_faults", "Faults of watches of the API server", this.watch_faults.clone());
        let left_out = "Pods of this replica's nodes that a Lease has no room for";
        registry.register("listening_left_out", left_out, this.listening_left_out.clone());
        registry.register("statuses", "Statuses of objects written to the API server", this.statuses.clone());
        registry.register("reviews", "Objects reviewed for the API server, by the answer", this.reviews.clone());
        Self { registry: Mutex::new(registry), ..this }
    }
}

impl Metrics {
    pub(crate) fn compiled(&self, took: Duration, diagnostics: &[Diagnostic]) {
        self.compile.observe(took.as_secs_f64());
        let effects = [
            (Effect::Refused, "refused"),
            (Effect::Kept, "kept"),
            (Effect::Closed, "closed"),
            (Effect::Applied, "applied"),
        ];
        for (effect, name) in effects {
            let count = diagnostics.iter().filter(|d| d.effect == effect).count();
            self.diagnostics.get_or_create(&EffectLabel { effect: name }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn published(&self, generation: u64, took: Duration) {
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.editions.inc();
        self.publish.observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, call: &'static str, refusal: &Refusal) {
        self.refusals.get_or_create(&RefusalLabel { call, reason: refusal.reason() }).inc();
    }

    pub(crate) fn listed(&self, kind: &'static str) {
        self.lists.get_or_create(&KindLabel { kind }).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_faults.get_or_create(&KindLabel { kind }).inc();
    }

    pub(crate) fn left_out(&self, n_pods: usize) {
        self.listening_left_out.set(i64::try_from(n_pods).unwrap_or(i64::MAX));
    }

    pub(crate) fn status_written(&self, result: &'static str) {
        self.statuses.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn reviewed(&self, result: &'static str) {
        self.reviews.get_or_create(&ResultLabel { result }).inc();
    }

    /// All of it, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}
