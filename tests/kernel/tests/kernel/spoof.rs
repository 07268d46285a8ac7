//! `spoof`: what a pod sends in another's name goes nowhere, and what it sends in its own is not touched.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use millrace_abi::{GuardKind, Reason};
use millrace_lab::frames::{self, BROADCAST, Ends, SYN, Segment, Wire};

use crate::node::{Family, Node, Pod, ip};

const SPOOFED: [Reason; 4] =
    [Reason::SpoofedSource, Reason::SpoofedMac, Reason::SpoofedNeighbour, Reason::SpoofedProtocol];

fn n_dropped(node: &Node) -> u64 {
    SPOOFED.iter().map(|reason| node.count(*reason)).sum()
}

/// Its name, what it is dropped for, and the frame.
type Forgery = (&'static str, Reason, Vec<u8>);

/// One who forges, one whose name is taken, and one who is told.
struct Scene {
    node: Node,
    intruder: Pod,
    victim: Pod,
    target: Pod,
    out: Wire,
    seen: Wire,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new();
        let (intruder, victim, target) = (node.pod(), node.pod(), node.pod());
        let wire = |pod: &Pod| pod.run(|| Wire::on("eth0").unwrap());
        let (out, seen) = (wire(&intruder), wire(&target));
        // The bridge floods what it does not know: a frame to the target arrives whatever its source.
        Self { intruder, victim, target, out, seen, node }
    }

    /// True where the frame arrives at the target's interface. It is marked by what it is, byte for byte.
    fn arrives(&self, frame: &[u8]) -> bool {
        self.out.send(frame).unwrap();
        let is_it = |heard: &[u8]| (heard.len() >= frame.len() && heard[12..frame.len()] == frame[12..]).then_some(());
        self.seen.hear(Duration::from_millis(150), is_it).unwrap().is_some()
    }

    fn ends(&self, from: IpAddr, mac: [u8; 6]) -> Ends {
        let to = if from.is_ipv4() { self.target.ip4.parse() } else { self.target.ip6.parse() };
        Ends { macs: (mac, self.seen.mac), from: SocketAddr::new(from, 4444), to: SocketAddr::new(to.unwrap(), 80) }
    }

    /// Every forgery, by name, and what it is dropped for.
    fn forgeries(&self) -> Vec<Forgery> {
        let (victim4, victim6): (Ipv4Addr, Ipv6Addr) =
            (self.victim.ip4.parse().unwrap(), self.victim.ip6.parse().unwrap());
        let (own4, own6): (Ipv4Addr, Ipv6Addr) =
            (self.intruder.ip4.parse().unwrap(), self.intruder.ip6.parse().unwrap());
        let (target4, target6): (Ipv4Addr, Ipv6Addr) =
            (self.target.ip4.parse().unwrap(), self.target.ip6.parse().unwrap());
        let (mac, other, to) = (self.out.mac, [2, 0, 0, 0, 0, 0x66], self.seen.mac);
        let syn = |from: IpAddr, mac| {
            frames::tcp(&self.ends(from, mac), &Segment { flags: SYN, sequence: 9, ..Segment::default() })
        };
        let from6 = |from: Ipv6Addr| self.ends(from.into(), mac);
        let link_local: Ipv6Addr = "fe80::66".parse().unwrap();
        use Reason::{SpoofedMac, SpoofedNeighbour, SpoofedProtocol, SpoofedSource};
        vec![
            ("a neighbour's IPv4 address", SpoofedSource, syn(victim4.into(), mac)),
            ("a neighbour's IPv6 address", SpoofedSource, syn(victim6.into(), mac)),
            ("its destination's own IPv4 address", SpoofedSource, syn(target4.into(), mac)),
            ("its destination's own IPv6 address", SpoofedSource, syn(target6.into(), mac)),
            ("the host's address", SpoofedSource, syn("10.77.0.1".parse().unwrap(), mac)),
            ("loopback", SpoofedSource, syn("127.0.0.2".parse().unwrap(), mac)),
            ("IPv6 loopback", SpoofedSource, syn("::1".parse().unwrap(), mac)),
            ("no address", SpoofedSource, syn("0.0.0.0".parse().unwrap(), mac)),
            ("no IPv6 address", SpoofedSource, syn("::".parse().unwrap(), mac)),
            ("no IPv6 address, a datagram", SpoofedSource, frames::udp(&from6(Ipv6Addr::UNSPECIFIED), b"x")),
            ("another's link-local address", SpoofedSource, syn(link_local.into(), mac)),
            ("another's link address", SpoofedMac, syn(own4.into(), other)),
            ("another's link address, IPv6", SpoofedMac, syn(own6.into(), other)),
            ("a neighbour's address by ARP, answered", SpoofedNeighbour, frames::arp(2, (mac, victim4), (to, target4))),
            (
                "a neighbour's address by ARP, asked",
                SpoofedNeighbour,
                frames::arp(1, (mac, victim4), (BROADCAST, target4)),
            ),
            ("its own address at another's link address by ARP", SpoofedMac, {
                let mut frame = frames::arp(2, (other, own4), (to, target4));
                frame[6..12].copy_from_slice(&mac);
                frame
            }),
            ("a neighbour's answer", SpoofedNeighbour, frames::neighbour(&from6(own6), 136, victim6, Some(mac))),
            (
                "a neighbour's answer from its address",
                SpoofedSource,
                frames::neighbour(&from6(victim6), 136, victim6, Some(mac)),
            ),
            ("a neighbour's question", SpoofedSource, frames::neighbour(&from6(victim6), 135, target6, Some(mac))),
            (
                "a neighbour's address taken",
                SpoofedNeighbour,
                frames::neighbour(&from6(Ipv6Addr::UNSPECIFIED), 135, victim6, None),
            ),
            ("an answer behind hop-by-hop options", SpoofedNeighbour, {
                frames::behind(&frames::neighbour(&from6(own6), 136, victim6, Some(mac)), 0)
            }),
            ("an answer behind two extension headers", SpoofedNeighbour, {
                frames::behind(&frames::behind(&frames::neighbour(&from6(own6), 136, victim6, Some(mac)), 60), 0)
            }),
            ("an answer behind more extension headers than there are", SpoofedProtocol, {
                let answer = frames::neighbour(&from6(own6), 136, victim6, Some(mac));
                (0..7).fold(answer, |frame, _| frames::behind(&frame, 60))
            }),
            ("a router's advertisement", SpoofedNeighbour, frames::router(&from6(own6))),
            ("a neighbour's address in network 0", SpoofedProtocol, frames::tagged(&syn(victim4.into(), mac), 0)),
            ("a tagged frame", SpoofedProtocol, frames::tagged(&syn(own4.into(), mac), 7)),
            ("a kind of its own", SpoofedProtocol, frames::ethernet(mac, to, 0x88b5, &[0; 46])),
            (
                "half an ARP message",
                SpoofedProtocol,
                frames::ethernet(mac, to, frames::ARP, &[0, 1, 8, 0, 6, 4, 0, 2, 0, 0]),
            ),
        ]
    }
}

/// Each arrives without the guard: so it is the guard that stops it. Some are nobody's business who gets them (a tag is), but all
/// are heard on the wire.
#[test]
fn what_is_sent_in_anothers_name_goes_nowhere() {
    let scene = Scene::new();
    let forgeries = scene.forgeries();
    let mut wrong = Vec::new();
    for (name, _, frame) in &forgeries {
        if !scene.arrives(frame) && !name.contains("tagged") && !name.contains("network 0") {
            wrong.push(format!("{name}: without the guard it must arrive"));
        }
    }
    scene.node.guard(&scene.intruder, GuardKind::Own);
    for (name, reason, frame) in &forgeries {
        let before = (scene.node.count(*reason), n_dropped(&scene.node));
        let arrives = scene.arrives(frame);
        let after = (scene.node.count(*reason), n_dropped(&scene.node));
        if arrives || after != (before.0 + 1, before.1 + 1) {
            wrong.push(format!("{name}: arrives: {arrives}, {reason:?} {before:?} -> {after:?}"));
        }
    }
    assert!(wrong.is_empty(), "of {}:\n{}", forgeries.len(), wrong.join("\n"));
}

/// Nobody knows anybody: ARP, neighbour discovery, duplicate address detection and reports of groups are part of it.
#[test]
fn what_a_pod_sends_in_its_own_name_is_not_touched() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    for pod in [&client, &server] {
        node.guard(pod, GuardKind::Own);
        ip(&format!("-n {} neigh flush all", pod.name()));
    }
    let bytes = vec![7; 1 << 20];
    for family in Family::ALL {
        let mut stream = client.connects(server.address(family, 8080)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::Write::write_all(&mut stream, &bytes).unwrap());
            std::io::Read::read_exact(&mut accepted, &mut vec![0; bytes.len()]).unwrap();
        });
    }
    let host = node.host();
    let udp = client.run(|| std::net::UdpSocket::bind("[::]:0").unwrap());
    udp.send_to(b"x", host.address(Family::V6, 9)).unwrap();
    udp.send_to(b"x", host.address(Family::Mapped, 9)).unwrap();
    // Its interface goes down and comes up: it asks whether its addresses are anybody's.
    client.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "1").unwrap());
    ip(&format!("-n {} link set eth0 down", client.name()));
    ip(&format!("-n {} link set eth0 up", client.name()));
    ip(&format!("-n {} addr replace {}/64 dev eth0", client.name(), client.ip6));
    let stream = client.connects(server.address(Family::V4, 8080));
    assert!(stream.is_ok(), "{stream:?}");
    assert_eq!(n_dropped(&node), 0);
}

/// A second network of a pod is not the mesh's to rule; what it must not do there is speak for the mesh's addresses.
#[test]
fn another_interface_speaks_for_all_but_the_meshs_addresses() {
    let scene = Scene::new();
    scene.node.guard(&scene.intruder, GuardKind::Other);
    let syn = |from: &str| {
        let ends = scene.ends(from.parse().unwrap(), [2, 0, 0, 0, 0, 0x77]);
        frames::tcp(&ends, &Segment { flags: SYN, sequence: 9, ..Segment::default() })
    };
    assert!(scene.arrives(&syn("192.168.7.7")) && scene.arrives(&syn("fd99::7")));
    assert!(!scene.arrives(&syn(&scene.victim.ip4)) && !scene.arrives(&syn(&scene.victim.ip6)));
    assert_eq!((scene.node.count(Reason::SpoofedSource), n_dropped(&scene.node)), (2, 2));
}

/// All are counted, and told of ten times a second: a flood leaves room for the records of others.
#[test]
fn a_flood_of_forged_packets_is_counted_and_told_of_sparsely() {
    let scene = Scene::new();
    scene.node.record_flows();
    scene.node.guard(&scene.intruder, GuardKind::Own);
    let victim = scene.victim.ip4.parse().unwrap();
    let frame = frames::tcp(&scene.ends(victim, scene.out.mac), &Segment { flags: SYN, ..Segment::default() });
    let start = millrace_lab::clock::now();
    for _ in 0..20_000 {
        scene.out.send(&frame).unwrap();
    }
    let most = start.elapsed().as_millis() / 100 + 2;
    assert_eq!(scene.node.count(Reason::SpoofedSource), 20_000);
    let mut told = Vec::new();
    scene.node.kernel().flows(&mut |event| told.push((event.reason, event.source, event.target, event.asked)));
    assert!(!told.is_empty() && told.len() as u128 <= most, "{} records, {most} at most", told.len());
    let one = (Reason::SpoofedSource as u32, scene.intruder.id, scene.victim.v4, scene.target.v4);
    assert!(told.iter().all(|record| *record == one), "{told:?}");
}

#[test]
fn a_guard_outlives_the_agent_and_goes_when_it_is_told() {
    let scene = Scene::new();
    let index = scene.node.guard(&scene.intruder, GuardKind::Own);
    let victim = scene.victim.ip4.parse().unwrap();
    let frame = frames::tcp(&scene.ends(victim, scene.out.mac), &Segment { flags: SYN, ..Segment::default() });
    scene.node.restart_agent();
    assert!(!scene.arrives(&frame));
    let guards = scene.node.kernel().guards().unwrap();
    assert_eq!(guards.keys().copied().collect::<Vec<_>>(), [index]);
    // The next one sets it again, which is an update of the link that is there.
    assert_eq!(scene.node.guard(&scene.intruder, GuardKind::Own), index);
    assert!(!scene.arrives(&frame));
    scene.node.kernel().unguard(index).unwrap();
    assert!(scene.arrives(&frame));
    assert!(scene.node.kernel().guards().unwrap().is_empty());
    scene.node.guard(&scene.intruder, GuardKind::Own);
    millrace_agent::kernel::leave(scene.node.pins()).unwrap();
    assert!(scene.arrives(&frame));
}

/// An interface that is made again has another index; the guard of the one before is a pin without anything behind it.
#[test]
fn a_guard_of_an_interface_that_is_gone_is_removed_without_a_word() {
    let node = Node::new();
    let pod = node.pod();
    let index = node.guard(&pod, GuardKind::Own);
    ip(&format!("-n {} link del eth0", pod.name()));
    node.kernel().unguard(index).unwrap();
    assert!(node.kernel().guards().unwrap().is_empty());
}
