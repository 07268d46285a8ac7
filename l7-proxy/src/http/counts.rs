//! Counts requests: `millrace_proxy_http_requests_total{code,outcome}`, `answered` where an application did, else the fault's name.

use std::sync::OnceLock;

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{mirror, retry, session};
use crate::metrics::Word;

/// The outcome of a request that an application has answered.
pub(crate) const ANSWERED: &str = "answered";

/// What is counted of requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: Family<ByAnswer, Counter>,
    /// Of those, the answers of applications that say 200.
    ok: OnceLock<Counter>,
    broken: Family<ByReason, Counter>,
    pub(crate) mirrors: mirror::Counts,
    pub(crate) retries: retry::Counts,
    pub(crate) sessions: session::Counts,
}

/// Labels of a count by reason. The names are ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByReason {
    pub(super) reason: Word,
}

/// Labels of a count by outcome. The names are ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOutcome {
    pub(super) outcome: Word,
}

/// Labels of a count by answer. Statuses are three digits, and names are ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    code: u32,
    outcome: Word,
}

impl Counts {
    pub(crate) fn answered(&self, status: StatusCode, outcome: &'static str) {
        // What most are needs no look at the others.
        if status == StatusCode::OK && outcome == ANSWERED {
            let ok = self.ok.get_or_init(|| self.of(status, outcome));
            ok.inc();
            return;
        }
        self.of(status, outcome).inc();
    }

    fn of(&self, status: StatusCode, outcome: &'static str) -> Counter {
        self.requests.get_or_create(&ByAnswer { code: status.as_u16().into(), outcome: Word(outcome) }).clone()
    }

    /// A client's connection that was no HTTP, or broke its rules.
    pub(crate) fn broken(&self, reason: &'static str) {
        self.broken.get_or_create(&ByReason { reason: Word(reason) }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests answered, by status and by whom", self.requests.clone());
        registry.register(
            "http_connections_broken",
            "Clients' connections that were ended for what they sent, by reason",
            self.broken.clone(),
        );
        self.mirrors.register(registry);
        self.retries.register(registry);
        self.sessions.register(registry);
    }
}
