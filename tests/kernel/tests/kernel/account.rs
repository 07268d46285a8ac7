//! `account`: what is told of each connection of a mesh pod when it ends, by either end.

mod lossy;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use millrace_abi::{DestKind, EndEvent, Reason, Side, account::state};
use millrace_agent::kernel::Record;
use socket2::{Domain, Protocol, SockRef};

use crate::node::{Family, Node, Pod, ip, socket_addr};

/// More than a segment, and no round number.
const UP: usize = 100_003;
const DOWN: usize = 30_001;

/// The ends that were told since this was asked last.
fn ends(node: &Node) -> Vec<EndEvent> {
    let mut ends = Vec::new();
    node.kernel().records(&mut |record| match record {
        Record::Ended(event) => ends.push(event),
        Record::Decided(_) => {}
    });
    ends
}

/// The ends that were told, once there are so many; what is missing after a while is missing for good.
fn told(node: &Node, n: usize) -> Vec<EndEvent> {
    let mut all = Vec::new();
    for _ in 0..1000 {
        all.extend(ends(node));
        if all.len() >= n {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    all
}

/// The one end that was told, which is of this side.
fn of(ends: &[EndEvent], side: Side) -> EndEvent {
    let [end] = ends else { panic!("one end, of {side:?}: {ends:?}") };
    assert_eq!(end.side, side as u8, "{end:?}");
    *end
}

fn from(event: &EndEvent) -> SocketAddr {
    canonical(socket_addr(&event.from, &event.from_port))
}

fn asked(event: &EndEvent) -> SocketAddr {
    canonical(socket_addr(&event.asked, &event.asked_port))
}

fn to(event: &EndEvent) -> SocketAddr {
    canonical(socket_addr(&event.to, &event.to_port))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Sends all bytes both ways, and closes: the client first, or the server.
fn exchange(client: TcpStream, mut server: TcpStream, client_first: bool) {
    std::thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(&vec![1; UP]).unwrap());
        server.read_exact(&mut vec![0; UP]).unwrap();
        server.write_all(&vec![2; DOWN]).unwrap();
        (&client).read_exact(&mut vec![0; DOWN]).unwrap();
    });
    let (first, mut last) = if client_first { (client, server) } else { (server, client) };
    drop(first);
    assert_eq!(last.read(&mut [0]).unwrap(), 0);
}

/// A node that tells, a client, and a server that listens on both families at port 8080.
fn scene() -> (Node, Pod, Pod, TcpListener) {
    let node = Node::new();
    node.record_flows();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    (node, client, server, listener)
}

#[test]
fn a_connection_is_told_once_and_to_the_byte_whoever_closes_first() {
    let (node, client, server, listener) = scene();
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let service: SocketAddr = "10.96.0.10:80".parse().unwrap();
    let mut ways: Vec<_> = Family::ALL.map(|family| server.address(family, 8080)).map(|to| (to, to)).into();
    ways.push((service, server.address(Family::V4, 8080)));
    for (wanted, backend) in ways {
        for client_first in [true, false] {
            let stream = client.connects(wanted).unwrap();
            let local = canonical(stream.local_addr().unwrap());
            exchange(stream, listener.accept().unwrap().0, client_first);
            let end = of(&told(&node, 1), Side::Client);
            assert_eq!((end.sent, end.received), (UP as u64, DOWN as u64), "{wanted}, client first: {client_first}");
            assert_eq!((from(&end), asked(&end), to(&end)), (local, canonical(wanted), canonical(backend)));
            assert_eq!((end.source, end.target, end.policy), (client.id, server.id, 7));
            assert_eq!((end.path, end.errno), (Reason::Direct as u8, 0));
            assert!(end.srtt_us > 0 && end.srtt_us < 1_000_000, "{end:?}");
            assert!(end.duration_ns > 1000 && end.duration_ns < 10_000_000_000, "{end:?}");
            assert!(end.connect_us > 0 && u64::from(end.connect_us) < end.duration_ns / 1000, "{end:?}");
        }
    }
    assert!(ends(&node).is_empty(), "the other end told too");
    assert_eq!(node.count(Reason::FlowDropped), 0);
}

/// A probe's caller is no pod: the pod's own end tells.
#[test]
fn what_the_host_calls_is_told_by_the_pod() {
    let (node, _, server, listener) = scene();
    let host = node.host();
    node.probe(&server, 8080);
    exchange(host.connects(server.address(Family::V4, 8080)).unwrap(), listener.accept().unwrap().0, true);
    let end = of(&told(&node, 1), Side::Server);
    assert_eq!((end.sent, end.received), (DOWN as u64, UP as u64));
    assert_eq!((end.source, end.target, end.path), (0, server.id, Reason::InAttested as u8));
    assert_eq!((to(&end), end.connect_us), (server.address(Family::V4, 8080), 0));
}

#[test]
fn a_captured_connection_tells_what_was_asked_for_and_the_proxys_own_ends_tell_nothing() {
    let node = Node::new();
    node.record_flows();
    let (client, proxy) = node.pod_with_proxy();
    let (server, mut far) = node.pod_with_proxy();
    let application = server.listens("0.0.0.0", 8080);
    node.remote(9, &["10.88.0.9"]);
    node.service("10.96.0.10:80", 1, &[(crate::node::addr("10.88.0.9"), 8080)]);
    let stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
    let (taken, _) = proxy.outbound[0].accept().unwrap();
    exchange(stream, taken, true);
    let ends = told(&node, 1);
    let end = of(&ends, Side::Client);
    assert_eq!((end.sent, end.received, end.source, end.target), (UP as u64, DOWN as u64, client.id, 9));
    assert_eq!((asked(&end), to(&end)), ("10.96.0.10:80".parse().unwrap(), "10.88.0.9:8080".parse().unwrap()));
    assert_eq!(end.path, Reason::Proxied as u8);

    // The far half: the application alone tells, and by the true client.
    let caller: SocketAddr = "10.88.0.9:5555".parse().unwrap();
    let dialled = far.dial(&node, &server, server.address(Family::V4, 8080), caller);
    exchange(dialled, application.accept().unwrap().0, true);
    let ends = told(&node, 1);
    let end = of(&ends, Side::Server);
    assert_eq!((from(&end), end.sent, end.received), (caller, DOWN as u64, UP as u64));
    assert_eq!(end.target, server.id);
    assert_eq!(end.path, Reason::InProxyDial as u8);
    // And a tunnel, which is nobody's connection.
    let to = server.address(Family::V4, 15008);
    let tunnel = far.exempt_socket(&node, &client, to, None);
    client.connect(&tunnel, to).unwrap();
    drop((far.tunnel[0].accept().unwrap(), tunnel));
    assert_eq!(ends.len(), 1);
    assert!(self::ends(&node).is_empty());
}

#[test]
fn what_never_came_about_says_why() {
    let (node, client, server, listener) = scene();
    drop(listener);
    assert_eq!(client.refused(server.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    let end = of(&told(&node, 1), Side::Client);
    assert_eq!((end.state, i32::from(end.errno)), (state::SYN_SENT, libc::ECONNREFUSED));
    assert_eq!((end.connect_us, end.sent, end.received), (0, 0, 0));
    // Nobody answers; after one more SYN it is given up, by the kernel and then by the application.
    ip(&format!("-n {} link set eth0 down", server.name()));
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    socket.set_tcp_user_timeout(Some(Duration::from_millis(1500))).unwrap();
    let error = client.connect(&socket, server.address(Family::V4, 8080)).unwrap_err();
    let expected = u16::try_from(error.raw_os_error().unwrap()).unwrap();
    let end = of(&told(&node, 1), Side::Client);
    assert_eq!((end.state, end.errno), (state::SYN_SENT, expected), "{error}");
    assert!(end.retransmits >= 1, "{end:?}");
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    socket.set_nonblocking(true).unwrap();
    client.connect(&socket, server.address(Family::V4, 8080)).unwrap_err();
    drop(socket);
    let end = of(&told(&node, 1), Side::Client);
    assert_eq!((end.state, end.errno), (state::SYN_SENT, 0));
}

#[test]
fn a_reset_is_told_by_who_sent_it_and_by_who_got_it() {
    let (node, client, server, listener) = scene();
    for client_resets in [false, true] {
        let mut stream = client.connects(server.address(Family::V4, 8080)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        stream.write_all(&[1; 10]).unwrap();
        (&accepted).read_exact(&mut [0; 10]).unwrap();
        let (sends, mut gets) = if client_resets { (stream, accepted) } else { (accepted, stream) };
        SockRef::from(&sends).set_linger(Some(Duration::ZERO)).unwrap();
        drop(sends);
        assert_eq!(gets.read(&mut [0]).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
        let end = of(&told(&node, 1), Side::Client);
        let errno = if client_resets { 0 } else { libc::ECONNRESET };
        assert_eq!((end.state, i32::from(end.errno), end.sent), (state::ESTABLISHED, errno, 10));
    }
}

#[test]
fn what_leaves_the_mesh_is_told_and_what_stays_in_the_pod_is_not() {
    let (node, client, _, _) = scene();
    let outside = node.stranger();
    let elsewhere = outside.listens("0.0.0.0", 80);
    let own = client.listens("127.0.0.1", 9000);
    exchange(client.connects(outside.address(Family::V4, 80)).unwrap(), elsewhere.accept().unwrap().0, true);
    exchange(client.connects("127.0.0.1:9000".parse().unwrap()).unwrap(), own.accept().unwrap().0, true);
    let ends = told(&node, 2);
    assert_eq!(ends.len(), 1);
    let end = of(&ends, Side::Client);
    assert_eq!((end.sent, end.received, end.target, end.path), (UP as u64, DOWN as u64, 0, Reason::Untouched as u8));
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    let (node, client, server, listener) = scene();
    listener.set_nonblocking(true).unwrap();
    let each = 8 + u32::try_from(size_of::<EndEvent>()).unwrap();
    // A decision and an end of each, and 500 connections more than there is room for: nobody reads meanwhile.
    let n = millrace_abi::capacity::FLOW_BYTES / (each + 88) + 500;
    let to = server.address(Family::V4, 8080);
    for _ in 0..n / 500 + 1 {
        client.run(|| {
            for _ in 0..500 {
                let stream = TcpStream::connect(to).unwrap();
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        while listener.accept().is_ok() {}
    }
    let (mut found, made) = (0u64, u64::from(n / 500 + 1) * 500 * 2);
    let dropped = node.count(Reason::FlowDropped);
    for _ in 0..1000 {
        node.kernel().records(&mut |_| found += 1);
        if found + node.count(Reason::FlowDropped) == made {
            break;
        }
        std::thread::sleep(Duration::from_millis(5)); // The last ends are on their way.
    }
    assert!(dropped > 0, "{found} of {made} are told");
    assert_eq!(found + dropped, made, "what is not told is counted");
}

#[test]
fn nothing_is_kept_or_told_where_flows_are_off() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    let stream = client.connects(server.address(Family::V4, 8080)).unwrap();
    exchange(stream, listener.accept().unwrap().0, true);
    assert!(ends(&node).is_empty());
    assert_eq!(node.count(Reason::FlowDropped), 0);
}
