//! A backend that has closed its listener is passed over before anybody says that it goes.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
};

use millrace_abi::DestKind;
use socket2::{Domain, Protocol};

use crate::{
    node::{Family, Node},
    service::{Eight, VIP, affine, connects},
};

/// Draws enough that one of eight, were it drawn at all, would be: (7/8)^200.
const DRAWS: usize = 200;

#[test]
fn a_backend_that_closed_its_listener_is_given_nothing_from_that_moment() {
    let node = Node::new();
    let mut server = Eight::new(&node);
    node.service(VIP, 1, &server.backends(server.0.v4));
    let client = node.pod();
    connects(&client, VIP, DRAWS);
    assert_eq!(server.took().len(), 8, "each is given some");
    while server.1.len() > 1 {
        server.1.remove(server.1.len() / 2);
        connects(&client, VIP, DRAWS); // None of them fails.
        assert_eq!(server.took().len(), server.1.len(), "each that listens still is given some");
    }
    server.1.clear();
    let vip: SocketAddr = VIP.parse().unwrap();
    assert_eq!(client.refused(vip), Some(libc::ECONNREFUSED), "where nobody listens, a backend refuses");
    server.1.push(server.0.listens("::", 8085));
    server.1[0].set_nonblocking(true).unwrap();
    connects(&client, VIP, DRAWS);
    assert_eq!(server.took().keys().collect::<Vec<_>>(), [&8085], "who listens again is found at once");
}

#[test]
fn a_client_that_stays_with_a_backend_leaves_it_when_its_listener_closes() {
    let node = Node::new();
    let mut server = Eight::new(&node);
    affine(&node, VIP, 1, &server.backends(server.0.v4));
    let client = node.pod();
    for _ in 0..7 {
        connects(&client, VIP, 20);
        let took = server.took();
        assert_eq!(took.len(), 1, "it stays with one: {took:?}");
        server.1.retain(|listener| !took.contains_key(&listener.local_addr().unwrap().port()));
    }
    connects(&client, VIP, 1);
}

/// A server that is started again beside itself opens a listener before the older one closes.
#[test]
fn a_port_with_another_listener_is_open_still() {
    let node = Node::new();
    let (server, client) = (node.pod(), node.pod());
    let listens = |port: u16| {
        let socket = server.socket(Domain::IPV4, Protocol::TCP);
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).unwrap();
        socket.listen(4096).unwrap();
        socket
    };
    let (older, other) = (listens(8081), listens(8082));
    let newer = listens(8081);
    node.service(VIP, 1, &[(server.v4, 8081), (server.v4, 8082)]);
    drop(older);
    drop(other);
    connects(&client, VIP, DRAWS); // All to the newer one.
    drop(newer);
    let straight = server.address(Family::V4, 8081);
    assert!(client.run(|| TcpStream::connect(straight)).is_err(), "and then nobody listens");
}

/// As an application does that is quicker than the agent: its namespace is nobody's yet.
#[test]
fn a_listener_from_before_its_pod_was_known_is_passed_over_when_it_closes() {
    let node = Node::new();
    let (server, client) = (node.stranger(), node.pod());
    let (goes, stays) = (server.listens("::", 8081), server.listens("::", 8082));
    node.enrol(&server, DestKind::Local, 0);
    node.kernel().attach_pod(server.netns.as_fd(), server.cookie).unwrap();
    node.service(VIP, 1, &[(server.v4, 8081), (server.v4, 8082)]);
    drop(goes);
    connects(&client, VIP, DRAWS); // All to the one that stays.
    drop(stays);
    let vip: SocketAddr = VIP.parse().unwrap();
    assert_eq!(client.refused(vip), Some(libc::ECONNREFUSED), "and then nobody listens");
}
