//! `pending`: how many connects a pod may have under way, and that nobody else feels it.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use libc::{EINPROGRESS, ENOBUFS};
use millrace_abi::{Reason, capacity};
use millrace_agent::kernel::Write;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::node::{Family, Node, Pod, ip, until};

const QUOTA: usize = capacity::PENDING_PER_POD as usize;

/// Has this pod's packets to the other vanish: no machine on the wire has that link address.
pub(crate) fn black_hole(client: &Pod, server: &Pod) {
    ip(&format!("-n {} neigh add {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent", client.name(), server.ip4));
}

/// Connects without waiting: the socket, and EINPROGRESS where that is under way, or the errno it fails with.
pub(crate) fn begins(to: SocketAddr) -> (Socket, i32) {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let errno = socket.connect(&to.into()).unwrap_err().raw_os_error().unwrap();
    (socket, errno)
}

/// Waits until nothing is left of the pod's records and count. Another test's child, between fork and exec, may hold a copy of
/// a socket that is closed here.
pub(crate) fn settles(node: &Node, pod: &Pod) {
    until(|| (node.handoffs(), node.pending(pod)) == (0, Some(0)));
    assert_eq!((node.handoffs(), node.pending(pod)), (0, Some(0)));
}

/// Connects and resets, over and over, while the listener's other ends are thrown away.
fn connects(n: usize, to: SocketAddr, listener: &TcpListener) {
    for _ in 0..n {
        let stream = TcpStream::connect(to).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        while listener.accept().is_ok() {}
    }
}

#[test]
fn seventy_thousand_connects_to_a_black_hole_are_bounded_and_a_neighbour_feels_nothing() {
    let node = Node::new();
    let (hostile, neighbour, server) = (node.pod(), node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    listener.set_nonblocking(true).unwrap();
    black_hole(&hostile, &server);
    let to = server.address(Family::V4, 8080);
    let is_flooding = AtomicBool::new(true);
    let n_connects = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let mut n = 0u64;
            while is_flooding.load(Ordering::Relaxed) {
                neighbour.run(|| connects(100, to, &listener));
                n += 100;
            }
            n
        });
        let held: Vec<Socket> = hostile.run(|| {
            let mut held = Vec::new();
            for n in 0..70_000usize {
                match begins(to) {
                    (socket, EINPROGRESS) => held.push(socket),
                    (_, errno) => assert_eq!((errno, n >= QUOTA), (ENOBUFS, true), "connect {n}"),
                }
            }
            held
        });
        is_flooding.store(false, Ordering::Relaxed);
        let n = beside.join().unwrap();
        assert_eq!(held.len(), QUOTA);
        assert_eq!((node.handoffs(), node.pending(&hostile)), (QUOTA as u64, Some(QUOTA as i64)));
        n
    });
    assert_eq!(node.count(Reason::TooManyPending), 70_000 - QUOTA as u64);
    assert!(n_connects > 0);
    assert_eq!((node.count(Reason::InAttested), node.count(Reason::HandoffFull)), (n_connects, 0));
    // What it held is closed: it may connect again, and so may nobody more than before.
    settles(&node, &hostile);
    assert_eq!(hostile.run(|| begins(to).1), EINPROGRESS);
}

/// At its quota a pod goes on with what leaves no record: within itself, and out of the mesh.
#[test]
fn a_pod_at_its_quota_reaches_what_is_not_of_the_mesh() {
    let node = Node::new();
    let (hostile, server, outside) = (node.pod(), node.pod(), node.stranger());
    node.know(&outside, millrace_abi::PodKind::Outside);
    let (elsewhere, own) = (outside.listens("0.0.0.0", 80), hostile.listens("127.0.0.1", 9000));
    black_hole(&hostile, &server);
    let to = server.address(Family::V4, 8080);
    let _held: Vec<Socket> = hostile.run(|| (0..QUOTA).map(|_| begins(to).0).collect());
    node.remote(9, &["10.88.0.9"]);
    assert_eq!(hostile.refused("10.88.0.9:80".parse().unwrap()), Some(ENOBUFS), "captured connects leave records too");
    for listener in [&elsewhere, &own] {
        let at = listener.local_addr().unwrap();
        let to = if at.ip().is_loopback() { at } else { outside.address(Family::V4, 80) };
        let _stream = hostile.connects(to).unwrap();
        listener.accept().unwrap();
    }
}

/// Threads that race for the last places, in rounds: never more records than the quota, and none is lost from the count.
#[test]
fn connects_that_race_are_counted_exactly() {
    let node = Node::new();
    let (hostile, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    listener.set_nonblocking(true).unwrap();
    black_hole(&hostile, &server);
    let (nowhere, answering) = (server.address(Family::V4, 8080), server.address(Family::V6, 8080));
    let race = |_| {
        hostile.run(|| {
            let held: Vec<Socket> = (0..QUOTA)
                .map(|_| begins(nowhere))
                .filter(|(_, errno)| *errno == EINPROGRESS)
                .map(|(socket, _)| socket)
                .collect();
            assert!(node.handoffs() <= QUOTA as u64);
            assert!(
                node.pending(&hostile).unwrap() <= QUOTA as i64 + 4,
                "no more than those that are about to give back"
            );
            held.len()
        })
    };
    for _ in 0..5 {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|n| scope.spawn(move || race(n))).collect();
            let n: usize = all.into_iter().map(|one| one.join().unwrap()).sum();
            assert!(n >= QUOTA - 4, "{n} were let in");
        });
        settles(&node, &hostile);
    }
    // Records that are taken, and records that go with a refusal, beside one another.
    let closed = server.address(Family::V6, 9999);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| hostile.run(|| connects(3000, answering, &listener)));
            scope.spawn(|| hostile.run(|| (0..3000).for_each(|_| drop(TcpStream::connect(closed).unwrap_err()))));
        }
    });
    settles(&node, &hostile);
}

/// A Fast Open socket is through `connect` before it counts: what bounds it is the moment of its SYN.
#[test]
fn sockets_that_connect_late_are_bounded_too() {
    /// linux/tcp.h, `TCP_FASTOPEN_NO_COOKIE`.
    const TCP_FASTOPEN_NO_COOKIE: libc::c_int = 34;
    let node = Node::new();
    let (hostile, server) = (node.pod(), node.pod());
    black_hole(&hostile, &server);
    let to = server.address(Family::V4, 8080);
    let deferred = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        for option in [libc::TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_NO_COOKIE] {
            let on: libc::c_int = 1;
            let value = std::ptr::from_ref(&on).cast();
            #[expect(unsafe_code, reason = "these options have no safe wrapper")]
            // SAFETY: the value has this length and lives until the call is back.
            let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, 4) };
            assert_eq!(result, 0);
        }
        socket.set_nonblocking(true).unwrap();
        socket.connect(&to.into()).unwrap();
        socket
    };
    let late: Vec<Socket> = hostile.run(|| (0..QUOTA + 50).map(|_| deferred()).collect());
    assert_eq!(node.handoffs(), 0, "nothing is sent yet");
    for mut socket in &late {
        // Its SYN is sent, with the byte or before it.
        drop(socket.write(b"x"));
    }
    assert_eq!((node.handoffs(), node.pending(&hostile)), (QUOTA as u64, Some(QUOTA as i64)));
    assert_eq!(node.count(Reason::TooManyPending), 50);
    drop(late);
    settles(&node, &hostile);
}

#[test]
fn the_proxys_and_the_hosts_connects_count_for_no_pod() {
    let node = Node::new();
    let (host, (server, mut proxy)) = (node.host(), node.pod_with_proxy());
    let listener = server.listens("0.0.0.0", 8080);
    node.probe(&server, 8080);
    let to = server.address(Family::V4, 8080);
    let _dial = proxy.dial(&node, &server, to, "10.9.9.9:9".parse().unwrap());
    let _probe = host.connects(to).unwrap();
    for _ in 0..2 {
        listener.accept().unwrap();
    }
    assert_eq!(node.count(Reason::InAttested) + node.count(Reason::InProxyDial), 2);
    assert_eq!((node.pending(&server), node.pending(&host)), (None, None));
}

#[test]
fn a_count_outlives_the_agent_and_goes_with_the_pod() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    black_hole(&client, &server);
    let held = client.run(|| begins(server.address(Family::V4, 8080)).0);
    node.restart_agent();
    assert_eq!(node.pending(&client), Some(1));
    node.write(&Write::RemovePod(client.cookie));
    assert_eq!(node.pending(&client), None);
    drop(held);
    until(|| node.handoffs() == 0);
    assert_eq!((node.handoffs(), node.pending(&client)), (0, None));
}
