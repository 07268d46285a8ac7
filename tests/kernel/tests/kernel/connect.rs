//! `connect4` and `connect6`: where a connect goes, whether it may, and what is remembered of it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
};

use libc::{ECONNREFUSED, EPERM};
use millrace_abi::{DestKind, Pod as PodValue, PodKind, Reason, ServiceValue, SlotKey, SlotValue, capacity};
use millrace_agent::kernel::{MapError, Write};
use socket2::{Domain, Protocol};

use crate::node::{Asked, Family, Node, Pod, Proxy, addr, exempt, service_key};

/// Bytes go both ways.
fn talk(mut client: &TcpStream, mut server: &TcpStream) {
    let mut heard = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pong");
}

/// Two pods, the second of which listens on both families at port 8080.
fn pair(node: &Node) -> (Pod, Pod, TcpListener) {
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    (client, server, listener)
}

const VIP4: &str = "10.96.0.10";
const VIP6: &str = "fd96::10";

#[test]
fn a_pod_address_on_the_same_node_is_reached_directly_and_both_ends_see_the_truth() {
    let node = Node::new();
    let (client, server, listener) = pair(&node);
    for family in Family::ALL {
        let to = server.address(family, 8080);
        let stream = client.connects(to).unwrap();
        let (accepted, shown) = listener.accept().unwrap();
        let own = stream.local_addr().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        assert_eq!(own.ip(), client.address(family, 0).ip());
        assert_eq!((shown.ip().to_canonical(), shown.port()), (own.ip().to_canonical(), own.port()));
        assert_eq!(accepted.peer_addr().unwrap(), shown);
        assert_eq!(accepted.local_addr().unwrap().ip().to_canonical(), to.ip().to_canonical());
        talk(&stream, &accepted);
    }
    assert_eq!(node.count(Reason::Direct), 3);
    assert_eq!(node.count(Reason::InAttested), 3);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_service_is_balanced_to_a_pod_and_getpeername_shows_the_service() {
    let node = Node::new();
    let (client, server, listener) = pair(&node);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    node.service("[fd96::10]:80", 2, &[(server.v6, 8080)]);
    for family in Family::ALL {
        let to = family.address(VIP4, VIP6, 80);
        let stream = client.connects(to).unwrap();
        let (accepted, shown) = listener.accept().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        assert_eq!(stream.local_addr().unwrap().ip(), client.address(family, 0).ip());
        assert_eq!(shown.port(), stream.local_addr().unwrap().port());
        talk(&stream, &accepted);
    }
    assert_eq!(node.count(Reason::Direct), 3);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_backend_on_another_node_is_reached_by_the_outbound_listener_which_knows_what_was_asked_for() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9", "fd88::9"]);
    node.service("10.96.0.10:80", 1, &[(addr("10.88.0.9"), 8080)]);
    node.service("[fd96::10]:80", 2, &[(addr("fd88::9"), 8080)]);
    for family in Family::ALL {
        for (to, backend) in [
            (family.address(VIP4, VIP6, 80), family.address("10.88.0.9", "fd88::9", 8080)),
            (family.address("10.88.0.9", "fd88::9", 8080), family.address("10.88.0.9", "fd88::9", 8080)),
        ] {
            let stream = client.connects(to).unwrap();
            let (accepted, _) = Proxy::of(&proxy.outbound, family).accept().unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            assert_eq!(stream.local_addr().unwrap().ip(), client.address(family, 0).ip());
            let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            let asked = Asked { addr: plain(to), backend: plain(backend), mode: 3, binds: false };
            assert_eq!(proxy.asked(&accepted), Some(asked));
            // What the proxy itself sees of the connection is loopback: shown to nobody else.
            assert!(accepted.peer_addr().unwrap().ip().to_canonical().is_loopback());
            talk(&stream, &accepted);
        }
    }
    assert_eq!(node.count(Reason::Proxied), 6);
    assert_eq!(node.count(Reason::HandoffTaken), 6);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_socket_bound_to_the_pods_address_is_captured_all_the_same() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9", "fd88::9"]);
    for family in Family::ALL {
        let to = family.address("10.88.0.9", "fd88::9", 8080);
        let socket = client.socket(Domain::for_address(to), Protocol::TCP);
        socket.bind(&client.address(family, 0).into()).unwrap();
        client.connect(&socket, to).unwrap();
        let (accepted, from) = Proxy::of(&proxy.outbound, family).accept().unwrap();
        assert_eq!(from.ip().to_canonical(), client.address(family, 0).ip().to_canonical());
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().ip(), client.address(family, 0).ip());
        assert_eq!(proxy.asked(&accepted).unwrap().addr.ip(), to.ip().to_canonical());
        talk(&socket.into(), &accepted);
    }
}

#[test]
fn weights_hold_within_two_points_over_ten_thousand_connects() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let backends = [server.listens("0.0.0.0", 8081), server.listens("0.0.0.0", 8082)];
    // 30 : 70, as an alias table of two slots: the first keeps its own backend in 60 % of its draws.
    let key = |slot| SlotKey { table: 1, slot };
    let value = |port: u16, alias: u16, threshold| SlotValue {
        addr: server.v4,
        alias_addr: server.v4,
        port: port.to_be_bytes(),
        alias_port: alias.to_be_bytes(),
        threshold,
    };
    node.write(&Write::SetSlot(key(0), value(8081, 8082, 2_576_980_377)));
    node.write(&Write::SetSlot(key(1), value(8082, 8082, u32::MAX)));
    let service = ServiceValue { table: 1, n_slots: 2, affinity_s: 0, flags: 0 };
    node.write(&Write::SetService(service_key("10.96.0.10:80"), service));
    for backend in &backends {
        backend.set_nonblocking(true).unwrap();
    }
    let mut taken = [0u32; 2];
    for _ in 0..10 {
        client.run(|| {
            for _ in 0..1000 {
                let stream = TcpStream::connect("10.96.0.10:80").unwrap();
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        });
        for (taken, backend) in taken.iter_mut().zip(&backends) {
            while backend.accept().is_ok() {
                *taken += 1;
            }
        }
    }
    assert_eq!(taken.iter().sum::<u32>(), 10_000);
    assert!((2800..=3200).contains(&taken[0]), "{taken:?} is not 30 : 70 within 2 points");
}

#[test]
fn no_connect_sees_a_torn_table_while_it_is_flipped_a_thousand_times() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    // Tables of one size or another, so that a slot drawn from one may be missing in the next.
    let all: Vec<TcpListener> = (8001..=8008).map(|port| server.listens("0.0.0.0", port)).collect();
    let backends: Vec<_> = (8001..=8008).map(|port| (server.v4, port)).collect();
    node.service("10.96.0.10:80", 1, &backends);
    for listener in &all {
        listener.set_nonblocking(true).unwrap();
    }
    let (is_done, mut n_connects) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let connects = scope.spawn(|| {
            client.run(|| {
                let mut n = 0u32;
                while !is_done.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect("10.96.0.10:80").unwrap();
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                    n += 1;
                    if n.is_multiple_of(256) {
                        all.iter().for_each(|listener| while listener.accept().is_ok() {});
                    }
                }
                n
            })
        });
        let mut old = 1;
        for flip in 0..1000u32 {
            let (table, n_slots) = (flip + 2, if flip.is_multiple_of(2) { 1 } else { 8 });
            node.service("10.96.0.10:80", table, &backends[..n_slots]);
            for slot in 0..8 {
                node.write(&Write::RemoveSlot(SlotKey { table: old, slot }));
            }
            old = table;
        }
        is_done.store(true, Ordering::Relaxed);
        n_connects = connects.join().unwrap();
    });
    assert_eq!(node.count(Reason::TornTable), 0);
    assert_eq!(node.count(Reason::Direct), u64::from(n_connects));
    assert!(n_connects > 1000, "only {n_connects} connects ran beside the flips");
}

/// Refusals, each by its errno and its counter.
#[test]
fn a_service_without_ready_backends_refuses_at_once() {
    let node = Node::new();
    let client = node.pod();
    node.service("10.96.0.10:80", 1, &[]);
    assert_eq!(client.refused("10.96.0.10:80".parse().unwrap()), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NoBackend), 1);
}

#[test]
fn a_verdict_decides_and_where_none_is_written_the_answer_is_no() {
    let node = Node::new();
    let (client, server, listener) = pair(&node);
    node.enrol(&server, DestKind::Local, 42);
    let to = server.address(Family::V4, 8080);
    assert_eq!(client.refused(to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NoVerdict), 1);
    node.verdict(&client, 42, 0);
    assert_eq!(client.refused(to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::Denied), 1);
    node.verdict(&client, 42, 1);
    let stream = client.connects(to).unwrap();
    talk(&stream, &listener.accept().unwrap().0);
    // The exact port's verdict comes before the one for all.
    let key = millrace_abi::VerdictKey { source: client.id, group: 42, port: 8080u16.to_be_bytes(), reserved: [0; 6] };
    node.write(&Write::SetVerdict(key, millrace_abi::Verdict { policy: 8, allow: 0, reserved: 0 }));
    assert_eq!(client.refused(to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::Denied), 2);
}

#[test]
fn a_denied_connect_is_recorded_with_its_policy() {
    let node = Node::new();
    node.record_flows();
    let (client, server, _listener) = pair(&node);
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 0);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    let mut flows = Vec::new();
    node.kernel().flows(&mut |flow| flows.push(flow));
    let [flow] = flows[..] else { panic!("{} records, not one", flows.len()) };
    assert_eq!((flow.reason, flow.policy, flow.source), (Reason::Denied as u32, 7, client.id));
    assert_eq!((flow.netns, flow.asked, flow.asked_port), (client.cookie, addr(VIP4), [0, 80]));
    assert_eq!((flow.target, flow.target_port), (server.v4, 8080u16.to_be_bytes()));
}

#[test]
fn an_unknown_namespace_reaches_nothing_of_the_mesh_and_everything_else() {
    let node = Node::new();
    let (_, server, listener) = pair(&node);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let stranger = node.stranger();
    assert_eq!(stranger.refused(server.address(Family::V4, 8080)), Some(EPERM));
    assert_eq!(stranger.refused(server.address(Family::V6, 8080)), Some(EPERM));
    assert_eq!(stranger.refused("10.96.0.10:80".parse().unwrap()), Some(EPERM));
    assert_eq!(node.count(Reason::UnknownNamespace), 3);
    let other = node.stranger();
    let plain = other.listens("0.0.0.0", 80);
    let stream = stranger.connects(other.address(Family::V4, 80)).unwrap();
    talk(&stream, &plain.accept().unwrap().0);
    drop(listener);
}

#[test]
fn a_pod_whose_listeners_are_not_open_yet_is_not_reached() {
    let node = Node::new();
    let (client, server, _listener) = pair(&node);
    node.enrol(&server, DestKind::Pending, 0);
    assert_eq!(client.refused(server.address(Family::V4, 8080)), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NotEnrolled), 1);
    // By others, that is: it may call itself.
    server.connects(server.address(Family::V4, 8080)).unwrap();
}

#[test]
fn the_meshs_own_ports_are_refused() {
    let node = Node::new();
    let (client, server, _listener) = pair(&node);
    for port in [15008, 15801, 15806] {
        assert_eq!(client.refused(server.address(Family::V4, port)), Some(EPERM));
        assert_eq!(client.refused(client.address(Family::V6, port)), Some(EPERM), "nor a pod's own");
    }
    assert_eq!(node.count(Reason::MeshPort), 6);
}

#[test]
fn an_exempt_socket_and_namespaces_outside_the_mesh_are_left_alone() {
    let node = Node::new();
    let (client, server, _listener) = pair(&node);
    node.enrol(&server, DestKind::Local, 42);
    let to: SocketAddr = "10.96.0.10:80".parse().unwrap();
    node.service("10.96.0.10:80", 1, &[]);
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    exempt(&node, socket.as_fd());
    socket.set_nonblocking(true).unwrap();
    // Nobody answers for the service's address on the wire: the connect is under way, not refused.
    assert_eq!(client.connect(&socket, to).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    assert_eq!(node.count(Reason::Exempt), 1);
    for kind in [PodKind::Outside, PodKind::Host] {
        let other = node.stranger();
        node.know(&other, kind);
        let socket = other.socket(Domain::IPV4, Protocol::TCP);
        socket.set_nonblocking(true).unwrap();
        assert_eq!(other.connect(&socket, to).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    }
    assert_eq!(node.count(Reason::Untouched), 2);
}

#[test]
fn a_pod_reaches_itself_by_its_address_and_by_a_service_whatever_the_policy() {
    let node = Node::new();
    let (_, server, listener) = pair(&node);
    node.enrol(&server, DestKind::Local, 42);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    for to in [server.address(Family::V4, 8080), server.address(Family::V6, 8080), "10.96.0.10:80".parse().unwrap()] {
        let stream = server.connects(to).unwrap();
        talk(&stream, &listener.accept().unwrap().0);
        assert_eq!(stream.peer_addr().unwrap(), to);
    }
    assert_eq!(node.count(Reason::Own), 3);
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_backend_outside_the_mesh_is_reached_plainly() {
    let node = Node::new();
    let client = node.pod();
    let outside = node.stranger();
    let listener = outside.listens("0.0.0.0", 80);
    node.service("10.96.0.10:80", 1, &[(outside.v4, 80)]);
    let stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
    talk(&stream, &listener.accept().unwrap().0);
    assert_eq!(node.count(Reason::PlainBackend), 1);
}

#[test]
fn a_socket_that_connects_again_forgets_what_it_asked_for_before() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let outside = node.stranger();
    let listener = outside.listens("0.0.0.0", 80);
    // Nobody listens at 8080: the first connect fails after the socket was told where it goes.
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    let error = client.connect(&socket, "10.96.0.10:80".parse().unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ECONNREFUSED));
    let to = outside.address(Family::V4, 80);
    client.connect(&socket, to).unwrap();
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(to));
    talk(&socket.into(), &listener.accept().unwrap().0);
}

#[test]
fn a_full_map_is_refused_by_name() {
    let node = Node::new();
    let value = PodValue { id: 1, v4: [0; 16], v6: [0; 16], kind: PodKind::Outside as u32, reserved: 0 };
    for cookie in 0..u64::from(capacity::PODS) {
        node.write(&Write::SetPod(u64::MAX - cookie, value));
    }
    let error = node.kernel().write(&Write::SetPod(1, value)).unwrap_err();
    assert!(matches!(error, MapError::Full { map: "PODS", capacity: capacity::PODS }), "{error}");
    assert!(error.to_string().contains("PODS is full"), "{error}");
}

#[test]
fn a_socket_bound_to_a_device_is_captured_all_the_same() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9", "fd88::9"]);
    for family in Family::ALL {
        let to = family.address("10.88.0.9", "fd88::9", 8080);
        let socket = client.socket(Domain::for_address(to), Protocol::TCP);
        socket.bind_device(Some(b"eth0")).unwrap();
        client.connect(&socket, to).unwrap();
        let (accepted, _) = Proxy::of(&proxy.outbound, family).accept().unwrap();
        talk(&socket.into(), &accepted);
    }
}

#[test]
fn a_socket_bound_to_a_device_that_it_may_not_leave_is_refused_by_name() {
    let node = Node::new();
    let (client, _proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let socket = client.socket(Domain::IPV4, Protocol::TCP);
    socket.bind_device(Some(b"eth0")).unwrap();
    let result = client.run(|| {
        // This thread alone: it is an application without CAP_NET_RAW.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        socket.connect(&"10.88.0.9:8080".parse::<SocketAddr>().unwrap().into())
    });
    assert_eq!(result.unwrap_err().raw_os_error(), Some(EPERM));
    assert_eq!(node.count(Reason::BoundToDevice), 1);
}
