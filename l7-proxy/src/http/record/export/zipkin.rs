//! Spans as Zipkin's JSON, version 2.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::{Kind, Span};

/// A list of these.
pub(super) fn list(spans: &[&Span]) -> Vec<u8> {
    Value::from(spans.iter().map(|span| told(span)).collect::<Vec<_>>()).to_string().into_bytes()
}

fn told(span: &Span) -> Value {
    let Span { trace, id, parent, kind, name, service, pod, start, took, peer, texts, code, grpc, error } = span;
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut tags: Map<String, Value> =
        texts.iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    let mut tag = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            tags.insert(key.to_owned(), value.into());
        }
    };
    tag("http.status_code", Some(code.to_string()).filter(|_| *code > 0));
    tag("grpc.status_code", grpc.map(|status| status.to_string()));
    tag("k8s.pod", pod.clone());
    tag("error", error.clone());
    let mut told = json!({
        "traceId": format!("{trace:032x}"),
        "id": format!("{id:016x}"),
        "kind": match kind {
            Kind::Client => "CLIENT",
            Kind::Server => "SERVER",
        },
        "name": name,
        "timestamp": micros(*start),
        // Zipkin takes 0 for a duration that is not known.
        "duration": micros(*took).max(1),
        "localEndpoint": {"serviceName": service},
        "tags": tags,
    });
    if let Some(fields) = told.as_object_mut() {
        if let Some(parent) = parent {
            fields.insert("parentId".to_owned(), format!("{parent:016x}").into());
        }
        if let Some(peer) = peer {
            fields.insert("remoteEndpoint".to_owned(), endpoint(*peer));
        }
    }
    told
}

fn endpoint(address: SocketAddr) -> Value {
    match address.ip() {
        IpAddr::V4(ip) => json!({"ipv4": ip.to_string(), "port": address.port()}),
        IpAddr::V6(ip) => json!({"ipv6": ip.to_string(), "port": address.port()}),
    }
}
