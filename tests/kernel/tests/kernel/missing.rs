//! What becomes of a node whose kernel lacks a feature: each is taken away in turn. What is needed refuses the start by name; what
//! is optional costs what `millrace check` says, and nothing else.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use millrace_abi::Reason;
use millrace_agent::kernel::{
    Missing,
    features::{self, Need},
    missing::{BY_SERVICE, DESTROY, DESTROY_UDP, GRACE, MPTCP, ORDER, REVERSE_PATH, SEQUENCE, TCX},
};
use socket2::{Domain, Protocol};

use crate::node::{Family, Node};

/// Those that have a test here or where it says. One that is added to `features` and not here fails the first test.
const OPTIONAL: [&str; 9] = [ORDER, DESTROY, DESTROY_UDP, BY_SERVICE, TCX, SEQUENCE, REVERSE_PATH, GRACE, MPTCP];

#[test]
fn every_optional_feature_has_a_test_of_its_loss_and_every_other_refuses_the_start() {
    for feature in features::probe() {
        let forced = features::probe_without(&[feature.name.to_owned()]);
        let refused = features::require(&forced).err().map(|why| why.to_string());
        match feature.need {
            Need::Required => {
                let why = refused.unwrap_or_else(|| panic!("an agent starts without {}", feature.name));
                assert!(why.contains(feature.name) && why.contains(feature.without), "{why}");
            }
            Need::Optional => {
                assert_eq!(refused, None, "{}", feature.name);
                assert!(
                    OPTIONAL.contains(&feature.name),
                    "nobody says what becomes of a node without {}",
                    feature.name
                );
            }
        }
        assert!(Missing::of(&forced).lacks(feature.name));
    }
}

/// The agent's own affair: no program asks for it. See `revoke` and the lab.
#[test]
fn without_socket_destroy_the_programs_are_as_they_are() {
    let node = Node::without([DESTROY, DESTROY_UDP].into());
    assert!(node.kernel().lacks(DESTROY) && node.kernel().lacks(DESTROY_UDP));
    carries(&node);
}

/// What they guard against is then not stopped, as `check` says; what is honest is carried as ever.
#[test]
fn without_guards_against_forgery_pods_are_captured_all_the_same() {
    carries(&Node::without([TCX, SEQUENCE, REVERSE_PATH].into()));
}

#[test]
fn without_program_order_pods_are_captured_all_the_same() {
    carries(&Node::without([ORDER].into()));
}

/// A pod calls another by a service, and both see the truth.
fn carries(node: &Node) {
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
    let (_, shown) = listener.accept().unwrap();
    assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
    assert_eq!(shown.ip().to_canonical(), client.address(Family::V4, 0).ip());
    assert_eq!((node.count(Reason::Direct), node.count(Reason::InAttested)), (1, 1));
}

/// A connect that meets an emptied slot looks the service up again: it costs a look, and no connection.
#[test]
fn without_a_grace_period_no_connect_fails_while_tables_are_flipped() {
    let node = Node::without([GRACE].into());
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    listener.set_nonblocking(true).unwrap();
    node.service("10.96.0.10:80", 0, &[(server.v4, 8080)]);
    let (is_done, n_connects) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.run(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect("10.96.0.10:80").unwrap();
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                    n_connects.fetch_add(1, Ordering::Relaxed);
                    while listener.accept().is_ok() {}
                }
            });
        });
        for table in 1..300 {
            let before = n_connects.load(Ordering::Relaxed);
            node.service("10.96.0.10:80", table, &[(server.v4, 8080)]);
            let slot = millrace_abi::SlotKey { table: table - 1, slot: 0 };
            node.write(&millrace_agent::kernel::Write::RemoveSlot(slot));
            // Each flip beside a connect: one that failed has ended its thread, and none comes any more.
            crate::node::until(|| n_connects.load(Ordering::Relaxed) > before);
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(n_connects.load(Ordering::Relaxed) >= 299);
    assert_eq!(node.count(Reason::TornTable), 0);
}

/// An MPTCP application's names are those of its outer socket, which no program finds without the helper. What connects is
/// the subflow: that is captured, handed over and carried as ever.
#[test]
fn without_mptcp_its_applications_are_carried_and_see_what_really_runs_while_tcp_sees_the_truth() {
    let node = Node::without([MPTCP].into());
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let to = "10.88.0.9:80".parse().unwrap();
    let seen = |protocol| {
        let socket = client.socket(Domain::IPV4, protocol);
        client.connect(&socket, to).unwrap();
        let (accepted, _) = proxy.outbound[0].accept().unwrap();
        assert_eq!(proxy.asked(&accepted).unwrap().addr, to, "it is handed over whatever the protocol");
        socket.peer_addr().unwrap().as_socket().unwrap()
    };
    assert_eq!(seen(Protocol::TCP), to);
    let piece = seen(Protocol::MPTCP);
    assert!(piece.ip().is_loopback() && piece.port() == 15801, "{piece}");
}
