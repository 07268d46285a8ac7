//! `sockops` and sock_diag: between whom an attested connection was made is read off its sockets, at both ends.

use std::{net::SocketAddr, os::fd::AsFd as _};

use millrace_abi::End;
use millrace_agent::revoke::{Seen, see};

use crate::node::{Family, Node, Pod};

fn seen(node: &Node, pod: &Pod) -> Seen {
    let ends = node.kernel().ends().unwrap();
    pod.run(|| see(Some(ends.as_fd())).unwrap())
}

fn end(node: &Node, pod: &Pod, local: SocketAddr) -> Option<End> {
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let ends: Vec<_> =
        seen(node, pod).connections.into_iter().filter(|one| one.local == local).map(|one| one.end).collect();
    let [end] = ends[..] else { panic!("one connection of {local}: {ends:?}") };
    end
}

#[test]
fn both_ends_of_an_attested_connection_say_between_whom_it_is() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let mut to: Vec<SocketAddr> = Family::ALL.map(|family| server.address(family, 8080)).into();
    to.push("10.96.0.10:80".parse().unwrap());
    for to in to {
        let stream = client.connects(to).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let expected =
            |is_caller| Some(End { source: client.id, target: server.id, is_caller, is_attested: 1, ..End::default() });
        assert_eq!(end(&node, &client, stream.local_addr().unwrap()), expected(1), "{to}");
        assert_eq!(end(&node, &server, accepted.local_addr().unwrap()), expected(0), "{to}");
    }
}

#[test]
fn what_is_not_attested_says_nothing() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let own = client.listens("127.0.0.1", 9000);
    node.remote(9, &["10.88.0.9"]);
    let stream = client.connects("127.0.0.1:9000".parse().unwrap()).unwrap();
    let _accepted = own.accept().unwrap();
    assert_eq!(end(&node, &client, stream.local_addr().unwrap()), None);
    let _proxied = client.connects("10.88.0.9:80".parse().unwrap()).unwrap();
    let _taken = proxy.outbound[0].accept().unwrap();
    assert!(seen(&node, &client).connections.iter().all(|connection| connection.end.is_none()));
}

#[test]
fn listeners_are_seen_and_a_map_is_not_needed() {
    let node = Node::new();
    let pod = node.pod();
    let _listener = pod.listens("::", 8080);
    let seen = pod.run(|| see(None).unwrap());
    assert!(seen.listening.contains(&8080) && seen.connections.is_empty());
}
