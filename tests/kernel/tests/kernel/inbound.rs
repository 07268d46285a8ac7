//! `inbound`: where connections go that arrive at a pod.

use std::net::SocketAddr;

use libc::ECONNREFUSED;
use millrace_abi::{PodKind, Reason, Tuple};
use socket2::{Domain, Protocol};

use crate::node::{Family, Node, Pod, Proxy, ip};

/// A namespace on the wire that is not of the mesh: what any other machine is to a pod.
fn outsider(node: &Node) -> Pod {
    let outsider = node.stranger();
    node.know(&outsider, PodKind::Outside);
    outsider
}

#[test]
fn plain_text_from_elsewhere_goes_to_the_plaintext_listener_with_its_addresses_whole() {
    let node = Node::new();
    let (server, proxy) = node.pod_with_proxy();
    let _application = server.listens("::", 8080);
    let outsider = outsider(&node);
    for family in [Family::V4, Family::V6] {
        let to = server.address(family, 8080);
        let stream = outsider.connects(to).unwrap();
        let (accepted, from) = Proxy::of(&proxy.plaintext, family).accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert_eq!(accepted.local_addr().unwrap(), to);
    }
    assert_eq!(node.count(Reason::InPlaintext), 2);
}

#[test]
fn the_tunnel_port_goes_to_the_tunnel_listener() {
    let node = Node::new();
    let (server, proxy) = node.pod_with_proxy();
    let outsider = outsider(&node);
    for family in [Family::V4, Family::V6] {
        let to = server.address(family, 15008);
        let _stream = outsider.connects(to).unwrap();
        let (accepted, _) = Proxy::of(&proxy.tunnel, family).accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), to);
    }
    assert_eq!(node.count(Reason::InTunnel), 2);
}

#[test]
fn where_the_listener_is_not_there_the_application_is_not_reached_either() {
    let node = Node::new();
    let (server, proxy) = node.pod_with_proxy();
    let _application = server.listens("::", 8080);
    let outsider = outsider(&node);
    drop(proxy); // Its last holder: the kernel's entries go with it.
    assert!(node.kernel().state().unwrap().listeners.is_empty());
    assert_eq!(outsider.refused(server.address(Family::V4, 8080)), Some(ECONNREFUSED));
    assert_eq!(outsider.refused(server.address(Family::V6, 15008)), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::InNoListener), 2);
}

#[test]
fn the_meshs_ports_on_a_pods_address_are_nobodys() {
    let node = Node::new();
    let (server, _proxy) = node.pod_with_proxy();
    let outsider = outsider(&node);
    for port in [15801, 15806] {
        assert_eq!(outsider.refused(server.address(Family::V4, port)), Some(ECONNREFUSED));
        assert_eq!(outsider.refused(server.address(Family::V6, port)), Some(ECONNREFUSED));
    }
    assert_eq!(node.count(Reason::InMeshPort), 4);
}

#[test]
fn an_address_that_is_not_the_pods_registered_one_is_not_reached() {
    let node = Node::new();
    let (server, _proxy) = node.pod_with_proxy();
    let _application = server.listens("::", 8080);
    ip(&format!("-n {} addr add 10.77.0.240/24 dev eth0", server.name()));
    let outsider = outsider(&node);
    let to: SocketAddr = "10.77.0.240:8080".parse().unwrap();
    assert_eq!(outsider.refused(to), Some(ECONNREFUSED));
    // Nor from inside: the kernel's look-up says that such a connection came in by the device that has the address, as a
    // forged one would.
    assert_eq!(server.refused(to), Some(ECONNREFUSED));
    assert_eq!(node.count(Reason::InUnknownAddress), 2);
}

#[test]
fn a_loopback_address_is_not_reached_from_outside_even_where_the_pod_routes_it() {
    let node = Node::new();
    let (server, _proxy) = node.pod_with_proxy();
    let _application = server.listens("0.0.0.0", 8080);
    let outsider = outsider(&node);
    server.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    outsider.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    ip(&format!("-n {} addr del 127.0.0.1/8 dev lo", outsider.name()));
    ip(&format!("-n {} route add 127.0.0.5/32 via {} dev eth0", outsider.name(), server.ip4));
    let socket = outsider.socket(Domain::IPV4, Protocol::TCP);
    socket.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    outsider.connect(&socket, "127.0.0.5:8080".parse().unwrap()).unwrap_err();
    assert!(node.count(Reason::InMartian) > 0);
}

#[test]
fn what_a_pod_runs_over_its_own_loopback_is_its_own_affair() {
    let node = Node::new();
    let pod = node.pod();
    for address in ["127.0.0.1", "::1"] {
        let listener = pod.listens(address, 9000);
        let stream = pod.connects(listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
    }
    assert_eq!(node.count(Reason::InLoopback), 2);
}

#[test]
fn udp_is_not_steered() {
    let node = Node::new();
    let pod = node.pod();
    let outsider = outsider(&node);
    let server = pod.run(|| std::net::UdpSocket::bind("0.0.0.0:5353").unwrap());
    server.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let client = outsider.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    client.send_to(b"x", pod.address(Family::V4, 5353)).unwrap();
    let mut heard = [0; 1];
    server.recv(&mut heard).unwrap();
}

/// The kernel compares keys by bytes: a tuple is the same whichever program writes it.
#[test]
fn a_tuple_has_no_padding() {
    assert_eq!(size_of::<Tuple>(), 8 + 16 + 16 + 2 + 2 + 4);
}
