//! `connect*`, `sendmsg*` and `recvmsg*`, for datagrams: who they go to, whether they may, and whom an answer is shown to come from.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
};

use libc::{ECONNREFUSED, EPERM};
use millrace_abi::{DestKind, FlowEvent, PodKind, Reason};
use millrace_agent::kernel::Write;

use crate::node::{Family, Node, Pod, addr, heard};

const VIP4: &str = "10.96.0.53";
const VIP6: &str = "fd96::53";

/// Two pods, and services of both families that lead to the second's port 5353.
fn pair(node: &Node) -> (Pod, Pod) {
    let (client, server) = (node.pod(), node.pod());
    node.udp_service("10.96.0.53:53", 1, &[(server.v4, 5353)]);
    node.udp_service("[fd96::53]:53", 2, &[(server.v6, 5353)]);
    (client, server)
}

/// An unconnected socket of the pod's that can say this address.
fn unconnected(pod: &Pod, family: Family) -> UdpSocket {
    pod.udp(if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" })
}

/// Sends, and says what came back and from whom.
fn asks(socket: &UdpSocket, to: SocketAddr) -> (Vec<u8>, SocketAddr) {
    socket.send_to(b"who", to).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = heard(socket, &mut buffer);
    (buffer[..length].to_vec(), from)
}

fn refused(socket: &UdpSocket, to: SocketAddr) -> Option<i32> {
    socket.send_to(b"who", to).err().and_then(|error| error.raw_os_error())
}

fn flows(node: &Node) -> Vec<FlowEvent> {
    let mut events = Vec::new();
    node.kernel().flows(&mut |event| events.push(event));
    events
}

#[test]
fn a_connected_socket_reaches_a_backend_and_sees_the_service() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let listener = server.udp("[::]:5353");
    for family in Family::ALL {
        let to = family.address(VIP4, VIP6, 53);
        let socket = client.udp_for(to);
        socket.connect(to).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), to);
        socket.send(b"who").unwrap();
        let mut buffer = [0; 64];
        let (length, from) = heard(&listener, &mut buffer);
        assert_eq!(&buffer[..length], b"who");
        assert_eq!(from.ip().to_canonical(), client.address(family, 0).ip().to_canonical());
        assert_eq!(from.port(), socket.local_addr().unwrap().port());
        listener.send_to(b"me", from).unwrap();
        let (length, shown) = heard(&socket, &mut buffer);
        assert_eq!((&buffer[..length], shown), (b"me".as_slice(), to));
        assert_eq!(socket.peer_addr().unwrap(), to);
    }
    assert!(node.count(Reason::UdpDirect) >= 3);
    assert_eq!(node.count(Reason::InUdp), 3);
}

#[test]
fn an_unconnected_socket_is_answered_by_whom_it_asked() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let _echo = server.echo("[::]:5353", b'a');
    for family in Family::ALL {
        let socket = unconnected(&client, family);
        for to in [family.address(VIP4, VIP6, 53), server.address(family, 5353), family.address(VIP4, VIP6, 53)] {
            assert_eq!(asks(&socket, to), (b"awho".to_vec(), to), "{family:?}");
        }
    }
}

/// A socket that is connected may still say another address.
#[test]
fn a_connected_ipv6_socket_that_speaks_ipv4_sends_by_name_too() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let _echo = server.echo("[::]:5353", b'a');
    let to = Family::Mapped.address(VIP4, VIP6, 53);
    let socket = client.udp_for(to);
    socket.connect(to).unwrap();
    for _ in 0..3 {
        socket.send(b"who").unwrap();
        let mut buffer = [0; 64];
        let (_, from) = heard(&socket, &mut buffer);
        assert_eq!(from, to);
    }
}

#[test]
fn a_socket_keeps_its_backend_and_sockets_are_spread() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echoes: Vec<_> = (0..4u8).map(|n| server.echo(&format!("0.0.0.0:{}", 5000 + u16::from(n)), n)).collect();
    let backends: Vec<_> = (5000..5004).map(|port| (server.v4, port)).collect();
    node.udp_service("10.96.0.53:53", 1, &backends);
    let to = "10.96.0.53:53".parse().unwrap();
    let mut taken = BTreeSet::new();
    for _ in 0..40 {
        let socket = client.udp("0.0.0.0:0");
        let marks: BTreeSet<u8> = (0..10).map(|_| asks(&socket, to).0[0]).collect();
        assert_eq!(marks.len(), 1, "one socket was answered by {marks:?}");
        taken.extend(marks);
    }
    assert_eq!(taken.len(), 4, "all of 40 sockets went to {taken:?}");
}

#[test]
fn a_backend_that_goes_is_replaced_and_one_that_stays_is_kept() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echoes: Vec<_> = (0..3u8).map(|n| server.echo(&format!("0.0.0.0:{}", 5000 + u16::from(n)), n)).collect();
    let backend = |n: u8| (server.v4, 5000 + u16::from(n));
    let to = "10.96.0.53:53".parse().unwrap();
    node.udp_service("10.96.0.53:53", 1, &[backend(1)]);
    let socket = client.udp("0.0.0.0:0");
    assert_eq!(asks(&socket, to).0[0], 1);
    // Others come, and the table is another: the socket stays where it is.
    node.udp_service("10.96.0.53:53", 2, &[backend(0), backend(1), backend(2)]);
    for _ in 0..20 {
        assert_eq!(asks(&socket, to), (vec![1, b'w', b'h', b'o'], to));
    }
    // A number that was used before, for a table that lacks it.
    node.udp_service("10.96.0.53:53", 1, &[backend(2)]);
    assert_eq!(asks(&socket, to), (vec![2, b'w', b'h', b'o'], to));
    node.udp_service("10.96.0.53:53", 3, &[]);
    assert_eq!(refused(&socket, to), Some(ECONNREFUSED));
    node.udp_service("10.96.0.53:53", 4, &[backend(1)]);
    assert_eq!(asks(&socket, to).0[0], 1);
}

/// Nothing in a datagram says which of two services it answers: the one asked last is shown, and never one that was not asked.
#[test]
fn two_services_of_one_backend_are_shown_as_asked_last() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echo = server.echo("0.0.0.0:5353", b'a');
    node.udp_service("10.96.0.1:53", 1, &[(server.v4, 5353)]);
    node.udp_service("10.96.0.2:53", 2, &[(server.v4, 5353)]);
    let (one, two) = ("10.96.0.1:53".parse().unwrap(), "10.96.0.2:53".parse().unwrap());
    let (socket, other) = (client.udp("0.0.0.0:0"), client.udp("0.0.0.0:0"));
    for to in [one, two, one, server.address(Family::V4, 5353), two] {
        assert_eq!(asks(&socket, to).1, to);
        // Another socket of the same pod has nothing to do with it.
        assert_eq!(asks(&other, one).1, one);
    }
}

#[test]
fn two_services_are_kept_apart_where_there_are_backends_enough() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echoes: Vec<_> = (0..8u8).map(|n| server.echo(&format!("0.0.0.0:{}", 5000 + u16::from(n)), n)).collect();
    let backends: Vec<_> = (5000..5008).map(|port| (server.v4, port)).collect();
    node.udp_service("10.96.0.1:53", 1, &backends);
    node.udp_service("10.96.0.2:53", 2, &backends);
    let (one, two) = ("10.96.0.1:53".parse().unwrap(), "10.96.0.2:53".parse().unwrap());
    let shared = (0..100).filter(|_| {
        let socket = client.udp("0.0.0.0:0");
        asks(&socket, one).0 == asks(&socket, two).0
    });
    // Three draws all fall on the one taken once in 512; without a second draw 12 of 100 would.
    let n_shared = shared.count();
    assert!(n_shared < 5, "{n_shared} of 100 sockets ask one backend for both services");
}

#[test]
fn a_socket_that_connects_again_or_no_more_shows_nothing_of_before() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let _echo = server.echo("[::]:5353", b'a');
    let (service, pod): (SocketAddr, _) = ("10.96.0.53:53".parse().unwrap(), server.address(Family::V4, 5353));
    let socket = client.udp("0.0.0.0:0");
    socket.connect(service).unwrap();
    socket.connect(pod).unwrap();
    assert_eq!(socket.peer_addr().unwrap(), pod);
    assert_eq!(asks(&socket, pod).1, pod);
    socket.connect(service).unwrap();
    // AF_UNSPEC: no program runs, and the socket is unconnected.
    let nobody = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    disconnect(&socket, &nobody);
    socket.peer_addr().unwrap_err();
    assert_eq!(asks(&socket, pod).1, pod);
    // A connect that fails leaves the socket connected to whom it was: nobody may send to all without asking for that.
    socket.connect(pod).unwrap();
    node.udp_service("10.96.0.54:53", 3, &[(addr("255.255.255.255"), 53)]);
    socket.connect("10.96.0.54:53").unwrap_err();
    assert_eq!(socket.peer_addr().unwrap(), pod);
}

#[expect(unsafe_code, reason = "the standard library cannot say AF_UNSPEC")]
fn disconnect(socket: &UdpSocket, nobody: &libc::sockaddr) {
    use std::os::fd::AsRawFd as _;
    let length = u32::try_from(size_of::<libc::sockaddr>()).unwrap();
    // SAFETY: the descriptor is open, and the address is as long as said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), nobody, length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_socket_of_more_services_than_are_remembered_forgets_the_oldest() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let _echoes: Vec<_> = (0..17u8).map(|n| server.echo(&format!("0.0.0.0:{}", 5000 + u16::from(n)), n)).collect();
    let socket = client.udp("0.0.0.0:0");
    let to = |n: u8| -> SocketAddr { format!("10.96.1.{n}:53").parse().unwrap() };
    for n in 0..17u8 {
        node.udp_service(&to(n).to_string(), 1 + u32::from(n), &[(server.v4, 5000 + u16::from(n))]);
        assert_eq!(asks(&socket, to(n)).1, to(n));
    }
    assert_eq!(node.count(Reason::UdpForgotten), 1);
    // Asked again it is remembered again; all others were not mixed up.
    for n in [0, 16, 8, 2] {
        assert_eq!(asks(&socket, to(n)).1, to(n));
    }
}

#[test]
fn a_denied_datagram_fails_at_once_and_its_record_names_the_policy() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let echo = server.echo("[::]:5353", b'a');
    node.record_flows();
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 0);
    for family in Family::ALL {
        for to in [family.address(VIP4, VIP6, 53), server.address(family, 5353)] {
            let socket = unconnected(&client, family);
            assert_eq!(refused(&socket, to), Some(ECONNREFUSED), "{to}");
            assert_eq!(socket.connect(to).unwrap_err().raw_os_error(), Some(ECONNREFUSED), "{to}");
        }
    }
    let events = flows(&node);
    assert!(events.iter().all(|event| event.reason == Reason::Denied as u32 && event.policy == 7), "{events:?}");
    assert_eq!(events.len(), 4, "one for each address that was asked for: {events:?}");
    assert!(events.iter().all(|event| event.is_datagram == 1), "{events:?}");
    assert_eq!((node.count(Reason::Denied), echo.heard()), (12, 0));
    // No verdict at all is a no.
    node.write(&Write::RemoveVerdict(millrace_abi::VerdictKey {
        source: client.id,
        group: 42,
        port: [0; 2],
        reserved: [0; 6],
    }));
    assert_eq!(refused(&client.udp("0.0.0.0:0"), server.address(Family::V4, 5353)), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NoVerdict), 1);
}

/// Ten thousand ports, so that no two are told as one.
#[test]
fn a_flood_of_datagrams_is_no_flood_of_records() {
    let node = Node::new();
    let (client, server) = pair(&node);
    let other = node.pod();
    node.record_flows();
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 0);
    node.verdict(&other, 42, 0);
    let socket = client.udp("0.0.0.0:0");
    let began = millrace_lab::clock::now();
    for port in 10_000..20_000 {
        assert_eq!(refused(&socket, server.address(Family::V4, port)), Some(ECONNREFUSED));
    }
    let seconds = began.elapsed().as_secs() + 2; // The first and the last may be begun ones.
    let n_told = flows(&node).len() as u64;
    assert!((1..=32 * seconds).contains(&n_told), "{n_told} records in {seconds} s");
    assert_eq!(node.count(Reason::Denied), 10_000);
    assert_eq!(node.count(Reason::UdpFlowPaced), 10_000 - n_told);
    // Another pod's are told all the same.
    assert_eq!(refused(&other.udp("0.0.0.0:0"), server.address(Family::V4, 5353)), Some(ECONNREFUSED));
    assert_eq!(flows(&node).len(), 1);
}

#[test]
fn a_namespace_that_nobody_knows_is_nobody() {
    let node = Node::new();
    let (_, server) = pair(&node);
    let (stranger, elsewhere) = (node.stranger(), node.stranger());
    for family in Family::ALL {
        for to in [family.address(VIP4, VIP6, 53), server.address(family, 5353)] {
            let socket = unconnected(&stranger, family);
            assert_eq!(refused(&socket, to), Some(EPERM));
            assert_eq!(socket.connect(to).unwrap_err().raw_os_error(), Some(EPERM));
        }
    }
    let _echo = elsewhere.echo("[::]:53", b'e');
    let to = elsewhere.address(Family::V4, 53);
    assert_eq!(asks(&stranger.udp("0.0.0.0:0"), to).1, to);
}

#[test]
fn what_is_not_of_the_mesh_is_left_alone_and_counted_by_nobody() {
    let node = Node::new();
    let (client, outside) = (node.pod(), node.stranger());
    node.know(&outside, PodKind::Outside);
    let _echoes = [outside.echo("[::]:53", b'o'), client.echo("127.0.0.1:5300", b'l')];
    node.record_flows();
    for family in Family::ALL {
        let to = outside.address(family, 53);
        assert_eq!(asks(&unconnected(&client, family), to), (b"owho".to_vec(), to));
        let socket = client.udp_for(to);
        socket.connect(to).unwrap();
        socket.send(b"who").unwrap();
        assert_eq!(heard(&socket, &mut [0; 64]).1, to);
    }
    let own = "127.0.0.1:5300".parse().unwrap();
    assert_eq!(asks(&client.udp("0.0.0.0:0"), own).1, own);
    assert!(flows(&node).is_empty());
    // And a pod outside the mesh calls a service as it would without one: not at all here.
    node.udp_service("10.96.0.53:53", 1, &[(client.v4, 5300)]);
    let socket = outside.udp("0.0.0.0:0");
    socket.send_to(b"who", "10.96.0.53:53").unwrap();
    assert_eq!(node.count(Reason::UdpDirect) + node.count(Reason::UdpPlain), 0);
}

/// Between nodes nobody has an identity: a policy that asks for one lets nobody in, and says so at the source.
#[test]
fn a_pod_of_another_node_is_sent_to_as_somebody_without_identity() {
    let node = Node::new();
    let (client, remote) = (node.pod(), node.stranger());
    // As its own node sees it: somebody else's, whose datagrams no hook of this node's pods runs for.
    node.know(&remote, PodKind::Outside);
    let _echo = remote.echo("[::]:5353", b'r');
    let to = remote.address(Family::V4, 5353);
    node.udp_service("10.96.0.53:53", 1, &[(remote.v4, 5353)]);
    let enrol = |group| {
        let dest = millrace_abi::Dest { id: 9, group, kind: DestKind::Remote as u32, udp: 0 };
        node.write(&Write::SetDest(remote.v4, dest));
    };
    enrol(0);
    assert_eq!(asks(&client.udp("0.0.0.0:0"), to).1, to);
    assert_eq!(node.count(Reason::UdpPlain), 1);
    enrol(42);
    // The verdict by identity is for connections: a tunnel carries those.
    node.verdict(&client, 42, 1);
    assert_eq!(refused(&client.udp("0.0.0.0:0"), to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NoVerdict), 1);
    node.record_flows();
    node.strangers(42, 0);
    for to in [to, "10.96.0.53:53".parse().unwrap()] {
        assert_eq!(refused(&client.udp("0.0.0.0:0"), to), Some(ECONNREFUSED));
    }
    assert_eq!(node.count(Reason::UdpNoIdentity), 2);
    assert!(flows(&node).iter().all(|event| event.policy == 9));
    // By its address, where a policy asks for that; at that port alone.
    node.stranger_at(42, &client.ip4, 5353, 1);
    assert_eq!(asks(&client.udp("0.0.0.0:0"), "10.96.0.53:53".parse().unwrap()).0, b"rwho");
    assert_eq!(refused(&client.udp("0.0.0.0:0"), remote.address(Family::V4, 5354)), Some(ECONNREFUSED));
    let closed =
        millrace_abi::Dest { id: 9, group: 42, kind: DestKind::Remote as u32, udp: millrace_abi::udp::NO_STRANGERS };
    node.write(&Write::SetDest(remote.v4, closed));
    assert_eq!(refused(&client.udp("0.0.0.0:0"), to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::UdpBetweenNodes), 1);
}

#[test]
fn a_pod_that_is_pending_is_sent_nothing_and_a_pod_sends_to_itself() {
    let node = Node::new();
    let (client, server) = pair(&node);
    node.enrol(&server, DestKind::Pending, 0);
    assert_eq!(refused(&client.udp("0.0.0.0:0"), server.address(Family::V4, 5353)), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::NotEnrolled), 1);
    node.enrol(&server, DestKind::Local, 42);
    let _echo = server.echo("[::]:5353", b's');
    for family in Family::ALL {
        for to in [family.address(VIP4, VIP6, 53), server.address(family, 5353)] {
            assert_eq!(asks(&unconnected(&server, family), to), (b"swho".to_vec(), to));
        }
    }
    assert_eq!(node.count(Reason::Own), 12, "each question and each answer");
}

/// What a resolver and a QUIC client do: sockets that ask once, and sockets that ask for long, on both families at a time.
#[test]
fn thousands_of_queries_are_answered_by_whom_they_asked() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let n_backends = 4;
    let echoes: Vec<_> = (0..n_backends).map(|n| server.echo(&format!("[::]:{}", 5000 + u16::from(n)), n)).collect();
    let ports = 5000..5000 + u16::from(n_backends);
    node.udp_service("10.96.0.53:53", 1, &ports.clone().map(|port| (server.v4, port)).collect::<Vec<_>>());
    node.udp_service("[fd96::53]:53", 2, &ports.map(|port| (server.v6, port)).collect::<Vec<_>>());
    node.enrol(&server, DestKind::Local, 42);
    node.enrol(&client, DestKind::Local, 43);
    node.verdict(&client, 42, 1);
    node.strangers(43, 0);
    let queries = 600;
    std::thread::scope(|scope| {
        for family in Family::ALL {
            let (client, to) = (&client, family.address(VIP4, VIP6, 53));
            scope.spawn(move || {
                for _ in 0..queries {
                    // Unconnected, one question each; connected, one question each.
                    assert_eq!(asks(&unconnected(client, family), to).1, to);
                    let socket = client.udp_for(to);
                    socket.connect(to).unwrap();
                    socket.send(b"who").unwrap();
                    assert_eq!(heard(&socket, &mut [0; 64]).1, to);
                }
            });
            scope.spawn(move || {
                let (long, quic) = (unconnected(client, family), client.udp_for(to));
                quic.connect(to).unwrap();
                let mark = asks(&long, to).0[0];
                for _ in 0..queries {
                    let (answer, from) = asks(&long, to);
                    assert_eq!((answer[0], from), (mark, to));
                    quic.send(b"who").unwrap();
                    assert_eq!(heard(&quic, &mut [0; 64]).1, to);
                }
            });
        }
    });
    let heard: u64 = echoes.iter().map(super::node::Echo::heard).sum();
    assert_eq!(heard, 3 * (4 * queries + 1));
    assert_eq!((node.count(Reason::Denied), node.count(Reason::InUdpDenied)), (0, 0));
}
