//! What sockets carry: it is theirs alone, goes with them, and covers both sockets of an MPTCP connection.

use std::os::fd::AsFd as _;

use millrace_abi::Reason;
use socket2::{Domain, Protocol};

use crate::node::{Family, Node, exempt};

#[test]
fn what_a_socket_carries_is_its_own_and_goes_with_it() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let to = "10.88.0.9:80".parse().unwrap();
    let first = client.connects(to).unwrap();
    let second = client.connects("10.88.0.9:81".parse().unwrap()).unwrap();
    let says = |socket: &std::net::TcpStream| proxy.asked(socket).map(|asked| (asked.addr.port(), asked.mode));
    assert_eq!((says(&first), says(&second)), (Some((80, 1)), Some((81, 1))));
    // A duplicate is the same socket; one that is made anew under the same number is not.
    let duplicate = first.try_clone().unwrap();
    drop(first);
    assert_eq!(says(&duplicate), Some((80, 1)));
    drop(duplicate);
    let fresh = client.socket(Domain::IPV4, Protocol::TCP);
    assert!(proxy.asked(&fresh).is_none());
}

#[test]
fn a_mark_of_one_socket_is_none_of_another_nor_of_what_it_accepts() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    node.remote(9, &["10.88.0.9"]);
    let marked = client.socket(Domain::IPV4, Protocol::TCP);
    exempt(&node, marked.as_fd());
    // Nobody has that address: it is enough that the kernel leaves the connect alone.
    marked.set_nonblocking(true).unwrap();
    let begun = client.connect(&marked, "10.88.0.9:80".parse().unwrap()).unwrap_err();
    assert_eq!((begun.raw_os_error(), node.count(Reason::Exempt)), (Some(libc::EINPROGRESS), 1));
    let other = client.socket(Domain::IPV4, Protocol::TCP);
    client.connect(&other, "10.88.0.9:80".parse().unwrap()).unwrap_err();
    assert_eq!((node.count(Reason::Exempt), node.count(Reason::Proxied)), (1, 1));
    // A listener's mark is not its children's: what they connect to is captured.
    let listener = server.listens("0.0.0.0", 8080);
    exempt(&node, listener.as_fd());
    let _stream = client.connects(server.address(Family::V4, 8080)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let data = aya::maps::MapData::from_pin(node.pins().join(millrace_abi::map::EXEMPT)).unwrap();
    let marks = aya::maps::SkStorage::<_, u32>::try_from(aya::maps::Map::SkStorage(data)).unwrap();
    assert!(marks.get(&listener, 0).is_ok());
    assert!(marks.get(&accepted, 0).is_err(), "what was accepted is exempt");
}

#[test]
fn a_thousand_sockets_leave_nothing_behind() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    for _ in 0..1000 {
        let stream = client.connects("10.88.0.9:80".parse().unwrap()).unwrap();
        let (accepted, _) = proxy.outbound[0].accept().unwrap();
        assert!(proxy.asked(&accepted).is_some());
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    // The next sockets begin with nothing, and every record was taken or went.
    crate::node::until(|| node.handoffs() == 0);
    assert_eq!((node.handoffs(), node.pending(&client)), (0, Some(0)));
    assert_eq!(node.count(Reason::StorageFull), 0);
}
