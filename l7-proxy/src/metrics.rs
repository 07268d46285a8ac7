//! Counts what the proxy does, for Prometheus. No label holds anything that a peer chooses: every set of values is ours and short.
//!
//! | metric | says |
//! |---|---|
//! | `millrace_proxy_connections_opened_total{direction}` | connections taken on: outbound, inbound (a tunnel's stream), plaintext |
//! | `millrace_proxy_connections_closed_total{direction,outcome}` | how they ended: `closed`, or the reason for a cut after bytes could flow |
//! | `millrace_proxy_connections_refused_total{direction,reason}` | those that ended before the target was reached |
//! | `millrace_proxy_bytes_total{direction,way}` | bytes carried, `sent` from client to target and `received` back |
//! | `millrace_proxy_retries_total` | further endpoints asked after one failed |
//! | `millrace_proxy_tunnels{end}` | tunnels open now, dialled (`client`) and accepted (`server`) |
//! | `millrace_proxy_tunnels_opened_total{end}` | tunnels whose handshake succeeded |
//! | `millrace_proxy_handshakes_failed_total{end,reason}` | TLS handshakes that did not, by the refusal's name |
//! | `millrace_proxy_tunnels_broken_total{end,reason}` | tunnels that did not end in order: what the peer flooded, or how it broke HTTP/2 |
//! | `millrace_proxy_stock_taken_total{outcome}` | sockets asked of the stock: `at_once`, `waited`, `empty` |
//! | `millrace_proxy_stock_sockets` | unconnected sockets in stock |
//! | `millrace_proxy_descriptors_left` | connections' descriptors left before refusal |
//! | `millrace_proxy_denials_dropped_total` | denials not told to the agent: its queue was full |
//! | `millrace_proxy_events_untold_total` | refused connections that were not logged: too many of one reason |
//! | `millrace_proxy_snapshot_generation` | the generation served by |
//! | `millrace_proxy_agent_connected` | 1 while the agent's socket is connected |
//! | `millrace_proxy_http_requests_total{code,outcome}` | requests to routed ports: `answered` by an application, else the fault's name |
//! | `millrace_proxy_http_retries_total{cause}` | requests sent again: `status`, or the fault's name that the attempt before ended in |
//! | `millrace_proxy_http_retries_withheld_total{reason}` | requests that failed and were not: `attempts`, `budget`, `body`, `time` |
//! | `millrace_proxy_http_sessions_total{outcome}` | requests of rules with sessions: `begun`, `kept`, `moved` |
//! | `millrace_proxy_http_mirrors_total{outcome}` | copies of requests: `answered`, or why not: `slow`, `busy`, `late`, `cut`, `unresolved`, a fault's name |
//! | `millrace_proxy_panics_total` | connections' tasks that panicked: a bug each |

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::descriptors::Descriptors;

/// Which way a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From a workload of this node, into a tunnel.
    Outbound,
    /// From a tunnel, to a workload of this node.
    Inbound,
    /// From the network in plain text, to a workload of this node.
    Plaintext,
}

/// Which end of a tunnel this proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// It dialled.
    Client,
    /// It accepted.
    Server,
}

impl Direction {
    /// Its name in labels and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Plaintext => "plaintext",
        }
    }
}

/// A label's value, of a set that the code spells out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Word(pub(crate) &'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Labels of a count by direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByDirection {
    direction: Word,
}

/// Labels of a count by direction and outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByOutcome {
    direction: Word,
    outcome: Word,
}

/// Labels of a count by direction and reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByReason {
    direction: Word,
    reason: Word,
}

/// Labels of a count of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByWay {
    direction: Word,
    way: Word,
}

/// Labels of a count of tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByEnd {
    end: Word,
}

/// Labels of a count of failed handshakes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByEndAndReason {
    end: Word,
    reason: Word,
}

/// Labels of a count of stock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByTaken {
    outcome: Word,
}

/// Labels of a count by cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByCause {
    pub(crate) cause: Word,
}

/// Every metric.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    opened: Family<ByDirection, Counter>,
    closed: Family<ByOutcome, Counter>,
    refused: Family<ByReason, Counter>,
    bytes: Family<ByWay, Counter>,
    pub(crate) retries: Counter,
    tunnels: Family<ByEnd, Gauge>,
    tunnels_opened: Family<ByEnd, Counter>,
    handshakes_failed: Family<ByEndAndReason, Counter>,
    tunnels_broken: Family<ByEndAndReason, Counter>,
    stock_taken: Family<ByTaken, Counter>,
    pub(crate) stock_sockets: Gauge,
    pub(crate) denials_dropped: Counter,
    pub(crate) events_untold: Counter,
    pub(crate) generation: Gauge<u64, AtomicU64>,
    pub(crate) agent_connected: Gauge,
    pub(crate) panics: Counter,
    ejections: Family<ByCause, Counter>,
    pub(crate) outcomes_dropped: Counter,
    pub(crate) http: crate::http::Counts,
}

impl Metrics {
    /// Every metric under its name, ready to be printed.
    pub(crate) fn registry(&self, descriptors: Descriptors) -> Arc<Mutex<Registry>> {
        let registry = Arc::new(Mutex::new(Registry::with_prefix("millrace")));
        let mut all = registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = all.sub_registry_with_prefix("proxy");
        let Self {
            opened,
            closed,
            refused,
            bytes,
            retries,
            tunnels,
            tunnels_opened,
            handshakes_failed,
            tunnels_broken,
            stock_taken,
            stock_sockets,
            denials_dropped,
            events_untold,
            generation,
            agent_connected,
            panics,
            ejections,
            outcomes_dropped,
            http,
        } = self;
        r.register("connections_opened", "Connections taken on", opened.clone());
        r.register("connections_closed", "Connections that were carried and ended, by how", closed.clone());
        r.register("connections_refused", "Connections that ended before their target was reached", refused.clone());
        r.register("bytes", "Bytes carried, sent from client to target and received back", bytes.clone());
        r.register("retries", "Further endpoints asked after one failed", retries.clone());
        r.register("tunnels", "Tunnels open now", tunnels.clone());
        r.register("tunnels_opened", "Tunnels whose handshake succeeded", tunnels_opened.clone());
        r.register("handshakes_failed", "TLS handshakes that failed, by refusal", handshakes_failed.clone());
        r.register("tunnels_broken", "Tunnels that did not end in order, by why", tunnels_broken.clone());
        r.register("stock_taken", "Sockets asked of the stock", stock_taken.clone());
        r.register("stock_sockets", "Unconnected sockets in stock", stock_sockets.clone());
        r.register_collector(Box::new(Left(descriptors)));
        r.register("denials_dropped", "Denials not told to the agent", denials_dropped.clone());
        r.register("events_untold", "Refused connections that were not logged", events_untold.clone());
        r.register("snapshot_generation", "The generation served by", generation.clone());
        r.register("agent_connected", "1 while the agent's socket is connected", agent_connected.clone());
        r.register("panics", "Tasks of connections that panicked", panics.clone());
        r.register("ejections", "Endpoints left out because connections failed", ejections.clone());
        r.register("outcomes_dropped", "Outcomes not told to the agent", outcomes_dropped.clone());
        http.register(r);
        drop(all);
        registry
    }

    pub(crate) fn opened(&self, direction: Direction) {
        self.opened.get_or_create(&ByDirection { direction: Word(direction.name()) }).inc();
    }

    pub(crate) fn closed(&self, direction: Direction, outcome: &'static str) {
        self.closed.get_or_create(&ByOutcome { direction: Word(direction.name()), outcome: Word(outcome) }).inc();
    }

    pub(crate) fn refused(&self, direction: Direction, reason: &'static str) {
        self.refused.get_or_create(&ByReason { direction: Word(direction.name()), reason: Word(reason) }).inc();
    }

    pub(crate) fn carried(&self, direction: Direction, sent: u64, received: u64) {
        let direction = Word(direction.name());
        self.bytes.get_or_create(&ByWay { direction, way: Word("sent") }).inc_by(sent);
        self.bytes.get_or_create(&ByWay { direction, way: Word("received") }).inc_by(received);
    }

    pub(crate) fn tunnel(&self, end: End) -> OpenTunnel {
        self.tunnels_opened.get_or_create(&ByEnd { end: end.word() }).inc();
        let open = self.tunnels.get_or_create_owned(&ByEnd { end: end.word() });
        open.inc();
        OpenTunnel(open)
    }

    pub(crate) fn handshake_failed(&self, end: End, reason: &'static str) {
        self.handshakes_failed.get_or_create(&ByEndAndReason { end: end.word(), reason: Word(reason) }).inc();
    }

    pub(crate) fn ejected(&self, cause: &'static str) {
        self.ejections.get_or_create(&ByCause { cause: Word(cause) }).inc();
    }

    pub(crate) fn tunnel_broken(&self, end: End, reason: &'static str) {
        self.tunnels_broken.get_or_create(&ByEndAndReason { end: end.word(), reason: Word(reason) }).inc();
    }

    pub(crate) fn stock_taken(&self, outcome: &'static str) {
        self.stock_taken.get_or_create(&ByTaken { outcome: Word(outcome) }).inc();
    }
}

impl End {
    fn word(self) -> Word {
        Word(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What is left of the descriptors, read when it is asked for.
#[derive(Debug)]
struct Left(Descriptors);

impl Collector for Left {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let left = ConstGauge::new(i64::try_from(self.0.left()).unwrap_or(i64::MAX));
        let help = "Connections' descriptors left before refusal";
        let encoder = encoder.encode_descriptor("descriptors_left", help, None, left.metric_type())?;
        left.encode(encoder)
    }
}

/// A tunnel counted as open until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenTunnel(Gauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}
