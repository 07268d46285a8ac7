//! States what a flow record says, and that no follower is waited for.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use millrace_abi::{FlowEvent, Reason};
use millrace_node::{admin::Request, wire::node::Denial};

use super::{Flows, KEPT, Moment, Names, from_kernel, from_proxy, rfc3339};

const NOW: Moment = Moment { unix: Duration::from_secs(1_700_000_000), monotonic: Duration::from_secs(100) };

fn denied() -> FlowEvent {
    let v4 = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    FlowEvent {
        at_ns: 99_000_000_000,
        netns: 7,
        source: 11,
        policy: 12,
        asked: v4(1),
        target: v4(2),
        asked_port: 80u16.to_be_bytes(),
        target_port: 8080u16.to_be_bytes(),
        reason: Reason::Denied as u32,
        reserved: 0,
    }
}

#[test]
fn a_record_names_caller_and_policy_and_says_when() {
    let names =
        Names { workloads: [(11, "shop/web".to_owned())].into(), policies: [(12, "shop/only-api".to_owned())].into() };
    let flow = from_kernel(&denied(), &names, NOW);
    assert_eq!(
        serde_json::to_string(&flow).unwrap(),
        r#"{"at":"2023-11-14T22:13:19.000000Z","verdict":"denied","source":"shop/web","netns":7,"asked":"10.0.0.1:80","target":"10.0.0.2:8080","policy":"shop/only-api"}"#
    );
    let unknown = from_kernel(&FlowEvent { reason: 250, source: 1, policy: 0, ..denied() }, &names, NOW);
    assert_eq!((&*unknown.verdict, &*unknown.source, &*unknown.policy), ("reason_250", "#0000000000000001", ""));
}

#[test]
fn times_are_printed_as_the_calendar_has_them() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_799, "2000-02-29T23:59:59.000000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
    ] {
        assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
    }
}

fn ask(uri: &str) -> Request {
    http::Request::builder().uri(uri).body(bytes::Bytes::new()).unwrap()
}

#[tokio::test]
async fn the_last_records_are_kept_and_older_ones_let_go() {
    let flows = Arc::new(Flows::default());
    let denial =
        |policy: String| Denial { source: String::new(), target: String::new(), reason: "denied".into(), policy };
    for n in 0..KEPT + 5 {
        flows.record(&from_proxy(denial(n.to_string()), NOW));
    }
    let body = flows.answer(&ask("/flows?follow=false")).into_body().collect().await.unwrap().to_bytes();
    let lines: Vec<&str> = std::str::from_utf8(&body).unwrap().lines().collect();
    assert_eq!(lines.len(), KEPT);
    assert!(lines[0].contains(r#""policy":"5""#), "{}", lines[0]);
    assert_eq!(flows.answer(&ask("/flows?x")).status(), 400);
}

#[tokio::test]
async fn a_follower_sees_what_comes_and_one_who_sleeps_holds_nobody_up() {
    let flows = Arc::new(Flows::default());
    let mut body = flows.answer(&ask("/flows")).into_body();
    for _ in 0..3 * KEPT {
        flows.record(&from_kernel(&denied(), &Names::default(), NOW));
    }
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"at\"") && first.ends_with(b"}\n"));
}
