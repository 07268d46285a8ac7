//! Answers are told from asks: who may not call is answered all the same, and nobody calls under the name of an answer.

use std::net::UdpSocket;

use libc::ECONNREFUSED;
use millrace_abi::{Dest, DestKind, PodKind, Reason};
use millrace_agent::kernel::Write;

use crate::node::{Family, Node, Pod, heard, is_silent};

/// A pod that takes datagrams of nobody without identity: its policy is in group 43.
fn closed(node: &Node) -> Pod {
    let client = node.pod();
    node.enrol(&client, DestKind::Local, 43);
    node.strangers(43, 0);
    client
}

/// DNS, as a pod that policies bind does it: the server is outside the mesh, and nobody's to name in a policy.
#[test]
fn a_closed_pod_is_answered_by_whom_it_asked_and_by_nobody_else() {
    let node = Node::new();
    let (client, outside) = (closed(&node), node.stranger());
    node.know(&outside, PodKind::Outside);
    let _echo = outside.echo("[::]:53", b'o');
    let other = outside.udp("0.0.0.0:54");
    for family in Family::ALL {
        let to = outside.address(family, 53);
        let socket = client.udp(if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" });
        socket.send_to(b"who", to).unwrap();
        assert_eq!(heard(&socket, &mut [0; 64]).1, to);
        // Connected, no program is asked.
        let socket = client.udp_for(to);
        socket.connect(to).unwrap();
        socket.send(b"who").unwrap();
        assert_eq!(heard(&socket, &mut [0; 64]).1, to);
    }
    assert_eq!(node.count(Reason::InUdpAnswer), 3);
    let socket = client.udp("0.0.0.0:0");
    socket.send_to(b"who", outside.address(Family::V4, 53)).unwrap();
    heard(&socket, &mut [0; 64]);
    let port = socket.local_addr().unwrap().port();
    other.send_to(b"me too", client.address(Family::V4, port)).unwrap();
    assert!(is_silent(&socket), "another port of the same machine was not asked");
}

/// Both ends are closed, and the policy lets the client call the server alone.
#[test]
fn a_server_answers_a_closed_client_that_it_may_not_call() {
    let node = Node::new();
    let (client, server) = (closed(&node), node.pod());
    node.enrol(&server, DestKind::Local, 42);
    node.strangers(42, 0);
    node.verdict(&client, 42, 1);
    node.verdict(&server, 43, 0);
    let listener = server.udp("[::]:5353");
    let mut buffer = [0; 64];
    for family in Family::ALL {
        let to = server.address(family, 5353);
        let (asking, connected) =
            (client.udp(if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" }), client.udp_for(to));
        connected.connect(to).unwrap();
        asking.send_to(b"who", to).unwrap();
        connected.send(b"who").unwrap();
        for _ in 0..2 {
            let (_, from) = heard(&listener, &mut buffer);
            listener.send_to(b"me", from).unwrap();
        }
        assert_eq!(heard(&asking, &mut buffer).1, to);
        assert_eq!(heard(&connected, &mut buffer).1, to);
        // What was not asked for is a call, and denied: from another port, and to another.
        let from = client.address(family, asking.local_addr().unwrap().port());
        let error = server.udp("[::]:0").send_to(b"hi", to_of(family, from)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(ECONNREFUSED));
        let error = listener.send_to(b"hi", to_of(family, client.address(family, 9))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(ECONNREFUSED));
    }
    assert_eq!(node.count(Reason::UdpAnswer), 6);
    assert_eq!(node.count(Reason::Denied), 6);
}

/// A dual-stack socket says IPv4 addresses as v4-mapped ones.
fn to_of(family: Family, address: std::net::SocketAddr) -> std::net::SocketAddr {
    match (family, address) {
        (Family::V4, std::net::SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        (_, address) => address,
    }
}

/// A server that connects a socket of its own to each client, as QUIC's and DTLS's do.
#[test]
fn a_server_may_connect_to_who_asked_it_from_where_it_was_asked() {
    let node = Node::new();
    let (client, server) = (closed(&node), node.pod());
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    node.verdict(&server, 43, 0);
    let reusing = || {
        let socket = server.run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap());
        socket.set_reuse_port(true).unwrap();
        socket.bind(&"0.0.0.0:5353".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.set_read_timeout(Some(crate::node::PATIENCE)).unwrap();
        UdpSocket::from(socket)
    };
    let listener = reusing();
    let to = server.address(Family::V4, 5353);
    let socket = client.udp_for(to);
    socket.connect(to).unwrap();
    socket.send(b"hello").unwrap();
    let (_, from) = heard(&listener, &mut [0; 64]);
    let accepted = reusing();
    accepted.connect(from).unwrap();
    accepted.send(b"welcome").unwrap();
    assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 7);
    assert_eq!(server.udp_for(from).connect(from).unwrap_err().raw_os_error(), Some(ECONNREFUSED));
}

/// What is an answer is so only while its ask would be let through: no policy is outlived by what was remembered before it.
#[test]
fn an_answer_to_who_may_ask_no_more_is_a_call() {
    let node = Node::new();
    let (client, server) = (closed(&node), node.pod());
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    node.verdict(&server, 43, 0);
    let listener = server.udp("0.0.0.0:5353");
    let socket = client.udp("0.0.0.0:0");
    socket.send_to(b"who", server.address(Family::V4, 5353)).unwrap();
    let (_, from) = heard(&listener, &mut [0; 64]);
    listener.send_to(b"me", from).unwrap();
    heard(&socket, &mut [0; 64]);
    node.verdict(&client, 42, 0);
    assert_eq!(listener.send_to(b"me", from).unwrap_err().raw_os_error(), Some(ECONNREFUSED));
    assert_eq!(
        socket.send_to(b"who", server.address(Family::V4, 5353)).unwrap_err().raw_os_error(),
        Some(ECONNREFUSED)
    );
    node.verdict(&client, 42, 1);
    listener.send_to(b"me", from).unwrap();
    heard(&socket, &mut [0; 64]);
}

/// A server that answers must not, by that, be taken for one who asked: its client would be let in whatever policy says.
#[test]
fn a_client_that_policy_turns_on_is_not_let_in_as_an_answer() {
    let node = Node::new();
    let (server, outside) = (node.pod(), node.stranger());
    node.know(&outside, PodKind::Outside);
    node.enrol(&server, DestKind::Local, 42);
    node.strangers(42, 1);
    let (listener, socket) = (server.udp("0.0.0.0:5353"), outside.udp("0.0.0.0:6000"));
    let to = server.address(Family::V4, 5353);
    for _ in 0..3 {
        socket.send_to(b"who", to).unwrap();
        let (_, from) = heard(&listener, &mut [0; 64]);
        listener.send_to(b"me", from).unwrap();
        heard(&socket, &mut [0; 64]);
    }
    node.strangers(42, 0);
    for _ in 0..3 {
        socket.send_to(b"who", to).unwrap();
        assert!(is_silent(&listener));
        listener.send_to(b"me again", outside.address(Family::V4, 6000)).unwrap();
    }
    // But one that the server asks itself answers.
    let asking = server.udp("0.0.0.0:0");
    asking.send_to(b"who", outside.address(Family::V4, 6000)).unwrap();
    let own = server.address(Family::V4, asking.local_addr().unwrap().port());
    socket.send_to(b"me", own).unwrap();
    heard(&asking, &mut [0; 64]);
}

/// Between nodes: the asker's node lets its answer in, and the asked one's lets it out, where neither may call the other.
#[test]
fn a_pod_of_another_node_is_answered_and_answers() {
    let node = Node::new();
    let (own, remote) = (closed(&node), node.stranger());
    // As its own node sees it: somebody else's, whose datagrams no hook of this node's pods runs for.
    node.know(&remote, PodKind::Outside);
    let dest = Dest { id: 9, group: 44, kind: DestKind::Remote as u32, udp: 0 };
    node.write(&Write::SetDest(remote.v4, dest));
    node.strangers(44, 1);
    let (socket, there) = (own.udp("0.0.0.0:0"), remote.udp("0.0.0.0:5353"));
    socket.send_to(b"who", remote.address(Family::V4, 5353)).unwrap();
    let (_, from) = heard(&there, &mut [0; 64]);
    there.send_to(b"me", from).unwrap();
    heard(&socket, &mut [0; 64]);
    // Now it asks, is let in, and may not be called: it is answered.
    node.strangers(43, 1);
    node.strangers(44, 0);
    let (listener, asking) = (own.udp("0.0.0.0:53"), remote.udp("0.0.0.0:6001"));
    asking.send_to(b"who", own.address(Family::V4, 53)).unwrap();
    let (_, from) = heard(&listener, &mut [0; 64]);
    listener.send_to(b"me", from).unwrap();
    heard(&asking, &mut [0; 64]);
    let error = listener.send_to(b"hi", remote.address(Family::V4, 6002)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ECONNREFUSED));
    assert_eq!((node.count(Reason::UdpAnswer), node.count(Reason::UdpNoIdentity)), (1, 1));
}
