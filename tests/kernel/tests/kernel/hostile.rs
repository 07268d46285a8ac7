//! Attacks of docs/HOSTILE.md, each with what stops it taken away: where nothing stops it, it succeeds, so that it is the mechanism
//! that does; or another one stands behind, which is taken away next.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use libc::{EADDRINUSE, ECONNREFUSED, EINPROGRESS, EPERM};
use millrace_abi::{Reason, capacity, map};
use millrace_agent::kernel::Capacities;
use millrace_lab::frames::{self, ACK, Ends, SYN, Segment, Wire};
use millrace_model::NodeProfile;

use crate::{
    node::{Family, Node, Pod, Proxy},
    pending::{begins, black_hole, settles},
};

/// How long no answer must come.
const SILENCE: Duration = Duration::from_millis(300);

/// How long an answer may take, and how long who gets none waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes away what judges IPv4 connects. The kernel lets go of a link whose pin went a moment later: this pod's connect fails
/// by it until then.
fn unjudged(node: &Node, pod: &Pod, to: SocketAddr) {
    fs::remove_file(node.pins().join("link_connect4")).unwrap();
    crate::node::until(|| pod.refused(to) != Some(EPERM));
}

/// Takes away what steers arrivals at this pod.
fn unsteered(node: &Node, pod: &Pod) {
    node.kernel().detach_pod(pod.cookie).unwrap();
}

/// Sets this in the pod's namespace, as its root could in its own.
fn set(pod: &Pod, setting: &str, value: &str) {
    pod.run(|| fs::write(Path::new("/proc/sys/net/ipv4").join(setting), value).unwrap());
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_pod_gets_its_own_captured_calls_only_where_nobody_holds_its_listeners() {
    let node = Node::new();
    let (hostile, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let binds = |port| hostile.run(move || TcpListener::bind(("0.0.0.0", port)));
    for port in [15801, 15806, 15008] {
        assert_eq!(errno(binds(port)), Some(EADDRINUSE), "{port}");
    }
    // As where agent, proxy and holder are killed together: what this pod calls on other nodes comes to it in the clear. It
    // takes from nobody but itself.
    drop(proxy);
    let taken = binds(15801).unwrap();
    let _stream = hostile.connects("10.88.0.9:80".parse().unwrap()).unwrap();
    taken.accept().unwrap();
}

/// What `connect` refuses, steering does; what steering would let through, is bound to loopback.
#[test]
fn the_mesh_ports_of_another_pod_are_out_of_reach_even_without_both_hooks() {
    let node = Node::new();
    let (hostile, (server, _proxy)) = (node.pod(), node.pod_with_proxy());
    let to = |port| server.address(Family::V4, port);
    let refused = || [15801, 15806].map(|port| hostile.refused(to(port)));
    assert_eq!((refused(), node.count(Reason::MeshPort)), ([Some(EPERM); 2], 2));
    unjudged(&node, &hostile, to(15801));
    assert_eq!(refused(), [Some(ECONNREFUSED); 2]);
    let dropped = node.count(Reason::InMeshPort);
    assert!(dropped >= 2, "it is steering that refuses: {dropped}");
    unsteered(&node, &server);
    assert_eq!((refused(), node.count(Reason::InMeshPort)), ([Some(ECONNREFUSED); 2], dropped));
}

#[test]
fn a_namespace_that_nobody_enrolled_reaches_an_application_only_without_both_hooks() {
    let node = Node::new();
    let (server, proxy) = node.pod_with_proxy();
    let (nested, application) = (node.stranger(), server.listens("0.0.0.0", 8080));
    application.set_nonblocking(true).unwrap();
    let to = server.address(Family::V4, 8080);
    assert_eq!((nested.refused(to), node.count(Reason::UnknownNamespace)), (Some(EPERM), 1));
    unjudged(&node, &nested, to);
    let _as_nobody = Proxy::of(&proxy.plaintext, Family::V4).accept().unwrap();
    let n_judged = node.count(Reason::InPlaintext);
    assert_eq!(application.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "it went by the proxy");
    unsteered(&node, &server);
    let _stream = nested.connects(to).unwrap();
    let heard = std::cell::Cell::new(false);
    crate::node::until(|| heard.replace(heard.get() || application.accept().is_ok()) || heard.get());
    assert!(heard.get(), "the application is reached");
    assert_eq!(node.count(Reason::InPlaintext), n_judged, "somebody has judged it");
}

/// More connects than there is room for.
const FLOOD: usize = 3000;

#[test]
fn a_pod_fills_the_table_of_connects_under_way_for_everybody_only_without_its_quota() {
    let mut node = Node::new();
    let maps = [(Arc::from(map::HANDOFFS), 2000)].into();
    let room = Capacities::of(Some(&NodeProfile { maps, ..NodeProfile::default() }));
    node.succeed(&room.directory(), room);
    node.kernel().take_over().unwrap();
    let (hostile, neighbour, server) = (node.pod(), node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    black_hole(&hostile, &server);
    let to = server.address(Family::V4, 8080);
    let flood = || hostile.run(|| (0..FLOOD).map(|_| begins(to)).collect::<Vec<_>>());

    let held = flood();
    let n_under_way = held.iter().filter(|(_, errno)| *errno == EINPROGRESS).count();
    assert_eq!(n_under_way, capacity::PENDING_PER_POD as usize);
    neighbour.connects(to).unwrap();
    listener.accept().unwrap();
    drop(held);
    settles(&node, &hostile);

    // A count so far below zero that it never comes to the quota.
    let data = MapData::from_pin(node.pins().join(map::PENDING)).unwrap();
    let mut counts: HashMap<_, u64, i64> = Map::HashMap(data).try_into().unwrap();
    counts.insert(hostile.cookie, -1_000_000, 0).unwrap();
    let held = flood();
    assert!(held.iter().all(|(_, errno)| *errno == EINPROGRESS), "nothing is refused to it");
    assert!(node.count(Reason::HandoffFull) > 0);
    // What finds no room is vouched for by nobody: plain text, which here nobody takes.
    assert_eq!(neighbour.refused(to), Some(ECONNREFUSED), "a neighbour is not felt to be flooded");
}

/// Half-open connections, from addresses that nobody has: what answers them is never acknowledged, nor reset.
fn half_opens(hostile: &Wire, target: ([u8; 6], SocketAddr), rounds: std::ops::Range<u16>) {
    for n in rounds {
        let from = SocketAddr::new([10, 77, 0, 200 + u8::try_from(n % 50).unwrap()].into(), 1024 + n);
        let ends = Ends { macs: (hostile.mac, target.0), from, to: target.1 };
        hostile.send(&frames::tcp(&ends, &Segment { flags: SYN, sequence: 9, ..Segment::default() })).unwrap();
    }
}

#[test]
fn half_open_connections_keep_callers_out_only_without_steering_and_without_cookies() {
    let node = Node::new();
    let (hostile, neighbour, (server, _proxy)) = (node.pod(), node.pod(), node.pod_with_proxy());
    let _application = server.listens("0.0.0.0", 8080);
    let wire = |pod: &Pod| pod.run(|| Wire::on("eth0").unwrap());
    let (out, to) = (wire(&hostile), server.address(Family::V4, 8080));
    let target = (wire(&server).mac, to);
    set(&server, "tcp_max_syn_backlog", "64");
    set(&server, "tcp_syncookies", "0");

    half_opens(&out, target, 0..1000);
    crate::node::until(|| node.count(Reason::InPlaintext) >= 1000);
    assert!(node.count(Reason::InPlaintext) >= 1000, "they are steered to the proxy's queue");
    neighbour.connects(to).unwrap(); // Who is attested waits in another queue.

    unsteered(&node, &server);
    half_opens(&out, target, 1000..2000);
    let waits = neighbour.socket(socket2::Domain::IPV4, socket2::Protocol::TCP);
    let gets_in = || neighbour.run(|| waits.connect_timeout(&to.into(), PATIENCE));
    assert_eq!(gets_in().unwrap_err().kind(), io::ErrorKind::TimedOut, "a caller comes through");

    set(&server, "tcp_syncookies", "1");
    half_opens(&out, target, 2000..3000);
    neighbour.connects(to).unwrap();
}

#[test]
fn an_application_on_loopback_is_reached_from_the_wire_only_where_its_own_pod_and_nobody_else_lets_it() {
    let node = Node::new();
    let (hostile, server) = (node.pod(), node.pod());
    let _application = server.listens("127.0.0.1", 8080);
    let wire = |pod: &Pod| pod.run(|| Wire::on("eth0").unwrap());
    let (out, mac) = (wire(&hostile), wire(&server).mac);
    let to = SocketAddr::from(([127, 0, 0, 1], 8080));
    let is_answered = |port, patience| {
        let ends = Ends { macs: (out.mac, mac), from: hostile.address(Family::V4, port), to };
        out.send(&frames::tcp(&ends, &Segment { flags: SYN, sequence: 9, ..Segment::default() })).unwrap();
        let answer = |frame: &[u8]| {
            let (of, segment) = frames::parse(frame)?;
            (of.from == to && segment.flags == SYN | ACK).then_some(())
        };
        out.hear(patience, answer).unwrap().is_some()
    };
    set(&hostile, "conf/eth0/route_localnet", "1");
    // So that the server knows its link address, which it would ask for in loopback's name.
    assert_eq!(hostile.refused(server.address(Family::V4, 1)), Some(ECONNREFUSED));
    assert!(!is_answered(4001, SILENCE), "the sender's own setting lets it in");
    assert_eq!(node.count(Reason::InMartian), 0, "the kernel drops it before anybody is asked");
    set(&server, "conf/eth0/route_localnet", "1");
    set(&server, "conf/all/rp_filter", "0");
    set(&server, "conf/eth0/rp_filter", "0");
    assert!(!is_answered(4002, SILENCE), "the program lets it in");
    assert!(node.count(Reason::InMartian) > 0, "it is the program that drops it");
    unsteered(&node, &server);
    assert!(is_answered(4003, PATIENCE), "without both it is answered");
}
