//! Tells collectors of spans. A pod's spans go to its collector from the pod's own network, as the pod, by the connections that its
//! requests go by: through a tunnel where the collector is of the mesh, and only where policy lets the pod call it. The proxy has no
//! other way out, and needs none.
//!
//! A worker gathers spans and sends those of one pod together. What a collector does not take is tried again twice; then it is
//! dropped, and counted, as is what comes while too much waits. No request ever waits for its spans.

mod otlp;
mod zipkin;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::{BodyExt as _, Full};
use millrace_model::{
    ObjectName,
    route::Speaks,
    telemetry::{Collector, SpanProtocol},
};
use prometheus_client::{
    collector::Collector as Collected,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::http::{body::Outgoing, endpoint::Endpoints, request::Callers};

/// Spans that wait on one worker: a second of 2,000 sampled requests.
pub(super) const WAITING: usize = 4_096;

/// Spans sent together: half a megabyte.
const TOGETHER: usize = 512;

/// Sendings at once on one worker, one for each pod and collector.
const SENDINGS: usize = 32;

/// How long a collector may take for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often one is tried, and how long is waited before it is tried again: twice as long each time.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The most that is read of what a collector says.
const MAX_ANSWER: usize = 64 * 1024;

/// Whose view of a request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one's who called.
    Client,
    /// The one's who was called, as its caller's proxy saw it.
    Server,
}

/// One side of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Whose it is: a service account and its namespace, or a service outside the mesh.
    pub(super) service: String,
    /// The pod.
    pub(super) pod: Option<String>,
    /// Since the Unix epoch.
    pub(super) start: Duration,
    pub(super) took: Duration,
    /// The other side.
    pub(super) peer: Option<SocketAddr>,
    pub(super) texts: Vec<(&'static str, String)>,
    /// The status; 0 where there was none.
    pub(super) code: u16,
    pub(super) grpc: Option<u16>,
    /// What went wrong.
    pub(super) error: Option<String>,
}

/// A span, and who is to be told of it by whom.
pub(super) struct Finished {
    pub(super) callers: Arc<Callers>,
    pub(super) collector: Collector,
    pub(super) span: Span,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    told: AtomicU64,
    /// More waited than may.
    pub(super) dropped: AtomicU64,
    /// The collector did not take them.
    failed: AtomicU64,
}

/// Sends what waits, without waiting for it.
pub(super) fn send(waiting: Vec<Finished>, sendings: &mut JoinSet<()>, counts: &Arc<Counts>) {
    while sendings.try_join_next().is_some() {}
    let mut groups: Vec<Vec<Finished>> = Vec::new();
    for finished in waiting {
        let is_alike = |group: &&mut Vec<Finished>| {
            group.len() < TOGETHER
                && group.first().is_some_and(|first| {
                    first.callers.home.pod == finished.callers.home.pod && first.collector == finished.collector
                })
        };
        match groups.iter_mut().find(is_alike) {
            Some(group) => group.push(finished),
            None => groups.push(vec![finished]),
        }
    }
    for group in groups {
        let n_spans = group.len() as u64;
        if sendings.len() >= SENDINGS {
            counts.dropped.fetch_add(n_spans, Relaxed);
            continue;
        }
        let counts = counts.clone();
        sendings.spawn(async move {
            let count = match Box::pin(deliver(&group)).await {
                Ok(()) => &counts.told,
                Err(why) => {
                    tracing::debug!(%why, n_spans, "a collector was not told of spans");
                    &counts.failed
                }
            };
            count.fetch_add(n_spans, Relaxed);
        });
    }
}

/// Why spans were not told.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error("the pod is gone")]
    Gone,
    #[error("the collector can't be reached: {0}")]
    Unreached(&'static str),
    #[error("the collector broke off")]
    Broken,
    #[error("the collector did not answer in time")]
    Late,
    #[error("the collector answered {0}")]
    Refused(StatusCode),
    #[error("the collector answered with gRPC status {0}")]
    Grpc(String),
}

impl Untold {
    /// Whether another try may end better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Gone => false,
            Self::Unreached(_) | Self::Broken | Self::Late => true,
            Self::Refused(status) => {
                matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
            }
            // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS, as OTLP has it.
            Self::Grpc(status) => matches!(status.as_str(), "1" | "4" | "8" | "10" | "11" | "14" | "15"),
        }
    }
}

/// Tells one group, which is of one pod and one collector.
async fn deliver(group: &[Finished]) -> Result<(), Untold> {
    let Some(Finished { callers, collector, span: _ }) = group.first() else { return Ok(()) };
    let spans: Vec<&Span> = group.iter().map(|finished| &finished.span).collect();
    let bytes = encoded(&spans, collector.protocol);
    let mut pause = PAUSE;
    for n_try in 1..=TRIES {
        let asked = tokio::time::timeout(PATIENCE, Box::pin(ask(callers, collector, bytes.clone()))).await;
        match asked.unwrap_or(Err(Untold::Late)) {
            Err(why) if why.may_pass() && n_try < TRIES => {}
            ended => return ended,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(())
}

fn encoded(spans: &[&Span], protocol: SpanProtocol) -> Bytes {
    match protocol {
        SpanProtocol::OtlpHttp => otlp::Export::of(spans).encode_to_vec().into(),
        SpanProtocol::OtlpGrpc => {
            let message = otlp::Export::of(spans).encode_to_vec();
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            // Not compressed; so many bytes.
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            framed.put_slice(&message);
            framed.freeze()
        }
        SpanProtocol::Zipkin => zipkin::list(spans).into(),
    }
}

/// Asks the collector once.
async fn ask(callers: &Arc<Callers>, collector: &Collector, bytes: Bytes) -> Result<(), Untold> {
    let worker = &callers.worker;
    let mesh = worker.proxy.current();
    let caller = callers.home.pod.workload(&mesh).map_err(|_gone| Untold::Gone)?.clone();
    let Collector { service, port, protocol } = collector;
    let speaks = match protocol {
        SpanProtocol::OtlpHttp | SpanProtocol::Zipkin => Speaks::Http1,
        SpanProtocol::OtlpGrpc => Speaks::Http2,
    };
    let unreached = |fault: crate::http::fault::Fault| Untold::Unreached(fault.name());
    let mut endpoints = Endpoints::of(callers, &mesh, (service, *port, speaks), &caller).map_err(unreached)?;
    let mut lease = endpoints.lease(worker, &mesh).await.map_err(unreached)?;
    let request = request(service, (*port, *protocol), bytes);
    let answer = lease.send(request).await.map_err(|_unsent| Untold::Broken)?;
    let (head, body) = answer.into_parts();
    let body = http_body_util::Limited::new(body, MAX_ANSWER).collect().await.map_err(|_broken| Untold::Broken)?;
    lease.give_back();
    if !head.status.is_success() {
        return Err(Untold::Refused(head.status));
    }
    if *protocol == SpanProtocol::OtlpGrpc {
        let status = grpc_status(&head.headers).or_else(|| grpc_status(body.trailers()?));
        match status.as_deref() {
            Some("0") => {}
            other => return Err(Untold::Grpc(other.unwrap_or("none").to_owned())),
        }
    }
    Ok(())
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

fn request(service: &ObjectName, (port, protocol): (u16, SpanProtocol), bytes: Bytes) -> Request<Outgoing> {
    let (path, kind) = match protocol {
        SpanProtocol::OtlpHttp => ("/v1/traces", "application/x-protobuf"),
        SpanProtocol::OtlpGrpc => ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
        SpanProtocol::Zipkin => ("/api/v2/spans", "application/json"),
    };
    let host = format!("{}.{}:{port}", service.name, service.namespace);
    let length = bytes.len();
    let mut request = Request::new(Outgoing::Whole(Full::new(bytes)));
    *request.method_mut() = Method::POST;
    let path = PathAndQuery::from_static(path);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if protocol == SpanProtocol::OtlpGrpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        *request.version_mut() = Version::HTTP_2;
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path).build();
        *request.uri_mut() = uri.unwrap_or_default();
    } else {
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(HOST, host);
        }
        *request.uri_mut() = Uri::from(path);
    }
    request
}

#[derive(Debug)]
pub(super) struct Printed(pub(super) Arc<Counts>);

impl Collected for Printed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Counts { told, dropped, failed } = &*self.0;
        let help = "Spans, by what became of them";
        let mut family = encoder.encode_descriptor("proxy_spans", help, None, MetricType::Counter)?;
        for (outcome, count) in [("told", told), ("dropped", dropped), ("failed", failed)] {
            let label = [("outcome", outcome)];
            ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
