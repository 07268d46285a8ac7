//! Flow records and counters: what is written of a decision, when it is, and what becomes of one that has no room.

use millrace_abi::{FlowEvent, Reason, capacity};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use crate::node::{Family, Node, addr};

/// Every record that waits.
fn records(node: &Node) -> Vec<FlowEvent> {
    let mut records = Vec::new();
    node.kernel().flows(&mut |record| records.push(record));
    records
}

#[test]
fn a_decision_is_always_counted_and_recorded_only_while_that_is_asked_for() {
    let node = Node::new();
    let client = node.pod();
    node.service("10.96.0.10:80", 1, &[]);
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    assert_eq!((node.count(Reason::NoBackend), records(&node).len()), (1, 0));
    node.record_flows();
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    let records = records(&node);
    assert_eq!((node.count(Reason::NoBackend), records.len()), (2, 1));
    let record = records[0];
    assert_eq!((record.reason, record.netns, record.source), (Reason::NoBackend as u32, client.cookie, client.id));
    assert_eq!((record.asked, record.asked_port), (addr("10.96.0.10"), 80u16.to_be_bytes()));
    assert_ne!(record.at_ns, 0);
}

#[test]
fn a_record_says_what_was_asked_for_and_where_it_went_in_each_family() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _listener = server.listens("::", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    node.service("[fd96::10]:80", 2, &[(server.v6, 8080)]);
    node.record_flows();
    for family in Family::ALL {
        let _stream = client.connects(family.address("10.96.0.10", "fd96::10", 80)).unwrap();
        let (asked, target) =
            if family == Family::V6 { (addr("fd96::10"), server.v6) } else { (addr("10.96.0.10"), server.v4) };
        let found = records(&node);
        let record = found.iter().find(|record| record.reason == Reason::Direct as u32).unwrap();
        assert_eq!((record.asked, record.target), (asked, target), "{family:?}");
        assert_eq!(record.target_port, 8080u16.to_be_bytes());
    }
}

#[test]
fn a_record_that_has_no_room_is_counted_and_the_connection_is_not_held_up() {
    let node = Node::new();
    let client = node.pod();
    node.service("10.96.0.10:80", 1, &[]);
    node.record_flows();
    // A record and its head; the ring holds no more than its size of them.
    let n_held = u64::from(capacity::FLOW_BYTES) / (size_of::<FlowEvent>() as u64 + 8);
    let n_connects = n_held + 1000;
    client.run(|| {
        for _ in 0..n_connects {
            std::net::TcpStream::connect("10.96.0.10:80").unwrap_err();
        }
    });
    assert_eq!(node.count(Reason::NoBackend), n_connects);
    let (dropped, held) = (node.count(Reason::FlowDropped), records(&node).len() as u64);
    assert_eq!(dropped + held, n_connects, "a record was neither written nor counted");
    assert!(dropped >= 1000, "{dropped} dropped of {n_connects}");
    // Once it was read there is room again.
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    assert_eq!(records(&node).len(), 1);
}

#[test]
fn the_agent_is_woken_as_the_ring_is_half_full_and_not_before() {
    let node = Node::new();
    let client = node.pod();
    node.service("10.96.0.10:80", 1, &[]);
    node.record_flows();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let told = node.kernel().told().unwrap();
    let on_change = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &told, epoll::EventData::new_u64(0), on_change).unwrap();
    let is_woken = |within_s| {
        let (mut events, within) = (Vec::with_capacity(1), Timespec { tv_sec: within_s, tv_nsec: 0 });
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&within)).unwrap();
        !events.is_empty()
    };
    let record = |n| {
        client.run(|| {
            for _ in 0..n {
                std::net::TcpStream::connect("10.96.0.10:80").unwrap_err();
            }
        });
    };
    let half = u64::from(capacity::FLOW_BYTES) / 2 / (size_of::<FlowEvent>() as u64 + 8);
    for _ in 0..2 {
        record(half - 100);
        assert!(!is_woken(0), "woken too soon");
        record(200);
        assert!(is_woken(5), "nobody is woken");
        assert_eq!(records(&node).len() as u64, half + 100);
    }
}
