//! `sockops` and `inbound`, for the node's own processes: they reach the ports that a pod's probes name, and pass as nobody
//! at all others.

use std::io::{Read as _, Write as _};

use millrace_abi::{DestKind, PodKind, ProbeKey, Reason};
use millrace_agent::kernel::Write;

use crate::node::{Family, Node, Pod, Proxy, until};

#[test]
fn the_host_reaches_a_probes_port_straight_with_its_own_address() {
    let node = Node::new();
    let (host, (server, _proxy)) = (node.host(), node.pod_with_proxy());
    let application = server.listens("::", 8080);
    node.probe(&server, 8080);
    // Policies name no host: a group that nobody has a verdict for is probed all the same.
    node.enrol(&server, DestKind::Local, 42);
    for family in Family::ALL {
        let mut stream = host.connects(server.address(family, 8080)).unwrap();
        let (mut accepted, from) = application.accept().unwrap();
        assert_eq!(from.port(), stream.local_addr().unwrap().port());
        assert_eq!(from.ip().to_canonical(), host.address(family, 0).ip().to_canonical());
        assert_eq!(accepted.peer_addr().unwrap(), from);
        stream.write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        accepted.read_exact(&mut heard).unwrap();
    }
    assert_eq!((node.count(Reason::InAttested), node.count(Reason::InPlaintext)), (3, 0));
    assert_eq!(node.handoffs(), 0);
}

/// Connects, and says whether the plaintext listener took it.
fn is_plain(client: &Pod, server: &Pod, proxy: &Proxy, port: u16) -> bool {
    let stream = client.connects(server.address(Family::V4, port)).unwrap();
    let (_, from) = proxy.plaintext[0].accept().unwrap();
    from == stream.local_addr().unwrap()
}

#[test]
fn the_host_is_nobody_at_other_ports_and_others_are_nobody_at_a_probes_port() {
    let node = Node::new();
    let (host, (server, proxy)) = (node.host(), node.pod_with_proxy());
    let _applications = [server.listens("::", 8080), server.listens("::", 9090)];
    node.probe(&server, 8080);
    assert!(is_plain(&host, &server, &proxy, 9090));
    let outside = node.stranger();
    node.know(&outside, PodKind::Outside);
    assert!(is_plain(&outside, &server, &proxy, 8080));
    for addr in [server.v4, server.v6] {
        node.write(&Write::RemoveProbe(ProbeKey { addr, port: 8080u16.to_be_bytes(), reserved: [0; 2] }));
    }
    assert!(is_plain(&host, &server, &proxy, 8080));
    assert_eq!(node.count(Reason::InAttested), 0);
}

/// A pod of the mesh is judged by policy at a probe's port as at any other.
#[test]
fn a_probes_port_opens_nothing_to_other_pods() {
    let node = Node::new();
    let (client, (server, _proxy)) = (node.pod(), node.pod_with_proxy());
    let _application = server.listens("::", 8080);
    node.probe(&server, 8080);
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 0);
    assert_eq!(client.refused(server.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    assert_eq!(node.count(Reason::Denied), 1);
}

#[test]
fn a_probe_never_opens_a_port_of_the_mesh() {
    let node = Node::new();
    let (host, (server, _proxy)) = (node.host(), node.pod_with_proxy());
    node.probe(&server, 15801);
    assert_eq!(host.refused(server.address(Family::V4, 15801)), Some(libc::ECONNREFUSED));
    assert_eq!((node.count(Reason::InMeshPort), node.count(Reason::InAttested)), (1, 0));
}

/// A pod that takes its node's address for its own does not become the host: who connects is known by its namespace.
#[test]
fn a_pod_with_the_hosts_address_is_not_the_host() {
    let node = Node::new();
    let (_host, client, (server, proxy)) = (node.host(), node.pod(), node.pod_with_proxy());
    let _application = server.listens("::", 8080);
    node.probe(&server, 8080);
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    crate::node::ip(&format!("-n {} addr add 10.77.0.1/32 dev eth0", client.name()));
    let socket = client.socket(socket2::Domain::IPV4, socket2::Protocol::TCP);
    socket.bind(&"10.77.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    // No answer finds its way back: what counts is where the SYN went.
    client.connect(&socket, server.address(Family::V4, 8080)).unwrap_err();
    until(|| node.count(Reason::InPlaintext) > 0);
    assert_eq!((node.count(Reason::InAttested), node.count(Reason::InPlaintext) > 0), (0, true));
    drop(proxy);
}

#[test]
fn probes_are_read_back_by_the_next_agent() {
    let node = Node::new();
    let pod = node.pod();
    node.probe(&pod, 8080);
    let state = node.kernel().state().unwrap();
    assert_eq!(state.probes.len(), 2);
    node.restart_agent();
    assert_eq!(node.kernel().state().unwrap(), state);
}
