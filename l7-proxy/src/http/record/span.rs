//! Says which spans a request makes: its caller's, and, where it was sent to somebody, the called one's below it.
//!
//! One proxy sees both: the caller's. The caller's span is all that the request took, with what the mesh did to it; the called one's
//! begins where the request was sent on, and its id is what the application is told.

use std::time::{Duration, Instant};

use http::HeaderMap;
use millrace_model::{
    ObjectName, Workload,
    telemetry::{Collector, Tracing},
};
use millrace_node::clock;
use rand::Rng;

use super::{
    Kept,
    export::{Finished, Kind, Span},
    trace::{Arrived, Ids},
};

/// The trace that a request is part of.
pub(super) struct Traced {
    arrived: Arrived,
    tracing: Tracing,
    /// Whether it is recorded.
    is_recorded: bool,
    /// The caller's span; None where nobody is told, and the ids that came pass as they are.
    client: Option<Ids>,
    server: Option<(Ids, Duration)>,
    /// Of the called one's span, drawn with the rest.
    next: u64,
}

impl Traced {
    /// What `headers` and the policy say of it.
    pub(super) fn of(headers: &HeaderMap, tracing: &Tracing, chance: &mut impl Rng) -> Self {
        let arrived = Arrived::of(headers);
        let is_recorded = arrived.decision.unwrap_or_else(|| tracing.share.takes(chance.random()));
        let client = match arrived.ids {
            Some(ids) if is_recorded && tracing.collector.is_some() => Some(ids.next(chance.random())),
            // Nothing is to be added to what was named by who asks.
            Some(_) => None,
            None => Some(Ids::begin(chance.random(), chance.random())),
        };
        let next = chance.random();
        Self { arrived, tracing: tracing.clone(), is_recorded, client, server: None, next }
    }

    /// Whether somebody is told of spans.
    pub(super) fn is_told(&self) -> bool {
        self.is_recorded && self.tracing.collector.is_some()
    }

    /// The trace, as text.
    pub(super) fn id(&self) -> Option<String> {
        self.client.or(self.arrived.ids).map(|ids| format!("{:032x}", ids.trace))
    }

    /// Tells on which span the request belongs to.
    pub(super) fn pass_on(&mut self, headers: &mut HeaderMap, began: Instant) {
        let Some(client) = self.client else { return };
        // Without a collector nobody would know of a span between.
        let ids = if self.is_told() { client.next(self.next) } else { client };
        self.server = Some((ids, clock::now().saturating_duration_since(began)));
        self.arrived.pass_on(ids, self.is_recorded, self.tracing.begins, headers);
    }
}

/// Whose span: who it is, by service account.
fn service_of(workload: &Workload) -> String {
    format!("{}.{}", workload.identity.service_account, workload.identity.namespace)
}

fn service_named(service: &ObjectName) -> String {
    format!("{}.{}", service.name, service.namespace)
}

impl Kept {
    /// The spans of a request that has ended, after `took`.
    pub(super) fn spans(&self, took: Duration) -> [Option<Finished>; 2] {
        let Some(trace) = self.trace.as_ref().filter(|trace| trace.is_told()) else { return [None, None] };
        let (Some(collector), Some(client)) = (&trace.tracing.collector, trace.client) else { return [None, None] };
        let start = clock::unix_time().saturating_sub(took);
        let error = self.ended.flag.map(|(flag, _)| flag.to_owned());
        let failed = |from: u16| (self.ended.code >= from).then(|| self.ended.code.to_string());
        let head = self.head.as_ref();
        let name = head.map_or(String::new(), |head| head.method.to_string());
        let of_client = Span {
            trace: client.trace,
            id: client.span,
            parent: trace.arrived.ids.map(|ids| ids.span),
            kind: Kind::Client,
            name: name.clone(),
            service: service_of(&self.source),
            pod: Some(self.source.name.to_string()),
            start,
            took,
            peer: self.endpoint,
            texts: self.texts(),
            code: self.ended.code,
            grpc: self.ended.grpc,
            // A caller has failed where it got no good answer, whoever is to blame.
            error: error.clone().or_else(|| failed(400)),
        };
        let of_server = trace.server.filter(|_| self.endpoint.is_some()).map(|(ids, after)| Span {
            id: ids.span,
            parent: Some(client.span),
            kind: Kind::Server,
            name,
            service: match (self.target(), self.service()) {
                (Some(target), _) => service_of(target),
                (None, Some(service)) => service_named(service),
                (None, None) => "unknown".to_owned(),
            },
            pod: self.target().map(|target| target.name.to_string()),
            start: start + after,
            took: took.saturating_sub(after),
            peer: Some(self.source_address()),
            error: error.or_else(|| failed(500)),
            ..of_client.clone()
        });
        let finished = |span, collector: &Collector| Finished {
            callers: self.callers.clone(),
            collector: collector.clone(),
            span,
        };
        [Some(finished(of_client, collector)), of_server.map(|span| finished(span, collector))]
    }

    /// What else is told of both.
    fn texts(&self) -> Vec<(&'static str, String)> {
        let head = self.head.as_ref();
        let all = [
            ("http.request.method", head.map(|head| head.method.to_string())),
            ("server.address", head.map(|head| head.host.clone())),
            ("url.path", head.map(|head| head.path.clone())),
            ("millrace.protocol", Some(self.spoken.name().to_owned())),
            ("millrace.service", self.service().map(ToString::to_string)),
            ("millrace.rule", self.rule.clone()),
            ("millrace.flags", self.ended.flag.map(|(flag, _)| flag.to_owned())),
            ("millrace.side", self.ended.flag.map(|(_, side)| side.to_owned())),
            ("millrace.policy", self.ended.policy.as_ref().map(ToString::to_string)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}
