//! Spans as OpenTelemetry's protobuf (`opentelemetry/proto/collector/trace/v1`), of which these are the messages and fields in use.

use std::collections::BTreeMap;

use prost::Message;

use super::{Kind, Span};

/// The name under which spans are told.
const SCOPE: &str = "millrace";

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Told>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

/// `Span`
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Text(value.to_owned())) }) }
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = Value::Number(i64::try_from(value).unwrap_or(i64::MAX));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// Whose spans: a service, and a pod of it.
type Owner<'s> = (&'s str, Option<&'s str>);

impl Export {
    /// These spans, those of one service together.
    pub(super) fn of(spans: &[&Span]) -> Self {
        let mut by_service: BTreeMap<Owner<'_>, Vec<&Span>> = BTreeMap::new();
        for span in spans {
            by_service.entry((&span.service, span.pod.as_deref())).or_default().push(span);
        }
        let resource = |((service, pod), spans): (Owner<'_>, Vec<&Span>)| {
            let mut attributes = vec![text("service.name", service)];
            if let Some((namespace, name)) = pod.and_then(|pod| pod.split_once('/')) {
                attributes.extend([text("k8s.namespace.name", namespace), text("k8s.pod.name", name)]);
            }
            let scope = Some(Scope { name: SCOPE.to_owned() });
            let scope_spans = vec![ScopeSpans { scope, spans: spans.into_iter().map(told).collect() }];
            ResourceSpans { resource: Some(Resource { attributes }), scope_spans }
        };
        Self { resource_spans: by_service.into_iter().map(resource).collect() }
    }
}

fn told(span: &Span) -> Told {
    let Span { trace, id, parent, kind, name, service: _, pod: _, start, took, peer, texts, code, grpc, error } = span;
    let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut attributes: Vec<KeyValue> = texts.iter().map(|(key, value)| text(key, value)).collect();
    if let Some(peer) = peer {
        attributes.push(text("network.peer.address", &peer.ip().to_string()));
        attributes.push(number("network.peer.port", peer.port().into()));
    }
    if *code > 0 {
        attributes.push(number("http.response.status_code", (*code).into()));
    }
    if let Some(status) = grpc {
        attributes.push(number("rpc.grpc.status_code", (*status).into()));
    }
    Told {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: parent.map_or(Vec::new(), |parent| parent.to_be_bytes().to_vec()),
        name: name.clone(),
        kind: match kind {
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: nanos(*start),
        end_time_unix_nano: nanos(*start + *took),
        attributes,
        // 2 is an error; what is none says nothing.
        status: error.as_ref().map(|error| Status { message: error.clone(), code: 2 }),
    }
}
