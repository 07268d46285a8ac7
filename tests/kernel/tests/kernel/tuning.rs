//! What a node is tuned to, set on its connections: whose, which, when; and nothing on anybody else's.

use std::os::fd::AsFd as _;

use millrace_abi::{PodKind, Tuning};
use millrace_agent::kernel::tune::{algorithm, algorithm_name};
use socket2::{SockRef, Socket};

use crate::node::{Family, Node, Proxy, exempt};

/// The congestion control of a connection.
fn has(socket: impl std::os::fd::AsFd) -> String {
    let name = SockRef::from(&socket).tcp_congestion().unwrap();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(&name).for_each(|(to, from)| *to = *from);
    algorithm_name(&bytes)
}

/// Two that every kernel of ours has, neither the default of this one.
fn others() -> (&'static str, &'static str) {
    let usual = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    let mut found = ["reno", "cubic", "bbr"].into_iter().filter(|name| *name != usual.trim());
    (found.next().unwrap(), found.next().unwrap())
}

fn tune(node: &Node, tunnel: &str, pod: &str, window: u32) {
    let tuning = Tuning {
        tunnel_algorithm: algorithm(tunnel).unwrap(),
        pod_algorithm: algorithm(pod).unwrap(),
        pod_initial_window: window,
        is_on: 1,
    };
    node.kernel().tune(&tuning).unwrap();
}

#[test]
fn pods_connections_get_their_congestion_control_at_both_ends_and_a_later_change_is_for_later_ones() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    let (one, other) = others();
    let connected = |family| {
        let stream = client.connects(server.address(family, 8080)).unwrap();
        (stream, listener.accept().unwrap().0)
    };
    let before = connected(Family::V4);
    let usual = has(&before.0);
    tune(&node, "", one, 0);
    let tuned = [Family::V4, Family::V6].map(connected);
    for (stream, accepted) in &tuned {
        assert_eq!((has(stream), has(accepted)), (one.to_owned(), one.to_owned()));
    }
    assert_eq!(has(&before.0), usual, "a connection that was there was changed");
    tune(&node, "", other, 0);
    assert_eq!(has(connected(Family::V4).0), other);
    node.kernel().tune(&Tuning::default()).unwrap();
    assert_eq!(has(connected(Family::V4).0), usual, "it goes when nobody asks any more");
}

#[test]
fn tunnels_have_their_own_and_the_proxys_dials_of_applications_none() {
    let node = Node::new();
    let (caller, mut dialler) = node.pod_with_proxy();
    let (server, taker) = node.pod_with_proxy();
    let listener = server.listens("0.0.0.0", 8080);
    let usual = has(caller.socket(socket2::Domain::IPV4, socket2::Protocol::TCP));
    let (one, other) = others();
    tune(&node, one, other, 0);
    // A tunnel: a socket of the stock that shows nobody, to the tunnel port.
    let to = server.address(Family::V4, 15008);
    let tunnel: Socket = dialler.exempt_socket(&node, &caller, to, None);
    caller.connect(&tunnel, to).unwrap();
    let (arrived, _) = Proxy::of(&taker.tunnel, Family::V4).accept().unwrap();
    assert_eq!((has(&tunnel), has(&arrived)), (one.to_owned(), one.to_owned()));
    // A dial of an application: the pod's own at its accepting end, nobody's at the proxy's.
    let client = "192.0.2.1:5000".parse().unwrap();
    let dial = dialler.dial(&node, &server, server.address(Family::V4, 8080), client);
    let (accepted, _) = listener.accept().unwrap();
    assert_eq!((has(&dial), has(&accepted)), (usual, other.to_owned()));
}

#[test]
fn what_is_not_of_the_mesh_is_left_as_it_is() {
    let node = Node::new();
    let (outside, stranger) = (node.stranger(), node.stranger());
    node.know(&outside, PodKind::Outside);
    let usual = has(stranger.socket(socket2::Domain::IPV4, socket2::Protocol::TCP));
    let (one, other) = others();
    tune(&node, one, other, 50);
    let listener = outside.listens("0.0.0.0", 8080);
    let stream = stranger.connects(outside.address(Family::V4, 8080)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    assert_eq!((has(&stream), has(&accepted)), (usual.clone(), usual.clone()));
    let marked = outside.socket(socket2::Domain::IPV4, socket2::Protocol::TCP);
    exempt(&node, marked.as_fd());
    outside.connect(&marked, outside.address(Family::V4, 8080)).unwrap();
    assert_eq!(has(&marked), usual);
}

/// TCP_INFO's `tcpi_snd_cwnd`, in segments.
#[expect(unsafe_code, reason = "reads TCP_INFO, for which no safe wrapper is at hand")]
fn window(socket: &impl std::os::fd::AsRawFd) -> u32 {
    // SAFETY: the structure is plain numbers, which may all be 0.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: the kernel writes no more than `length` bytes into it.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    assert_eq!(done, 0);
    info.tcpi_snd_cwnd
}

#[test]
fn the_initial_window_is_what_was_asked_for_at_both_ends() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    let windows = || {
        let stream = client.connects(server.address(Family::V4, 8080)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (window(&stream), window(&accepted))
    };
    assert_eq!(windows(), (10, 10), "the kernel's own");
    tune(&node, "", "", 40);
    assert_eq!(windows(), (40, 40));
}
