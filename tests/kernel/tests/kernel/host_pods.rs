//! `host`: pods in the node's own network are known by their cgroups: they call as themselves, and never pass as the node.

use millrace_abi::{DestKind, PodKind, Reason};
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{Family, Node, until};

#[test]
fn a_pod_in_the_nodes_network_calls_as_itself() {
    let node = Node::new();
    let (_host, (server, _proxy)) = (node.host(), node.pod_with_proxy());
    let listener = server.listens("::", 8080);
    node.enrol(&server, DestKind::Local, 42);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let (friend, other) =
        (node.host_pod("friend", 51, PodKind::HostMesh), node.host_pod("other", 52, PodKind::HostMesh));
    node.verdict(&friend, 42, 1);
    node.verdict(&other, 42, 0);
    for family in Family::ALL {
        let to = server.address(family, 8080);
        let stream = friend.connects(to).unwrap();
        assert_eq!(listener.accept().unwrap().1.port(), stream.local_addr().unwrap().port());
        assert_eq!(other.refused(to), Some(libc::ECONNREFUSED));
    }
    let stream = friend.connects("10.96.0.10:80".parse().unwrap()).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
    listener.accept().unwrap();
    assert_eq!(
        (node.count(Reason::InAttested), node.count(Reason::InPlaintext), node.count(Reason::Denied)),
        (4, 0, 3)
    );
    assert_eq!(node.handoffs(), 0);
}

/// Whatever cgroups it makes for itself.
#[test]
fn a_cgroup_of_its_own_making_is_no_way_out() {
    let node = Node::new();
    let (_host, (server, _proxy)) = (node.host(), node.pod_with_proxy());
    node.enrol(&server, DestKind::Local, 42);
    node.probe(&server, 8080);
    let pod = node.host_pod("pod", 51, PodKind::HostMesh);
    let deeper = node.in_hosts_network("pod/deeper");
    let deepest = node.in_hosts_network("pod/deeper/still");
    for caller in [&pod, &deeper, &deepest] {
        assert_eq!(caller.refused(server.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    }
    assert_eq!(node.count(Reason::NoVerdict), 3);
}

#[test]
fn a_pod_in_the_nodes_network_never_passes_as_the_node() {
    let node = Node::new();
    let (host, (server, proxy)) = (node.host(), node.pod_with_proxy());
    let listener = server.listens("::", 8080);
    node.enrol(&server, DestKind::Local, 42);
    node.probe(&server, 8080);
    let (mesh, outside) =
        (node.host_pod("mesh", 51, PodKind::HostMesh), node.host_pod("outside", 0, PodKind::HostOutside));
    for family in [Family::V4, Family::V6] {
        let to = server.address(family, 8080);
        // Of the mesh: policy is asked. Not of the mesh: plain text from nobody.
        assert_eq!(mesh.refused(to), Some(libc::ECONNREFUSED));
        let stream = outside.connects(to).unwrap();
        let listeners = crate::node::Proxy::of(&proxy.plaintext, family);
        assert_eq!(listeners.accept().unwrap().1, stream.local_addr().unwrap());
        // And the node's own pass as ever.
        let probe = host.connects(to).unwrap();
        assert_eq!(listener.accept().unwrap().1.port(), probe.local_addr().unwrap().port());
    }
    assert_eq!((node.count(Reason::InAttested), node.count(Reason::InPlaintext)), (2, 2));
}

/// With NET_ADMIN a socket can be bound to an address that is not here, and called from it: what is attested for it must not be for another pod's.
#[test]
fn a_neighbours_address_is_not_attested_for_it() {
    let node = Node::new();
    let (_host, victim, (server, _proxy)) = (node.host(), node.pod(), node.pod_with_proxy());
    let _listener = server.listens("::", 8080);
    let pod = node.host_pod("pod", 51, PodKind::HostMesh);
    let socket = pod.socket(Domain::IPV4, Protocol::TCP);
    socket.set_ip_transparent_v4(true).unwrap();
    let from: std::net::SocketAddr = format!("{}:4444", victim.ip4).parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    pod.connect(&socket, server.address(Family::V4, 8080)).unwrap_err();
    assert_eq!(node.handoffs(), 0);
    until(|| node.count(Reason::InPlaintext) > 0);
    assert_eq!((node.count(Reason::InPlaintext) > 0, node.count(Reason::InAttested)), (true, 0));
}

#[test]
fn to_another_node_it_goes_plainly() {
    let node = Node::new();
    let (_host, outside) = (node.host(), node.stranger());
    node.know(&outside, PodKind::Outside);
    let listener = outside.listens("::", 80);
    node.remote(9, &[&outside.ip4, &outside.ip6]);
    let pod = node.host_pod("pod", 51, PodKind::HostMesh);
    for family in Family::ALL {
        let _stream = pod.connects(outside.address(family, 80)).unwrap();
        listener.accept().unwrap();
    }
    assert_eq!((node.count(Reason::HostRemote), node.count(Reason::Proxied)), (3, 0));
}

#[test]
fn what_it_has_under_way_counts_for_it_alone() {
    let node = Node::new();
    let (host, server) = (node.host(), node.pod());
    node.probe(&server, 8080);
    let (pod, other) = (node.host_pod("pod", 51, PodKind::HostMesh), node.host_pod("other", 52, PodKind::HostMesh));
    let dead = "lladdr 02:00:00:00:00:99 dev br0 nud permanent";
    crate::node::ip(&format!("-n {} neigh add {} {dead}", host.name(), server.ip4));
    let to = server.address(Family::V4, 8080);
    let nonblocking = |caller: &crate::node::Pod| {
        let socket = caller.socket(Domain::IPV4, Protocol::TCP);
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let [first, second, third] = [&*pod, &*other, &host].map(nonblocking);
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    let quota = usize::try_from(millrace_abi::capacity::PENDING_PER_POD).unwrap();
    // A thread for each would be slow: one that is in the pod makes and connects them all.
    let _held: Vec<Socket> = pod.run(|| {
        let begin = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&to.into()).unwrap_err();
            socket
        };
        (0..quota).map(begin).collect()
    });
    assert_eq!(errno(pod.connect(&first, to)), libc::ENOBUFS);
    assert_eq!(errno(other.connect(&second, to)), libc::EINPROGRESS);
    assert_eq!(errno(host.run(|| host.connect(&third, to))), libc::EINPROGRESS);
}
