//! Shows what workloads have of their limits: as metrics when they are asked for, and as JSON for the admin socket.
//!
//! Labels are names of this node's pods, which are bounded, and go with their pod; an account that never had anything has no
//! series.

use std::{pin::Pin, sync::Arc, time::Duration};

use http::StatusCode;
use millrace_model::profile::cpu_quantity;
use millrace_node::admin::{Response, Route, json};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, LabelSetEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use serde_json::{Map, Value};

use super::{Account, Accounts, Limit, Processor, WorkloadLimits};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Accounts {
    /// Has these metrics printed with the others.
    pub(crate) fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Seen(self.clone())));
    }

    /// `GET /status` of the admin socket.
    pub(crate) fn route(self: &Arc<Self>) -> Route {
        let accounts = self.clone();
        let answer = move |_request| -> BoxFuture<Response> {
            let answer = json(StatusCode::OK, &accounts.status());
            Box::pin(std::future::ready(answer))
        };
        Route { method: "GET", path: "/status", answer: Arc::new(answer) }
    }

    /// Limits, and who has what of them; `limited` says which bounds a workload has reached since its pod came.
    pub(crate) fn status(&self) -> Value {
        let workloads = self.all().into_iter().filter(|account| account.is_seen()).map(|account| {
            let limited: Map<String, Value> = account
                .n_limited()
                .filter(|(_, count)| *count > 0)
                .map(|(limit, count)| (limit.name().to_owned(), count.into()))
                .collect();
            let has = serde_json::json!({
                "connections": account.n_connections(),
                "pending": account.n_pending(),
                "buffered_bytes": account.n_buffered(),
                "turns_waited": account.n_turns_waited(),
                "cpu_seconds": account.processor.used().as_secs_f64(),
                "throttled_seconds": account.processor.throttled().as_secs_f64(),
                "limited": limited,
            });
            (account.workload.to_string(), has)
        });
        let workloads: Map<String, Value> = workloads.collect();
        let limits = self.limits();
        let of: Map<String, Value> =
            limits.of.iter().map(|(workload, limits)| (workload.to_string(), limits.status())).collect();
        serde_json::json!({
            "buffers": { "limit_bytes": self.budget().limit(), "held_bytes": self.budget().held() },
            "limits": { "each": limits.each.status(), "of": of },
            "workloads": workloads,
        })
    }
}

impl WorkloadLimits {
    fn status(self) -> Value {
        let Self { max_connections, max_pending, max_buffered, weight, cpu_millis } = self;
        serde_json::json!({
            "max_connections": max_connections,
            "max_pending_connections": max_pending,
            "max_buffered_bytes": max_buffered,
            "share_weight": weight,
            "cpu": cpu_millis.map(cpu_quantity),
        })
    }
}

impl Account {
    fn is_seen(&self) -> bool {
        self.n_connections() > 0
            || self.n_buffered() > 0
            || self.n_turns_waited() > 0
            || !self.processor.used().is_zero()
            || self.n_limited().any(|(_, count)| count > 0)
    }
}

#[derive(Debug)]
struct Seen(Arc<Accounts>);

/// A gauge of a workload: its name, what it says, and where it is read.
type Gauge = (&'static str, &'static str, fn(&Account) -> u64);

const GAUGES: [Gauge; 3] = [
    ("workload_connections", "Connections that a workload has open", |account| account.n_connections() as u64),
    ("workload_pending", "Of them, those that are being opened", |account| account.n_pending() as u64),
    ("workload_buffered_bytes", "Bytes that wait in buffers for a workload", Account::n_buffered),
];

/// Time of a workload, in the same way.
type Seconds = (&'static str, &'static str, fn(&Processor) -> Duration);

const SECONDS: [Seconds; 2] = [
    ("workload_cpu_seconds", "Processor time that a workload's work has taken", Processor::used),
    (
        "workload_throttled_seconds",
        "Time that a workload with work to do was held back on a worker, having had what it may of processors",
        Processor::throttled,
    ),
];

impl Collector for Seen {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        for (name, help, value) in [
            ("buffers_held_bytes", "Bytes that wait in buffers", self.0.budget().held()),
            ("buffers_limit_bytes", "Bytes that may wait in buffers", self.0.budget().limit()),
        ] {
            gauge(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let accounts: Vec<_> = self.0.all().into_iter().filter(|account| account.is_seen()).collect();
        for (name, help, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for account in &accounts {
                let label = [("workload", account.workload.to_string())];
                gauge(read(account)).encode(family.encode_family(&label)?)?;
            }
        }
        let help = "Times that a workload's work waited for its next turn, as its share of a worker was spent";
        let mut family = encoder.encode_descriptor("workload_turns_waited", help, None, MetricType::Counter)?;
        for account in &accounts {
            let label = [("workload", account.workload.to_string())];
            ConstCounter::new(account.n_turns_waited()).encode(family.encode_family(&label)?)?;
        }
        for (name, help, read) in SECONDS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for account in &accounts {
                let label = [("workload", account.workload.to_string())];
                ConstCounter::new(read(&account.processor).as_secs_f64()).encode(family.encode_family(&label)?)?;
            }
        }
        let help = "Connections refused, held back or cut because a limit of a workload was reached";
        let mut family = encoder.encode_descriptor("workload_limited", help, None, MetricType::Counter)?;
        for account in &accounts {
            for (limit, count) in account.n_limited().filter(|(_, count)| *count > 0) {
                let labels = ByLimit(account, limit);
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

struct ByLimit<'a>(&'a Account, Limit);

impl prometheus_client::encoding::EncodeLabelSet for ByLimit<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(account, limit) = self;
        [("workload", account.workload.to_string()), ("limit", limit.name().to_owned())].encode(encoder)
    }
}
