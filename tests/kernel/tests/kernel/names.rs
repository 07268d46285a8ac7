//! `getpeername4/6` and `getsockname4/6`: what applications see of their connections.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Protocol, Socket};

use crate::node::{Family, Node};

/// A client as the proxy knows it, of either family.
const CLIENT4: &str = "10.88.0.9:45000";
const CLIENT6: &str = "[fd88::9]:45000";

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

#[test]
fn an_application_that_the_proxy_dials_sees_the_true_client() {
    let node = Node::new();
    let (server, mut proxy) = node.pod_with_proxy();
    // One that speaks IPv4 alone, and a dual-stack one.
    for (at, families) in [("0.0.0.0", &[Family::V4][..]), ("::", &[Family::V4, Family::V6])] {
        let listener = server.listens(at, 8080);
        for family in families {
            let client: SocketAddr = if *family == Family::V6 { CLIENT6 } else { CLIENT4 }.parse().unwrap();
            let to = server.address(*family, 8080);
            let dial = proxy.dial(&node, &server, to, client);
            let (accepted, shown) = listener.accept().unwrap();
            assert_eq!(canonical(shown), client, "by accept, at {at}");
            assert_eq!(canonical(accepted.peer_addr().unwrap()), client, "by getpeername, at {at}");
            assert_eq!(shown.is_ipv6(), at == "::", "in the socket's own family");
            assert_eq!(canonical(accepted.local_addr().unwrap()), to);
            assert_eq!(dial.peer_addr().unwrap(), to, "the proxy sees the application");
            assert_eq!(dial.local_addr().unwrap().ip(), to.ip());
        }
    }
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_client_of_another_family_is_shown_where_the_socket_can_say_it() {
    let node = Node::new();
    let (server, mut proxy) = node.pod_with_proxy();
    let dual = server.listens("::", 8080);
    let to = server.address(Family::V4, 8080);
    let _dial = proxy.dial(&node, &server, to, CLIENT6.parse().unwrap());
    assert_eq!(dual.accept().unwrap().1, CLIENT6.parse().unwrap());
    drop(dual);
    // An IPv4 socket cannot say an IPv6 address: it sees who really connected, the proxy in its own pod.
    let v4 = server.listens("0.0.0.0", 8080);
    let dial = proxy.dial(&node, &server, to, CLIENT6.parse().unwrap());
    assert_eq!(v4.accept().unwrap().1, dial.local_addr().unwrap());
}

#[test]
fn an_application_that_listens_with_mptcp_sees_the_true_client() {
    let node = Node::new();
    let (server, mut proxy) = node.pod_with_proxy();
    let (caller, to) = (node.pod(), server.address(Family::V4, 8080));
    let listener = server.socket(Domain::IPV4, Protocol::MPTCP);
    listener.bind(&"0.0.0.0:8080".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(16).unwrap();
    let dial = proxy.dial(&node, &server, to, CLIENT4.parse().unwrap());
    let (accepted, shown) = listener.accept().unwrap();
    assert_eq!(shown.as_socket().unwrap(), CLIENT4.parse().unwrap());
    assert_eq!(accepted.peer_addr().unwrap().as_socket().unwrap(), CLIENT4.parse().unwrap());
    drop(dial);
    // A pod of the same node is its own witness.
    let stream = caller.connects(to).unwrap();
    assert_eq!(listener.accept().unwrap().1.as_socket().unwrap(), stream.local_addr().unwrap());
}

#[test]
fn an_application_that_connects_with_mptcp_sees_the_service_and_its_own_address() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let (server, to): (_, SocketAddr) = (node.pod(), "10.96.0.10:80".parse().unwrap());
    let plain = server.listens("0.0.0.0", 8080);
    let multi = server.socket(Domain::IPV4, Protocol::MPTCP);
    multi.bind(&"0.0.0.0:8081".parse::<SocketAddr>().unwrap().into()).unwrap();
    multi.listen(16).unwrap();
    for port in [8080, 8081] {
        node.service("10.96.0.10:80", 1, &[(server.v4, port)]);
        let socket = client.socket(Domain::IPV4, Protocol::MPTCP);
        client.connect(&socket, to).unwrap();
        assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), to, "port {port}");
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        let shown = match port {
            8080 => plain.accept().unwrap().1,
            _ => multi.accept().unwrap().1.as_socket().unwrap(),
        };
        assert_eq!((own.ip(), shown), (client.address(Family::V4, 0).ip(), own));
    }
    node.remote(9, &["10.88.0.9"]);
    node.service("10.96.0.10:80", 2, &[(crate::node::addr("10.88.0.9"), 8080)]);
    let socket = client.socket(Domain::IPV4, Protocol::MPTCP);
    client.connect(&socket, to).unwrap();
    let (accepted, _) = proxy.outbound[0].accept().unwrap();
    assert_eq!(proxy.asked(&accepted).unwrap().addr, to);
    assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), to);
    assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().ip(), client.address(Family::V4, 0).ip());
}

#[test]
fn what_is_not_of_the_mesh_keeps_its_names() {
    let node = Node::new();
    let client = node.pod();
    let listener = client.listens("127.0.0.1", 9000);
    let stream = client.connects("127.0.0.1:9000".parse().unwrap()).unwrap();
    let (mut accepted, shown) = listener.accept().unwrap();
    assert_eq!(shown, stream.local_addr().unwrap());
    assert!(shown.ip().is_loopback());
    assert_eq!(stream.peer_addr().unwrap(), "127.0.0.1:9000".parse().unwrap());
    accepted.write_all(b"x").unwrap();
    let socket: Socket = client.socket(Domain::IPV4, Protocol::TCP);
    assert_eq!(TcpStream::from(socket).peer_addr().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}
