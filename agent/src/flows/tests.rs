//! States what a flow record says, and that no follower is waited for.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use millrace_abi::{EndEvent, FlowEvent, Reason, Side, account::state};
use millrace_model::{
    Encryption, Identity, Membership, Mesh, ObjectName, Protocol, Service, ServicePort, Snapshot, Workload,
};
use millrace_node::{admin::Request, wire::node::Denial};

use super::{Decided, Ended, Flow, Flows, KEPT, Moment, Names, ended::Printed, from_proxy, rfc3339};

/// As linux/tcp_states.h numbers it.
const FIN_WAIT1: u8 = 4;

pub(super) const NOW: Moment = Moment { unix: Duration::from_secs(1_700_000_000), monotonic: Duration::from_secs(100) };

pub(super) fn v4(last: u8) -> millrace_abi::Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

pub(super) fn workload(name: &str, last: u8) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: "1".into(),
        identity: Identity::new("td", "shop", &format!("{name}-account")),
        addresses: vec![[10, 0, 0, last].into()],
        node: "a".into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    }
}

/// shop/web at 10.0.0.1 and shop/api at 10.0.0.2, which is service shop/api at 10.0.0.99:80; a policy.
pub(super) fn names() -> Names {
    let mut snapshot = Snapshot::default();
    for workload in [workload("web", 1), workload("api", 2)] {
        snapshot.workloads.insert(workload.name.clone(), Arc::new(workload));
    }
    let name = ObjectName::new("shop", "api");
    let port = ServicePort { port: 80, protocol: Protocol::Tcp, name: "http".into() };
    let service = Service {
        name: name.clone(),
        addresses: vec![[10, 0, 0, 99].into()],
        ports: vec![port],
        traffic: millrace_model::Traffic::default(),
    };
    snapshot.services.insert(name, Arc::new(service));
    Names::of(&Mesh::new(Arc::new(snapshot)))
}

/// web's connection to the service, straight to api on the same node, as web's end tells it.
pub(super) fn closed() -> EndEvent {
    EndEvent {
        at_ns: 99_000_000_000,
        source: workload("web", 1).id(),
        target: workload("api", 2).id(),
        policy: 0,
        sent: 100,
        received: 2000,
        duration_ns: 5_000_000,
        from: v4(1),
        asked: v4(99),
        to: v4(2),
        connect_us: 70,
        srtt_us: 33,
        retransmits: 1,
        from_port: 40_000u16.to_be_bytes(),
        asked_port: 80u16.to_be_bytes(),
        to_port: 8080u16.to_be_bytes(),
        errno: 0,
        side: Side::Client as u8,
        state: FIN_WAIT1,
        path: Reason::Direct as u8,
        is_attested: 1,
    }
}

fn decided(event: &FlowEvent) -> Flow {
    Decided::of(event, &names(), NOW).printed()
}

fn ended(event: &EndEvent) -> Printed {
    Ended::of(event, &names(), NOW).printed()
}

pub(super) fn denied() -> FlowEvent {
    FlowEvent {
        at_ns: 99_000_000_000,
        netns: 7,
        source: workload("web", 1).id(),
        policy: 12,
        asked: v4(1),
        target: v4(2),
        asked_port: 80u16.to_be_bytes(),
        target_port: 8080u16.to_be_bytes(),
        reason: Reason::Denied as u32,
        is_datagram: 0,
        reserved: 0,
    }
}

#[test]
fn a_record_names_caller_and_policy_and_says_when() {
    let flow = decided(&denied());
    assert_eq!(
        serde_json::to_string(&flow).unwrap(),
        r##"{"at":"2023-11-14T22:13:19.000000Z","event":"decided","verdict":"denied","source":"shop/web","netns":7,"asked":"10.0.0.1:80","target":"10.0.0.2:8080","policy":"#000000000000000c"}"##
    );
    let unknown = decided(&FlowEvent { reason: 250, source: 1, policy: 0, ..denied() });
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

#[test]
fn an_end_names_both_ends_and_counts_bytes_the_same_way_whoever_tells() {
    let client = ended(&closed());
    assert_eq!(
        serde_json::to_string(&client).unwrap(),
        r#"{"at":"2023-11-14T22:13:19.000000Z","event":"ended","verdict":"closed","side":"client","path":"direct","source":"shop/web","source_address":"10.0.0.1:40000","asked":"10.0.0.99:80","target":"10.0.0.2:8080","target_workload":"shop/api","service":"shop/api","policy":"","bytes_sent":100,"bytes_received":2000,"duration_us":5000,"connect_us":70,"rtt_us":33,"retransmits":1}"#
    );
    let event = EndEvent {
        source: 0, // Of the proxy's dial: known by its address alone.
        sent: 2000,
        received: 100,
        connect_us: 0,
        asked: v4(2),
        asked_port: 8080u16.to_be_bytes(),
        side: Side::Server as u8,
        path: Reason::InProxyDial as u8,
        ..closed()
    };
    let server = ended(&event);
    let told = Printed {
        side: "server",
        path: "in_proxy_dial",
        asked: "10.0.0.2:8080".into(),
        service: String::new(),
        connect_us: 0,
        ..client
    };
    assert_eq!(server, told);
}

/// To the kernel a captured connection is one over loopback, to the backend that it drew; the proxy draws again.
#[test]
fn a_captured_connection_is_told_by_the_pods_address_and_without_a_target_that_the_proxy_chooses() {
    let captured = EndEvent {
        path: Reason::Proxied as u8,
        from: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1],
        ..closed()
    };
    let by_service = ended(&captured);
    assert_eq!((&*by_service.source_address, &*by_service.target), ("10.0.0.1:40000", ""));
    assert_eq!((&*by_service.service, &*by_service.target_workload), ("shop/api", ""));
    let captured = EndEvent { asked: v4(2), asked_port: 8080u16.to_be_bytes(), ..captured };
    let by_address = ended(&captured);
    assert_eq!((&*by_address.target, &*by_address.target_workload), ("10.0.0.2:8080", "shop/api"));
}

#[test]
fn every_end_has_a_name() {
    use state::{CLOSE_WAIT, ESTABLISHED, SYN_SENT};
    for (state, errno, name) in [
        (SYN_SENT, 0, "abandoned"),
        (SYN_SENT, libc::ECONNREFUSED, "connect_refused"),
        (SYN_SENT, libc::ETIMEDOUT, "connect_timeout"),
        (SYN_SENT, libc::EHOSTUNREACH, "unreachable"),
        (SYN_SENT, libc::ECONNABORTED, "connect_failed"),
        (ESTABLISHED, libc::ECONNRESET, "reset"),
        (CLOSE_WAIT, libc::EPIPE, "reset"),
        (ESTABLISHED, libc::ETIMEDOUT, "timed_out"),
        (ESTABLISHED, libc::ECONNABORTED, "destroyed"),
        (ESTABLISHED, 0, "aborted"),
        (CLOSE_WAIT, 0, "aborted"),
        (FIN_WAIT1, 0, "closed"),
        (9, 0, "closed"), // TCP_LAST_ACK.
        (FIN_WAIT1, libc::EIO, "failed"),
    ] {
        let event = EndEvent { state, errno: u16::try_from(errno).unwrap(), ..closed() };
        assert_eq!(ended(&event).verdict, name, "state {state}, errno {errno}");
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
        flows.record(from_proxy(denial(n.to_string()), NOW));
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
        flows.record(Decided::of(&denied(), &Names::default(), NOW));
    }
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"at\"") && first.ends_with(b"}\n"));
}
