//! `inbound`, for datagrams: what arrives at a pod's unconnected sockets is judged once more, whoever sent it and however.

use std::io::ErrorKind;

use millrace_abi::{Dest, DestKind, PodKind, Reason, udp::NO_STRANGERS};
use millrace_agent::kernel::Write;
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{Family, Node, Pod, heard, is_silent, udp_header, until};

/// A server bound by policies, and a pod that is not in the mesh.
fn pair(node: &Node) -> (Pod, Pod) {
    let (server, outside) = (node.pod(), node.stranger());
    node.know(&outside, PodKind::Outside);
    node.enrol(&server, DestKind::Local, 42);
    (server, outside)
}

#[test]
fn who_has_no_identity_gets_what_policy_gives_to_such() {
    let node = Node::new();
    let (server, outside) = pair(&node);
    let listener = server.udp("[::]:5353");
    node.record_flows();
    node.strangers(42, 0);
    for (udp, reason) in [(0, Reason::InUdpNoIdentity), (NO_STRANGERS, Reason::InUdpBetweenNodes)] {
        for addr in [server.v4, server.v6] {
            let dest = Dest { id: server.id, group: 42, kind: DestKind::Local as u32, udp };
            node.write(&Write::SetDest(addr, dest));
        }
        for family in Family::ALL {
            let to = server.address(family, 5353);
            let socket = outside.udp_for(to);
            socket.connect(to).unwrap();
            socket.send(b"hi").unwrap();
            // The sender is told what it is of a closed port.
            let error = socket.recv(&mut [0; 64]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
        }
        assert_eq!(node.count(reason), 3);
    }
    let mut policies = Vec::new();
    node.kernel().flows(&mut |event| policies.push(event.policy));
    assert_eq!(policies.len(), 4, "one for each family and reason");
    assert!(policies.starts_with(&[9, 9]), "the policy is named: {policies:?}");
    // No access policy opens what encryption closes.
    node.strangers(42, 1);
    outside.udp("0.0.0.0:0").send_to(b"hi", server.address(Family::V4, 5353)).unwrap();
    assert!(is_silent(&listener));
    node.enrol(&server, DestKind::Local, 42);
    outside.udp("0.0.0.0:0").send_to(b"hi", server.address(Family::V4, 5353)).unwrap();
    assert_eq!(heard(&listener, &mut [0; 64]).0, 2);
}

#[test]
fn a_pod_that_no_policy_selects_takes_datagrams_of_everybody() {
    let node = Node::new();
    let (server, outside) = pair(&node);
    node.enrol(&server, DestKind::Local, 0);
    let _echo = server.echo("[::]:5353", b's');
    for family in Family::ALL {
        let to = server.address(family, 5353);
        let socket = outside.udp_for(to);
        socket.send_to(b"hi", to).unwrap();
        assert_eq!(heard(&socket, &mut [0; 64]).1, to);
    }
}

/// A raw socket runs no hook of the source's; the destination asks all the same, and of this very pod.
#[test]
fn a_pod_that_sends_round_the_hooks_is_judged_as_who_it_is() {
    let node = Node::new();
    let (server, _) = pair(&node);
    let client = node.pod();
    let listener = server.udp("[::]:5353");
    let raw = client.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap());
    let send = || raw.send_to(&udp_header(7777, 5353, b"raw"), &server.address(Family::V4, 0).into()).unwrap();
    node.strangers(42, 1);
    node.verdict(&client, 42, 0);
    send();
    until(|| node.count(Reason::InUdpDenied) > 0);
    assert_eq!(node.count(Reason::InUdpDenied), 1);
    assert!(is_silent(&listener));
    node.verdict(&client, 42, 1);
    send();
    assert_eq!(heard(&listener, &mut [0; 64]).1, client.address(Family::Mapped, 7777));
}

/// What policy turns is turned at once, for sockets that are open as for new ones.
#[test]
fn a_policy_that_turns_holds_for_the_next_datagram() {
    let node = Node::new();
    let (server, outside) = pair(&node);
    let listener = server.udp("0.0.0.0:5353");
    let socket = outside.udp("0.0.0.0:0");
    for allow in [1, 0, 1, 0] {
        node.strangers(42, allow);
        socket.send_to(b"hi", server.address(Family::V4, 5353)).unwrap();
        if allow == 1 {
            listener.set_read_timeout(Some(crate::node::PATIENCE)).unwrap();
            heard(&listener, &mut [0; 64]);
        } else {
            assert!(is_silent(&listener));
        }
    }
}

#[test]
fn an_address_that_the_mesh_does_not_know_takes_answers_alone() {
    let node = Node::new();
    let (server, outside) = pair(&node);
    crate::node::ip(&format!("-n {} addr add 10.77.0.200/24 dev eth0", server.name()));
    let listener = server.udp("10.77.0.200:5353");
    let there = outside.udp("0.0.0.0:6000");
    there.send_to(b"hi", "10.77.0.200:5353").unwrap();
    assert!(is_silent(&listener), "an address of the pod's that is not registered opens a way round policy");
    assert_eq!(node.count(Reason::InUnknownAddress), 1);
    listener.send_to(b"ask", outside.address(Family::V4, 6000)).unwrap();
    there.send_to(b"answer", "10.77.0.200:5353").unwrap();
    assert_eq!(heard(&listener, &mut [0; 64]).0, 6);
}

/// More than the kernel gives at a time, and of prefixes of all kinds.
#[test]
fn what_strangers_get_is_read_back_whole() {
    let node = Node::new();
    node.strangers(42, 1);
    for n in 0..700u16 {
        node.stranger_at(42, &format!("10.9.{}.{}", n / 256, n % 256), 5353, 0);
    }
    let read = node.kernel().state().unwrap().strangers;
    assert_eq!(read.len(), 701);
    assert_eq!(read.values().filter(|verdict| verdict.allow == 1).count(), 1);
    node.restart_agent();
    assert_eq!(node.kernel().state().unwrap().strangers, read);
}

#[test]
fn loopback_is_the_pods_own_and_comes_from_nowhere_else() {
    let node = Node::new();
    let (server, _) = pair(&node);
    let _echo = server.echo("[::]:5353", b'l');
    for to in ["127.0.0.1:5353", "[::1]:5353"] {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let socket = server.udp_for(to);
        socket.send_to(b"hi", to).unwrap();
        assert_eq!(heard(&socket, &mut [0; 64]).1, to);
    }
    assert!(node.count(Reason::InLoopback) >= 2);
}

/// A pod whose listeners are not open yet is judged like any: datagrams need none.
#[test]
fn a_pod_that_is_pending_is_judged() {
    let node = Node::new();
    let (server, outside) = pair(&node);
    node.enrol(&server, DestKind::Pending, 42);
    node.strangers(42, 0);
    let listener = server.udp("0.0.0.0:5353");
    outside.udp("0.0.0.0:0").send_to(b"hi", server.address(Family::V4, 5353)).unwrap();
    assert!(is_silent(&listener));
    // Of a workload on another node, whose address this pod has taken for its own, nobody is let in.
    let dest = Dest { id: 9, group: 0, kind: DestKind::Remote as u32, udp: 0 };
    node.write(&Write::SetDest(server.v4, dest));
    outside.udp("0.0.0.0:0").send_to(b"hi", server.address(Family::V4, 5353)).unwrap();
    assert!(is_silent(&listener));
    assert_eq!(node.count(Reason::InUnknownAddress), 1);
}
