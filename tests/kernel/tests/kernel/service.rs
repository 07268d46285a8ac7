//! Which backend a service gives, and who stays with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Barrier,
};

use aya::maps::{HashMap, Map, MapData};
use millrace_abi::{Addr, Reason, ServiceValue, SlotKey, SlotValue, map, service_flag};
use millrace_agent::kernel::Write;

use crate::node::{Family, Node, Pod, Proxy, bytes, service_key};

pub(crate) const VIP: &str = "10.96.0.10:80";
const VIP6: &str = "[fd96::10]:80";

/// A service whose clients stay, with its slots in order as the agent writes them.
pub(crate) fn affine(node: &Node, vip: &str, table: u32, backends: &[(Addr, u16)]) {
    let mut backends = backends.to_vec();
    backends.sort_unstable();
    node.service(vip, table, &backends);
    spread(
        node,
        vip,
        ServiceValue { table, n_slots: u32::try_from(backends.len()).unwrap(), affinity_s: 100, flags: 0 },
    );
}

fn spread(node: &Node, vip: &str, value: ServiceValue) {
    node.write(&Write::SetService(service_key(vip), value));
}

/// A pod with eight applications, and which of them took a connection since this was asked last.
pub(crate) struct Eight(pub(crate) Pod, pub(crate) Vec<TcpListener>);

impl Eight {
    pub(crate) fn new(node: &Node) -> Self {
        let pod = node.pod();
        let listeners: Vec<TcpListener> = (8081..=8088).map(|port| pod.listens("::", port)).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        Self(pod, listeners)
    }

    pub(crate) fn backends(&self, addr: Addr) -> Vec<(Addr, u16)> {
        (8081..=8088).map(|port| (addr, port)).collect()
    }

    pub(crate) fn took(&self) -> BTreeMap<u16, usize> {
        let mut took = BTreeMap::new();
        for listener in &self.1 {
            loop {
                match listener.accept() {
                    Ok(_) => *took.entry(listener.local_addr().unwrap().port()).or_default() += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        took
    }

    /// The one that took all connections.
    fn only(&self) -> u16 {
        let took = self.took();
        assert_eq!(took.len(), 1, "{took:?}");
        *took.keys().next().unwrap()
    }
}

pub(crate) fn connects(client: &Pod, to: &str, n: usize) {
    let to: SocketAddr = to.parse().unwrap();
    client.run(|| (0..n).for_each(|_| drop(TcpStream::connect(to).unwrap())));
}

/// Every entry of AFFINITY becomes one of a client that was here last when the machine started.
fn age(node: &Node) {
    let data = MapData::from_pin(node.pins().join(map::AFFINITY)).unwrap();
    let mut entries: HashMap<_, [u8; 32], [u8; 32]> = Map::LruHashMap(data).try_into().unwrap();
    let all: Vec<_> = entries.iter().map(Result::unwrap).collect();
    assert!(!all.is_empty());
    for (key, mut value) in all {
        value[..8].fill(0);
        entries.insert(key, value, 0).unwrap();
    }
}

#[test]
fn a_client_stays_with_its_backend_and_each_client_has_its_own() {
    let node = Node::new();
    let server = Eight::new(&node);
    affine(&node, VIP, 1, &server.backends(server.0.v4));
    affine(&node, VIP6, 2, &server.backends(server.0.v6));
    let mut given = BTreeSet::new();
    for _ in 0..6 {
        let client = node.pod();
        connects(&client, VIP, 20);
        given.insert(server.only());
        connects(&client, VIP6, 20);
        given.insert(server.only());
    }
    // Twelve draws of eight are all alike once in 8^11.
    assert!(given.len() > 1, "clients are spread: {given:?}");
    node.service(VIP, 3, &server.backends(server.0.v4));
    connects(&node.pod(), VIP, 40);
    assert!(server.took().len() > 1, "without affinity one client is spread too");
}

#[test]
fn a_client_stays_through_a_flip_and_a_restart_of_the_agent_and_leaves_a_backend_that_went() {
    let node = Node::new();
    let server = Eight::new(&node);
    let client = node.pod();
    let all = server.backends(server.0.v4);
    affine(&node, VIP, 1, &all);
    connects(&client, VIP, 1);
    let first = server.only();
    // Its slot is another one in each of these tables, and in the first it is no more where it was.
    for (table, gone) in (2..).zip((8081..=8088).filter(|port| *port != first)) {
        let rest: Vec<_> = all.iter().filter(|(_, port)| *port != gone).copied().collect();
        affine(&node, VIP, table, &rest);
        connects(&client, VIP, 5);
        assert_eq!(server.only(), first, "{gone} went");
    }
    affine(&node, VIP, 20, &all);
    node.restart_agent();
    connects(&client, VIP, 5);
    assert_eq!(server.only(), first, "the agent restarted");
    let rest: Vec<_> = all.iter().filter(|(_, port)| *port != first).copied().collect();
    affine(&node, VIP, 21, &rest);
    connects(&client, VIP, 20);
    let second = server.only();
    assert_ne!(second, first);
    affine(&node, VIP, 22, &all);
    connects(&client, VIP, 5);
    assert_eq!(server.only(), second, "the one that came back is not gone back to");
}

#[test]
fn a_client_that_was_away_too_long_is_drawn_for_anew() {
    let node = Node::new();
    let server = Eight::new(&node);
    let client = node.pod();
    affine(&node, VIP, 1, &server.backends(server.0.v4));
    let mut given = BTreeSet::new();
    for _ in 0..12 {
        connects(&client, VIP, 5);
        given.insert(server.only());
        age(&node);
    }
    assert!(given.len() > 1, "{given:?}");
}

/// A browser opens six connections at once: the first of them decides for all.
#[test]
fn connects_that_race_to_be_the_first_go_to_one_backend() {
    const AT_ONCE: usize = 8;
    let node = Node::new();
    let server = Eight::new(&node);
    let to: SocketAddr = VIP.parse().unwrap();
    for table in 1..=20 {
        let client = node.pod();
        affine(&node, VIP, table, &server.backends(server.0.v4));
        let begin = Barrier::new(AT_ONCE);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| client.run(|| (begin.wait(), TcpStream::connect(to).unwrap())));
            }
        });
        assert_eq!(server.took().values().collect::<Vec<_>>(), [&AT_ONCE]);
    }
}

#[test]
fn the_proxy_is_told_when_the_pick_binds() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let remotes: Vec<String> = (1..=8).map(|n| format!("10.88.0.{n}")).collect();
    for (id, remote) in (50..).zip(&remotes) {
        node.remote(id, &[remote]);
    }
    let backends: Vec<_> = remotes.iter().map(|remote| (bytes(remote.parse().unwrap()), 8080)).collect();
    let asked = |n: usize| -> Vec<_> {
        connects(&client, VIP, n);
        (0..n).map(|_| proxy.asked(&Proxy::of(&proxy.outbound, Family::V4).accept().unwrap().0).unwrap()).collect()
    };
    affine(&node, VIP, 1, &backends);
    let bound = asked(20);
    assert!(bound.iter().all(|asked| asked.binds && asked.backend == bound[0].backend), "{bound:?}");
    node.service(VIP, 2, &backends);
    let free = asked(20);
    assert!(free.iter().all(|asked| !asked.binds), "{free:?}");
}

#[test]
fn a_service_that_keeps_to_this_node_and_has_nobody_here_says_so() {
    let node = Node::new();
    let client = node.pod();
    spread(&node, VIP, ServiceValue { table: 0, n_slots: 0, affinity_s: 0, flags: 1 });
    assert_eq!(client.refused(VIP.parse().unwrap()), Some(libc::ECONNREFUSED));
    spread(&node, VIP, ServiceValue { table: 0, n_slots: 0, affinity_s: 100, flags: 0 });
    assert_eq!(client.refused(VIP.parse().unwrap()), Some(libc::ECONNREFUSED));
    assert_eq!((node.count(Reason::NoLocalBackend), node.count(Reason::NoBackend)), (1, 1));
}

/// What becomes of requests is the proxy's to say: of this node's backends too, and where there are none.
#[test]
fn a_routed_services_connections_go_to_the_proxy_whoever_stands_behind_it() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let target = node.pod();
    let listener = target.listens("::", 8080);
    node.service(VIP, 1, &[(target.v4, 8080)]);
    spread(&node, VIP, ServiceValue { table: 1, n_slots: 1, affinity_s: 0, flags: service_flag::ROUTED });
    let asked = || {
        connects(&client, VIP, 1);
        proxy.asked(&Proxy::of(&proxy.outbound, Family::V4).accept().unwrap().0).unwrap()
    };
    let routed = asked();
    assert_eq!((routed.addr, routed.backend), (VIP.parse().unwrap(), VIP.parse().unwrap()), "none was picked");
    spread(&node, VIP, ServiceValue { table: 0, n_slots: 0, affinity_s: 0, flags: service_flag::ROUTED });
    assert_eq!(asked().addr, VIP.parse().unwrap());
    assert_eq!(node.count(Reason::Proxied), 2);
    spread(&node, VIP, ServiceValue { table: 1, n_slots: 1, affinity_s: 0, flags: 0 });
    let direct = client.connects(VIP.parse().unwrap()).unwrap();
    drop((listener.accept().unwrap(), direct));
}

/// A client's backend is found by halving in a table of any size, whatever place it has there.
#[test]
fn a_client_stays_among_a_thousand_backends_that_come_and_go() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let at = |n: u32| Ipv4Addr::from(0x0a58_0000 + n);
    let table = |table: u32, hosts: &[u32]| {
        for (slot, n) in (0..).zip(hosts) {
            let (addr, port) = (bytes(at(*n).into()), [31, 144]);
            let value = SlotValue { addr, alias_addr: addr, port, alias_port: port, threshold: u32::MAX };
            node.write(&Write::SetSlot(SlotKey { table, slot }, value));
        }
        let n_slots = u32::try_from(hosts.len()).unwrap();
        spread(&node, VIP, ServiceValue { table, n_slots, affinity_s: 100, flags: 0 });
    };
    for n in 1..=1500 {
        node.remote(u64::from(n), &[&at(n).to_string()]);
    }
    let given = || {
        connects(&client, VIP, 1);
        proxy.asked(&Proxy::of(&proxy.outbound, Family::V4).accept().unwrap().0).unwrap().backend
    };
    let even: Vec<u32> = (1..=1000).collect();
    table(1, &even);
    let first = given();
    let SocketAddr::V4(v4) = first else { panic!("{first}") };
    let own = u32::from(*v4.ip()) - 0x0a58_0000;
    for (number, keep) in [(2, 2), (3, 3), (4, 7), (5, 499)] {
        let some: Vec<u32> = (1..=1500).filter(|n| *n == own || n % keep == 0).collect();
        table(number, &some);
        assert_eq!(given(), first, "{} backends", some.len());
    }
    table(6, &[own]);
    assert_eq!(given(), first);
    let without: Vec<u32> = even.into_iter().filter(|n| *n != own).collect();
    table(7, &without);
    assert_ne!(given(), first);
}
