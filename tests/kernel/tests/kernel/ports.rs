//! `abi::spread` on the real kernel: no four numbers run out before a bare socket's would. Namespaces here have so few ports that
//! a few hundred connections are many.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
};

use millrace_abi::{Reason, spread::VARIANTS};
use socket2::Socket;

use crate::node::{Family, Node, Pod};

/// Ports that a pod's sockets have for one far end.
const PORTS: u32 = 50;

/// Gives the pod [`PORTS`] source ports.
fn narrow(pod: &Pod) {
    let range = format!("40000 {}", 40_000 + PORTS - 1);
    pod.run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap());
}

/// How many connects succeed at once, up to a number.
fn concurrent(pod: &Pod, to: SocketAddr, most: u32, listener: &TcpListener) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let open: Vec<TcpStream> = (0..most).map_while(|_| pod.connects(to).ok()).collect();
    let accepted = open.iter().map(|_| listener.accept().unwrap().0).collect();
    (open, accepted)
}

#[test]
fn one_far_backend_takes_more_than_a_bare_sockets_connections() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let (bare, server) = (node.stranger(), node.stranger());
    node.remote(9, &["10.88.0.9", "10.88.0.10"]);
    narrow(&client);
    narrow(&bare);
    let application = server.listens("0.0.0.0", 80);
    let (open, _accepted) = concurrent(&bare, server.address(Family::V4, 80), PORTS + 1, &application);
    assert_eq!(open.len(), PORTS as usize, "a bare socket has {PORTS} ports");
    let most = PORTS * VARIANTS / 2; // Chance fills no address before the others are half full.
    for backend in ["10.88.0.9:8080", "10.88.0.10:8080"] {
        let (open, accepted) = concurrent(&client, backend.parse().unwrap(), most, &proxy.outbound[0]);
        assert_eq!(open.len(), most as usize, "to {backend}");
        let at: BTreeSet<IpAddr> = accepted.iter().map(|socket| socket.local_addr().unwrap().ip()).collect();
        assert_eq!(at.len(), VARIANTS as usize, "{at:?}");
        for (own, taken) in open.iter().zip(&accepted) {
            let shown = own.local_addr().unwrap();
            assert_eq!(
                (own.peer_addr().unwrap(), shown.ip()),
                (backend.parse().unwrap(), client.address(Family::V4, 0).ip())
            );
            assert_eq!(taken.peer_addr().unwrap().port(), shown.port());
        }
        let asked =
            accepted.iter().filter_map(|socket| proxy.asked(socket)).filter(|asked| asked.addr == asked.backend);
        assert_eq!(asked.count(), open.len(), "each is known by what it asked for");
    }
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn an_application_is_dialled_from_loopback_sources_and_sees_its_clients() {
    let node = Node::new();
    let (server, mut proxy) = node.pod_with_proxy();
    narrow(&server);
    for (family, source) in [(Family::V4, "127.128.3.4"), (Family::V4, "127.191.255.255"), (Family::V6, "::1")] {
        let application = server.listens(if family == Family::V4 { "0.0.0.0" } else { "::" }, 8080);
        let (to, client) = (server.address(family, 8080), family.address("10.88.0.9", "fd88::9", 5555));
        let open: Vec<(Socket, TcpStream)> = (0..PORTS)
            .map(|n| {
                let socket = proxy.exempt_socket(&node, &server, to, Some(client));
                socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
                server.connect(&socket, to).unwrap_or_else(|error| panic!("dial {n} from {source}: {error}"));
                let (accepted, shown) = application.accept().unwrap();
                assert_eq!((shown, accepted.peer_addr().unwrap()), (client, client));
                assert_eq!(accepted.local_addr().unwrap(), to);
                (socket, accepted)
            })
            .collect();
        drop(open);
    }
    assert_eq!(node.count(Reason::InPlaintext), 0);
    assert_eq!(node.handoffs(), 0);
}

/// What this end closes first lingers for a minute. A loopback connection's port is used again after a second.
#[test]
fn what_the_client_closed_first_does_not_use_its_ports_up() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    narrow(&client);
    let to = "10.88.0.9:8080".parse().unwrap();
    for n in 0..PORTS * VARIANTS / 2 {
        let stream = client.connects(to).unwrap_or_else(|error| panic!("connect {n}: {error}"));
        let (accepted, _) = proxy.outbound[0].accept().unwrap();
        drop(stream);
        drop(accepted);
    }
}

/// The listener has no address of its own to keep others out by, and steering may not be there yet, or any more.
#[test]
fn what_comes_by_another_device_does_not_reach_the_outbound_listener_even_unsteered() {
    let node = Node::new();
    let (near, far) = (node.stranger(), node.stranger());
    let listener = near.listens_on_loopback(15801);
    let to = near.address(Family::V4, 15801);
    assert_eq!(far.refused(to), Some(libc::ECONNREFUSED));
    assert_eq!(near.refused(to), Some(libc::ECONNREFUSED));
    near.connects("127.99.0.1:15801".parse().unwrap()).unwrap();
    listener.accept().unwrap();
}
