//! `told`: of datagrams each decision is told once in a while, and no pod has more records in a second than are its own.

use std::{net::UdpSocket, time::Duration};

use millrace_abi::{
    DestKind, FlowEvent, Reason,
    udp::{FLOWS_PER_POD, TOLD_LIFE_NS},
};
use millrace_lab::clock;

use crate::node::{Family, Node, Pod};

fn flows(node: &Node) -> Vec<FlowEvent> {
    let mut events = Vec::new();
    node.kernel().flows(&mut |event| events.push(event));
    events
}

/// A pod that nobody may call, and what it is called by, which may and may not.
fn scene(node: &Node) -> (Pod, UdpSocket) {
    let (client, server) = (node.pod(), node.pod());
    node.record_flows();
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 0);
    let socket = client.udp("0.0.0.0:0");
    (server, socket)
}

#[test]
fn a_decision_that_is_taken_again_and_again_is_told_once_and_another_by_itself() {
    let node = Node::new();
    let (server, socket) = scene(&node);
    let began = clock::now();
    for port in [53, 53, 53, 54, 53, 54] {
        socket.send_to(b"who", server.address(Family::V4, port)).unwrap_err();
    }
    let ports: Vec<u16> = flows(&node).iter().map(|event| u16::from_be_bytes(event.asked_port)).collect();
    assert!(began.elapsed() < Duration::from_nanos(TOLD_LIFE_NS), "a machine that stands still says nothing of this");
    assert_eq!(ports, [53, 54]);
    assert_eq!(node.count(Reason::Denied), 6, "counted each time");
    // The same, decided otherwise, is another decision.
    node.enrol(&server, DestKind::Local, 0);
    let _server = server.udp("0.0.0.0:53");
    socket.send_to(b"who", server.address(Family::V4, 53)).unwrap();
    let reasons: Vec<u32> = flows(&node).iter().map(|event| event.reason).collect();
    assert!(reasons.contains(&(Reason::UdpDirect as u32)), "{reasons:?}");
}

/// It is told again once its time is over; all that the clock has to show is that it is more than nothing.
#[test]
fn what_goes_on_is_told_again_after_ten_seconds() {
    let node = Node::new();
    let (server, socket) = scene(&node);
    let to = server.address(Family::V4, 53);
    let began = clock::now();
    let mut told = Vec::new();
    while told.len() < 2 {
        assert!(began.elapsed() < 3 * Duration::from_nanos(TOLD_LIFE_NS), "told {} times", told.len());
        socket.send_to(b"who", to).unwrap_err();
        told.extend(flows(&node).into_iter().map(|event| event.at_ns));
        std::thread::sleep(Duration::from_millis(20)); // A sender's pace.
    }
    assert!(told[1] - told[0] >= TOLD_LIFE_NS, "{told:?}");
    assert!(told[1] - told[0] < 2 * TOLD_LIFE_NS, "{told:?}");
}

#[test]
fn one_pods_records_have_a_pace_and_do_not_take_anothers() {
    let node = Node::new();
    let (server, socket) = scene(&node);
    let other = node.pod();
    node.verdict(&other, 42, 0);
    let began = clock::now();
    let n = 20 * u64::from(FLOWS_PER_POD);
    for port in (1000u16..).take(usize::try_from(n).unwrap()) {
        socket.send_to(b"who", server.address(Family::V4, port)).unwrap_err();
    }
    let seconds = began.elapsed().as_secs() + 2; // The first and the last may be begun ones.
    let n_told = flows(&node).len() as u64;
    assert!((1..=u64::from(FLOWS_PER_POD) * seconds).contains(&n_told), "{n_told} in {seconds} s");
    assert_eq!(node.count(Reason::UdpFlowPaced), n - n_told, "what is not told for that is counted");
    other.udp("0.0.0.0:0").send_to(b"who", server.address(Family::V4, 53)).unwrap_err();
    assert_eq!(flows(&node).len(), 1);
}
