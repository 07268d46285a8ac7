//! Addresses in contexts: whatever the family, the programs see the 16 bytes that were asked for, and write what is reached.

use std::net::{IpAddr, SocketAddr};

use millrace_abi::{FlowEvent, Reason};

use crate::node::{Family, Node, bytes};

/// Addresses and ports in which each byte differs from its neighbours: one that is swapped or shifted shows.
const ASKED: [(&str, u16); 6] = [
    ("1.2.3.4", 0x1234),
    ("254.3.128.129", 1),
    ("198.51.100.7", 0xfffe),
    ("102:304:506:708:90a:b0c:d0e:f10", 0x1234),
    ("fe:dc:ba98:7654:3210:ff00:80:1", 1),
    ("2001:db8::ffff:1.2.3.4", 0xfffe),
];

#[test]
fn every_byte_of_an_address_and_port_is_seen_as_it_was_asked_for() {
    let node = Node::new();
    let client = node.pod();
    node.record_flows();
    for (address, port) in ASKED {
        let ip: IpAddr = address.parse().unwrap();
        let at = SocketAddr::new(ip, port);
        node.service(&at.to_string(), 1, &[]);
        let mut ways = vec![at];
        if let IpAddr::V4(v4) = ip {
            ways.push(SocketAddr::new(v4.to_ipv6_mapped().into(), port));
        }
        for to in ways {
            client.connects(to).unwrap_err();
            let mut records: Vec<FlowEvent> = Vec::new();
            node.kernel().flows(&mut |record| records.push(record));
            let asked: Vec<_> = records.iter().map(|record| (record.reason, record.asked, record.asked_port)).collect();
            assert_eq!(asked, [(Reason::NoBackend as u32, bytes(ip), port.to_be_bytes())], "{to}");
        }
    }
}

/// A rewrite that a socket's family can't say is none: an IPv4 socket has no way to an IPv6 backend.
#[test]
fn a_backend_is_written_whole_in_the_family_of_the_socket_or_not_at_all() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 0x1f90);
    node.service("10.96.0.10:80", 1, &[(server.v4, 0x1f90)]);
    node.service("[fd96::10]:80", 2, &[(server.v6, 0x1f90)]);
    node.service("10.96.0.11:80", 3, &[(server.v6, 0x1f90)]);
    for family in Family::ALL {
        let stream = client.connects(family.address("10.96.0.10", "fd96::10", 80)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let reached = accepted.local_addr().unwrap();
        let expected = if family == Family::V6 { &server.ip6 } else { &server.ip4 };
        assert_eq!((reached.ip().to_canonical().to_string(), reached.port()), (expected.clone(), 0x1f90));
        drop(stream);
    }
    assert_eq!(client.refused("10.96.0.11:80".parse().unwrap()), Some(libc::ECONNREFUSED));
    assert_eq!(node.count(Reason::NoBackend), 1);
    // An IPv6 socket can say both.
    client.connects("[::ffff:10.96.0.11]:80".parse().unwrap()).unwrap();
}
