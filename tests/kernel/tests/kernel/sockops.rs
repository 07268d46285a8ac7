//! `sockops`: hand-off records, from the SYN to the accepted socket.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use millrace_abi::{DestKind, Reason, capacity, map};
use socket2::{Domain, Protocol, SockRef, Socket};

use crate::node::{Family, Node, ip, port_bytes};

/// A connect that is under way, to where nobody answers.
fn under_way(socket: &Socket, to: SocketAddr) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
}

#[test]
fn a_record_goes_with_a_connect_that_dies() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    ip(&format!("-n {} link set eth0 down", server.name()));
    let sockets: Vec<Socket> = [Family::V4, Family::V6, Family::Mapped]
        .into_iter()
        .map(|family| {
            let to = server.address(family, 8080);
            let socket = client.socket(Domain::for_address(to), Protocol::TCP);
            under_way(&socket, to);
            socket
        })
        .collect();
    assert_eq!(node.handoffs(), 3);
    drop(sockets);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_record_goes_with_a_connect_that_is_refused() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    node.remote(9, &["10.88.0.9"]);
    // The application is not there, nor is the outbound listener.
    assert_eq!(client.refused(server.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    assert_eq!(client.refused("10.88.0.9:8080".parse().unwrap()), Some(libc::ECONNREFUSED));
    assert_eq!(node.count(Reason::Direct) + node.count(Reason::Proxied), 2);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn records_of_ten_thousand_connects_under_resets_are_all_taken() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let [outbound, _] = &proxy.outbound;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.run(|| {
                for n in 0..10_000u32 {
                    let stream = TcpStream::connect("10.88.0.9:8080").unwrap();
                    if n.is_multiple_of(2) {
                        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
            });
        });
        for n in 0..10_000 {
            let (accepted, _) = outbound.accept().unwrap();
            assert!(proxy.asked(&accepted).is_some(), "the connection of number {n} is nobody's");
        }
    });
    assert_eq!(node.count(Reason::HandoffTaken), 10_000);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_full_map_is_counted_and_its_connection_is_not_vouched_for() {
    let node = Node::new();
    let (client, (server, proxy)) = (node.pod(), node.pod_with_proxy());
    let _application = server.listens("0.0.0.0", 8080);
    let data = MapData::from_pin(node.pins().join(map::HANDOFFS)).unwrap();
    let mut handoffs: HashMap<_, [u8; 48], [u8; 80]> = Map::HashMap(data).try_into().unwrap();
    for n in 0..capacity::HANDOFFS {
        let mut key = [0xff; 48];
        key[..4].copy_from_slice(&n.to_ne_bytes());
        handoffs.insert(key, [0; 80], 0).unwrap();
    }
    assert_eq!(node.handoffs(), u64::from(capacity::HANDOFFS));
    let stream = client.connects(server.address(Family::V4, 8080)).unwrap();
    assert_eq!(node.count(Reason::HandoffFull), 1);
    let (_, from) = proxy.plaintext[0].accept().unwrap();
    assert_eq!(from, stream.local_addr().unwrap());
    assert_eq!(node.count(Reason::InPlaintext), 1);
}

#[test]
fn a_pod_is_vouched_for_from_its_registered_address_alone() {
    let node = Node::new();
    let (client, (server, proxy)) = (node.pod(), node.pod_with_proxy());
    let _application = server.listens("0.0.0.0", 8080);
    ip(&format!("-n {} addr add 10.77.0.250/24 dev eth0", client.name()));
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    socket.bind(&"10.77.0.250:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    client.connect(&socket, server.address(Family::V4, 8080)).unwrap();
    let (_, from) = proxy.plaintext[0].accept().unwrap();
    assert_eq!(from.ip(), "10.77.0.250".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(node.count(Reason::InAttested), 0);
}

/// Connects at once and sends its SYN with the first bytes written.
fn fast_open(socket: &Socket) {
    /// linux/tcp.h, `TCP_FASTOPEN_NO_COOKIE`: without it the SYN is deferred only where a cookie is known.
    const TCP_FASTOPEN_NO_COOKIE: libc::c_int = 34;
    for option in [libc::TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE] {
        let on: libc::c_int = 1;
        let (value, length) = (std::ptr::from_ref(&on).cast(), 4);
        #[expect(unsafe_code, reason = "these options have no safe wrapper")]
        // SAFETY: the value has this length and lives until the call is back.
        let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, length) };
        assert_eq!(result, 0);
    }
}

#[test]
fn a_fast_open_connection_is_handed_over_like_any_other() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    fast_open(&socket);
    client.connect(&socket, "10.88.0.9:8080".parse().unwrap()).unwrap();
    assert_eq!(node.handoffs(), 0, "nothing is sent yet");
    (&socket).write_all(b"early").unwrap();
    let (mut accepted, _) = proxy.outbound[0].accept().unwrap();
    assert_eq!(proxy.asked(&accepted).unwrap().addr, "10.88.0.9:8080".parse().unwrap());
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"early");
}

#[test]
fn a_connection_denied_between_connect_and_syn_is_not_vouched_for() {
    let node = Node::new();
    let (client, (server, proxy)) = (node.pod(), node.pod_with_proxy());
    let _application = server.listens("0.0.0.0", 8080);
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    fast_open(&socket);
    client.connect(&socket, server.address(Family::V4, 8080)).unwrap();
    node.verdict(&client, 42, 0);
    (&socket).write_all(b"late").unwrap();
    let (_, from) = proxy.plaintext[0].accept().unwrap();
    assert_eq!(Some(from), socket.local_addr().unwrap().as_socket());
    assert_eq!(node.count(Reason::InAttested), 0);
}

#[test]
fn the_proxys_own_sockets_without_a_client_hand_nothing_over() {
    let node = Node::new();
    let (client, mut proxy) = node.pod_with_proxy();
    let (server, there) = node.pod_with_proxy();
    let to = server.address(Family::V4, 15008);
    let tunnel = proxy.exempt_socket(&node, &client, to, None);
    client.connect(&tunnel, to).unwrap();
    let (accepted, from) = there.tunnel[0].accept().unwrap();
    assert_eq!(Some(from), tunnel.local_addr().unwrap().as_socket());
    assert_eq!(accepted.local_addr().unwrap(), to);
    assert_eq!(port_bytes(15008), millrace_abi::TUNNEL_PORT);
    assert_eq!((node.count(Reason::InTunnel), node.count(Reason::HandoffTaken)), (1, 0));
}
