//! Connections to backends that could not be made, and how they are counted.

use std::{net::SocketAddr, time::Duration};

use millrace_abi::{Failures, PodKind, Reason};
use socket2::{Domain, Protocol};

use crate::node::{Family, Node, Pod, ip, until};

const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd96::10]:80";

/// What is counted of a backend.
fn counted(node: &Node, backend: SocketAddr) -> Option<Failures> {
    node.kernel().failures().unwrap().into_iter().find(|(other, _)| *other == backend).map(|(_, failures)| failures)
}

/// Failures in a row, failures in all, and what the last one was.
fn count(node: &Node, backend: SocketAddr) -> Option<(u32, u64, Reason)> {
    counted(node, backend).map(|found| (found.run, found.failed, Reason::from_number(found.cause).unwrap()))
}

fn services(node: &Node, server: &Pod) {
    node.service(VIP, 1, &[(server.v4, 8080)]);
    node.service(VIP6, 2, &[(server.v6, 8080)]);
}

#[test]
fn refusals_are_counted_until_a_connection_is_made() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    services(&node, &server);
    for (vip, family) in [(VIP, Family::V4), (VIP6, Family::V6)] {
        let backend = server.address(family, 8080);
        assert_eq!(count(&node, backend), None);
        for n in 1..=3 {
            assert_eq!(client.refused(vip.parse().unwrap()), Some(libc::ECONNREFUSED));
            assert_eq!(count(&node, backend), Some((n, u64::from(n), Reason::BackendRefused)));
        }
    }
    let listener = server.listens("::", 8080);
    for (vip, family) in [(VIP, Family::V4), (VIP6, Family::V6)] {
        let backend = server.address(family, 8080);
        let _stream = client.connects(vip.parse().unwrap()).unwrap();
        assert_eq!(count(&node, backend), Some((0, 3, Reason::BackendRefused)), "one was made");
        node.kernel().forget_failures(backend).unwrap();
        assert_eq!(count(&node, backend), None);
        let _another = client.connects(vip.parse().unwrap()).unwrap();
        assert_eq!(count(&node, backend), None, "a backend that serves has no entry");
    }
    drop(listener);
    assert_eq!((node.count(Reason::BackendRefused), node.handoffs()), (6, 0));
}

/// The backend hears the caller, and its answers go nowhere.
#[test]
fn silence_is_counted_once_it_lasted_and_not_when_the_caller_gave_up_at_once() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    services(&node, &server);
    let _listener = server.listens("::", 8080);
    for family in Family::ALL {
        let own = client.address(family, 0).ip();
        ip(&format!("-n {} route add blackhole {own}/{}", server.name(), if own.is_ipv4() { 32 } else { 128 }));
    }
    for (vip, family) in [(VIP, Family::V4), (VIP6, Family::V6)] {
        let (to, backend): (SocketAddr, _) = (vip.parse().unwrap(), server.address(family, 8080));
        let gives_up_after = |ms| {
            let socket = client.socket(Domain::for_address(to), Protocol::TCP);
            socket.connect_timeout(&to.into(), Duration::from_millis(ms)).unwrap_err();
        };
        gives_up_after(50);
        assert_eq!(count(&node, backend), None, "nobody could have known");
        gives_up_after(1500); // The first SYN is sent again after a second.
        until(|| counted(&node, backend).is_some());
        assert_eq!(count(&node, backend), Some((1, 1, Reason::BackendTimedOut)));
    }
    assert_eq!(node.handoffs(), 0);
}

#[test]
fn a_backend_outside_the_mesh_is_counted_and_a_pods_own_address_is_not() {
    let node = Node::new();
    let (client, server, outside) = (node.pod(), node.pod(), node.stranger());
    node.know(&outside, PodKind::Outside);
    assert_eq!(client.refused(server.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    assert_eq!(count(&node, server.address(Family::V4, 8080)), None, "no service led there");
    node.service(VIP, 1, &[(outside.v4, 8080)]);
    assert_eq!(client.refused(VIP.parse().unwrap()), Some(libc::ECONNREFUSED));
    assert_eq!(count(&node, outside.address(Family::V4, 8080)), Some((1, 1, Reason::BackendRefused)));
    node.restart_agent();
    assert_eq!(count(&node, outside.address(Family::V4, 8080)), Some((1, 1, Reason::BackendRefused)), "it is pinned");
}
