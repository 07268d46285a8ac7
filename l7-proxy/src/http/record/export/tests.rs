//! States what collectors are sent. That real ones take it is a lab test's to say.

use std::time::Duration;

use millrace_model::telemetry::SpanProtocol;
use serde_json::json;

use super::{Kind, Span, Untold, encoded};

fn span(kind: Kind, id: u64, parent: Option<u64>) -> Span {
    Span {
        trace: 0xabc,
        id,
        parent,
        kind,
        name: "GET".to_owned(),
        service: "web.shop".to_owned(),
        pod: Some("shop/web-1".to_owned()),
        start: Duration::from_micros(1_000_000),
        took: Duration::from_micros(250),
        peer: Some("10.0.0.7:8080".parse().unwrap()),
        texts: vec![("http.path", "/x".to_owned())],
        code: 503,
        grpc: None,
        error: Some("connect_refused".to_owned()),
    }
}

#[test]
fn zipkin_is_sent_its_second_version() {
    let spans = [span(Kind::Client, 1, None), span(Kind::Server, 2, Some(1))];
    let bytes = encoded(&spans.iter().collect::<Vec<_>>(), SpanProtocol::Zipkin);
    let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let client = json!({
        "traceId": "00000000000000000000000000000abc", "id": "0000000000000001", "kind": "CLIENT", "name": "GET",
        "timestamp": 1_000_000, "duration": 250, "localEndpoint": {"serviceName": "web.shop"},
        "remoteEndpoint": {"ipv4": "10.0.0.7", "port": 8080},
        "tags": {"http.path": "/x", "http.status_code": "503", "k8s.pod": "shop/web-1", "error": "connect_refused"},
    });
    assert_eq!(told[0], client);
    assert_eq!((&told[1]["parentId"], &told[1]["kind"]), (&json!("0000000000000001"), &json!("SERVER")));
}

#[test]
fn grpc_is_the_protobuf_with_its_length_before_it() {
    let span = span(Kind::Client, 1, None);
    let (plain, framed) = (encoded(&[&span], SpanProtocol::OtlpHttp), encoded(&[&span], SpanProtocol::OtlpGrpc));
    assert_eq!(framed[0], 0);
    assert_eq!(framed[1..5], u32::try_from(plain.len()).unwrap().to_be_bytes());
    assert_eq!(framed[5..], plain[..]);
    // The field that holds the trace's id, as protobuf has it: tag 1, 16 bytes.
    let id = [[0x0a, 16].as_slice(), &0xabc_u128.to_be_bytes()].concat();
    assert!(plain.windows(id.len()).any(|window| window == id), "{plain:?}");
}

#[test]
fn only_what_may_pass_is_tried_again() {
    let refused = |status| Untold::Refused(http::StatusCode::from_u16(status).unwrap()).may_pass();
    assert!(refused(503) && refused(429) && !refused(400) && !refused(500));
    let grpc = |status: &str| Untold::Grpc(status.to_owned()).may_pass();
    assert!(grpc("14") && !grpc("3") && !grpc("none"));
    assert!(Untold::Late.may_pass() && !Untold::Gone.may_pass());
}
