//! `by_service`: UDP sockets of a pod are listed with the service that they were connected by; and nobody else's, nor others of its own.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
};

use millrace_agent::{
    kernel::Connected,
    revoke::{Seen, see_datagrams},
};

use crate::node::{Family, Node, Pod, heard};

/// UDP services of both families, of one backend.
const SERVICES: [&str; 2] = ["10.96.0.53:53", "[fd96::53]:53"];

/// What the iterator says of a pod's sockets, by their own addresses as sock_diag has them.
fn listed(node: &Node, pod: &Pod) -> BTreeMap<SocketAddr, Connected> {
    let by_service = node.kernel().by_service().unwrap();
    pod.run(|| {
        let listed = by_service.list().unwrap();
        let mut seen = Seen::default();
        see_datagrams(&mut seen).unwrap();
        let of = |cookie| seen.datagrams.iter().find(|one| one.cookie() == cookie).expect("both list it").local;
        listed.into_iter().map(|(cookie, connected)| (of(cookie), connected)).collect()
    })
}

fn serve(node: &Node, server: &Pod) -> [SocketAddr; 2] {
    let backends = [Family::V4, Family::V6].map(|family| server.address(family, 5353));
    for ((service, addr), table) in SERVICES.into_iter().zip([server.v4, server.v6]).zip(1..) {
        node.udp_service(service, table, &[(addr, 5353)]);
    }
    backends
}

fn connected(pod: &Pod, to: SocketAddr) -> UdpSocket {
    let socket = pod.udp_for(to);
    pod.run(|| socket.connect(to).unwrap());
    socket
}

#[test]
fn sockets_that_a_service_connected_are_listed_with_it_and_no_others() {
    let node = Node::new();
    let (client, other, server) = (node.pod(), node.pod(), node.pod());
    let _echo = server.echo("[::]:5353", b'a');
    let backends = serve(&node, &server);
    let sockets: Vec<_> = SERVICES.map(|service| connected(&client, service.parse().unwrap())).into();
    // Connected to the backend itself, to nobody, and by another pod.
    let straight: Vec<_> = backends.iter().map(|backend| connected(&client, *backend)).collect();
    let unconnected = client.udp("0.0.0.0:0");
    client.run(|| unconnected.send_to(b"x", SERVICES[0]).unwrap());
    let _others = connected(&other, SERVICES[0].parse().unwrap());
    let expected: BTreeMap<_, _> = sockets
        .iter()
        .zip(SERVICES)
        .zip(backends)
        .map(|((socket, service), backend)| {
            (socket.local_addr().unwrap(), Connected { service: service.parse().unwrap(), backend })
        })
        .collect();
    assert_eq!(listed(&node, &client), expected);
    assert_eq!(listed(&node, &other).len(), 1);
    assert!(listed(&node, &server).is_empty());
    drop((sockets, straight));
    assert!(listed(&node, &client).is_empty(), "what is closed is listed no more");
}

/// More than the kernel shows at a time, 32 KiB: none is lost or shown twice where it hands out what it has.
#[test]
fn as_many_sockets_as_there_are_are_listed_once_each() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echo = server.echo("[::]:5353", b'a');
    serve(&node, &server);
    let sockets: Vec<_> = (0..2_000).map(|_| connected(&client, SERVICES[0].parse().unwrap())).collect();
    let own: Vec<_> = listed(&node, &client).into_keys().collect();
    let mut expected: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    expected.sort();
    assert_eq!(own, expected);
}

#[test]
fn one_that_is_connected_to_another_since_says_so() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echo = server.echo("[::]:5353", b'a');
    let [backend, _] = serve(&node, &server);
    let socket = connected(&client, SERVICES[0].parse().unwrap());
    client.run(|| socket.connect(backend).unwrap());
    assert!(listed(&node, &client).is_empty());
    client.run(|| socket.connect(SERVICES[0]).unwrap());
    assert_eq!(listed(&node, &client).len(), 1);
}

/// It says nothing, and all else goes on.
#[test]
fn without_the_iterator_nothing_is_listed_and_datagrams_are_carried() {
    let node = Node::without([millrace_agent::kernel::missing::BY_SERVICE].into());
    assert!(node.kernel().by_service().is_none());
    let (client, server) = (node.pod(), node.pod());
    let _echo = server.echo("[::]:5353", b'a');
    serve(&node, &server);
    for service in SERVICES {
        let socket = connected(&client, service.parse().unwrap());
        client.run(|| socket.send(b"q").unwrap());
        assert_eq!(heard(&socket, &mut [0; 16]).1, service.parse().unwrap());
    }
}
