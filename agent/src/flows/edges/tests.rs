//! States what is added up on an edge, and that no flood of names grows without bound.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_abi::{EndEvent, FlowEvent, Reason, Side, account::state};
use millrace_node::clock;
use prometheus_client::registry::Registry;

use super::{Edges, IDLE, MOST};
use crate::flows::{
    Decided, Ended, Names,
    tests::{NOW, closed, denied, names, v4},
};

/// Everything that is printed, sorted.
fn printed(edges: &Arc<Edges>) -> Vec<String> {
    let mut registry = Registry::with_prefix("millrace");
    registry.register_collector(Box::new(edges.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn value(edges: &Arc<Edges>, name: &str, labels: &[&str]) -> Option<f64> {
    let lines = printed(edges);
    let is_it = |line: &&String| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|l| line.contains(l))
    };
    lines.iter().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

/// Tells the end of a connection at this time.
fn end(edges: &Edges, event: &EndEvent, names: &Names, now: Instant) {
    edges.ended(&Ended::of(event, names, NOW), now);
}

/// Tells a decision.
fn decide(edges: &Edges, event: &FlowEvent, names: &Names, now: Instant) {
    edges.decided(&Decided::of(event, names, NOW), names, now);
}

#[test]
fn an_edge_adds_up_what_was_opened_closed_and_refused() {
    let (edges, names, now) = (Arc::new(Edges::default()), names(), clock::now());
    let direct = FlowEvent { reason: Reason::Direct as u32, asked: v4(99), target: v4(2), ..denied() };
    decide(&edges, &direct, &names, now);
    end(&edges, &closed(), &names, now);
    let edge = [
        r#"reporter="client""#,
        r#"path="direct""#,
        r#"source_workload="web""#,
        r#"source_namespace="shop""#,
        r#"source_service_account="web-account""#,
        r#"destination_workload="api""#,
        r#"destination_namespace="shop""#,
        r#"destination_service="api""#,
    ];
    let of = |name: &str| value(&edges, name, &edge);
    assert_eq!(of("millrace_tcp_connections_opened_total"), Some(1.0));
    assert_eq!(
        (of("millrace_tcp_sent_bytes_total"), of("millrace_tcp_received_bytes_total")),
        (Some(100.0), Some(2000.0))
    );
    assert_eq!(of("millrace_tcp_retransmits_total"), Some(1.0));
    assert_eq!(of("millrace_tcp_connection_duration_seconds_sum"), Some(0.005));
    assert_eq!(of("millrace_tcp_rtt_seconds_count"), Some(1.0));
    let bucket = value(&edges, "millrace_tcp_connect_duration_seconds_bucket", &[edge[0], r#"le="0.0002""#]);
    assert_eq!(bucket, Some(1.0));
    let closed_as = value(&edges, "millrace_tcp_connections_closed_total", &[edge[4], r#"outcome="closed""#]);
    assert_eq!(closed_as, Some(1.0));

    decide(&edges, &denied(), &names, now);
    let refused = EndEvent { state: state::SYN_SENT, errno: 111, ..closed() };
    end(&edges, &refused, &names, now);
    for outcome in [r#"outcome="denied""#, r#"outcome="connect_refused""#] {
        assert_eq!(value(&edges, "millrace_tcp_connections_failed_total", &[outcome]), Some(1.0), "{outcome}");
    }
    assert_eq!(of("millrace_tcp_sent_bytes_total"), Some(100.0), "what was never established has no bytes");
}

#[test]
fn a_datagram_is_no_connection() {
    let (edges, names) = (Arc::new(Edges::default()), names());
    decide(&edges, &FlowEvent { is_datagram: 1, ..denied() }, &names, clock::now());
    assert_eq!(value(&edges, "millrace_agent_edges", &[]), Some(0.0));
}

#[test]
fn the_called_end_is_an_edge_of_its_own_whoever_tells() {
    let edge = [r#"reporter="server""#, r#"source_workload="web""#, r#"destination_workload="api""#];
    // By the proxy's dial: the caller is known by its address alone.
    let dialled = EndEvent {
        source: 0,
        sent: 2000,
        received: 100,
        side: Side::Server as u8,
        path: Reason::InProxyDial as u8,
        is_attested: 0,
        ..closed()
    };
    for (event, path) in [(dialled, r#"path="in_proxy_dial""#), (closed(), r#"path="in_attested""#)] {
        let (edges, names) = (Arc::new(Edges::default()), names());
        end(&edges, &event, &names, clock::now());
        let edge = [&edge[..], &[path]].concat();
        assert_eq!(value(&edges, "millrace_tcp_sent_bytes_total", &edge), Some(100.0), "{path}");
        assert_eq!(value(&edges, "millrace_tcp_received_bytes_total", &edge), Some(2000.0), "{path}");
        assert_eq!(value(&edges, "millrace_tcp_connect_duration_seconds_count", &edge), Some(0.0));
    }
    let (edges, names) = (Arc::new(Edges::default()), names());
    end(&edges, &EndEvent { state: state::SYN_SENT, errno: 111, ..closed() }, &names, clock::now());
    assert_eq!(value(&edges, "millrace_tcp_sent_bytes_total", &edge), None, "it never got there");
}

#[test]
fn what_is_over_the_cap_goes_to_one_series_and_is_counted() {
    let (edges, names, now) = (Arc::new(Edges::default()), names(), clock::now());
    for peer in 0..MOST as u64 + 5 {
        end(&edges, &EndEvent { source: 1 + peer, is_attested: 0, ..closed() }, &names, now);
    }
    assert_eq!(value(&edges, "millrace_agent_edges", &[]), Some(MOST as f64));
    assert_eq!(value(&edges, "millrace_agent_edges_other_total", &[]), Some(5.0));
    let other = [r#"source_workload="other""#, r#"reporter="client""#];
    assert_eq!(value(&edges, "millrace_tcp_sent_bytes_total", &other), Some(500.0));
    // One that is known goes on.
    end(&edges, &EndEvent { source: 1, is_attested: 0, ..closed() }, &names, now);
    assert_eq!(value(&edges, "millrace_agent_edges_other_total", &[]), Some(5.0));
}

#[test]
fn an_edge_on_which_nothing_happens_is_forgotten_and_leaves_its_room() {
    let (edges, names, now) = (Arc::new(Edges::default()), names(), clock::now());
    end(&edges, &EndEvent { is_attested: 0, ..closed() }, &names, now);
    end(&edges, &EndEvent { source: 5, is_attested: 0, ..closed() }, &names, now + IDLE / 2);
    edges.sweep(now + IDLE + Duration::from_secs(1));
    assert_eq!(value(&edges, "millrace_agent_edges", &[]), Some(1.0));
    assert_eq!(value(&edges, "millrace_agent_edges_forgotten_total", &[]), Some(1.0));
}
