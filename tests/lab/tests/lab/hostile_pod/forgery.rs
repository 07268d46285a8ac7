//! Attacks by forged packets. Each of the two mechanisms against them is taken away in turn, to see that it is what holds.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use millrace_lab::{
    Lab, clock,
    frames::{
        Ends, SYN, Segment, Wire,
        hijack::{Plan, Taken, hijack},
        parse, tcp,
    },
};

use super::{
    Attack, BOB, DAVE, MALLORY,
    attacks::{begins, ends},
    decided, ip, mac, town, wire,
};
use crate::scene::CALL;

/// What no command of the server's is: it says so, with the caller's address, when it gets it.
const DATA: &[u8] = b"forged\n";

/// How long nothing must come.
const SILENCE: Duration = Duration::from_millis(300);

pub(super) const ALL: [Attack; 5] = [
    Attack {
        what: "forges a neighbour's address, with ARP and neighbour discovery spoofed, while the neighbour connects",
        stopped_by: "the guard of its interface",
        reasons: &["spoofed_source", "spoofed_neighbour"],
        run: |lab| {
            for family in 0..2 {
                let taken = takes_over(lab, family, Number::Seen)?;
                ensure!(taken == Taken::Unanswered, "bob answers mallory: {taken:?}");
            }
            Ok("no packet arrives, by IPv4 and IPv6, though it sees the neighbour's SYN".to_owned())
        },
    },
    Attack {
        what: "forges its destination's own address",
        stopped_by: "the guard of its interface",
        reasons: &["spoofed_source"],
        run: |lab| {
            let bob = lab.pod(BOB)?;
            for (family, ip) in bob.addresses().both().into_iter().enumerate() {
                unanswered(lab, SocketAddr::new(ip, 4444), at(lab, BOB, family)?)?;
            }
            Ok("no answer, by IPv4 and IPv6".to_owned())
        },
    },
    Attack {
        what: "turns rp_filter off and route_localnet on, and sends to loopback addresses",
        stopped_by: "the other's kernel takes loopback addresses over loopback alone; so does `sk_lookup`",
        reasons: &[],
        run: |lab| {
            let set = |name: &str, value: &str| {
                let path = format!("/proc/sys/net/ipv4/conf/eth0/{name}");
                lab.pod(MALLORY)?.place()?.inside(|| fs::write(path, value))??;
                anyhow::Ok(())
            };
            set("rp_filter", "0")?;
            set("route_localnet", "1")?;
            let own = SocketAddr::new(lab.pod(MALLORY)?.addresses().v4.into(), 4444);
            for to in ["127.0.0.1:8080", "127.0.0.2:8080", "127.0.0.1:15801"] {
                unanswered(lab, own, to.parse()?)?;
            }
            unanswered(lab, "127.0.0.2:4444".parse()?, at(lab, BOB, 0)?)?;
            set("route_localnet", "0")?;
            Ok("no answer".to_owned())
        },
    },
    Attack {
        what: "sends a SYN of its own by a raw socket, and shakes hands",
        stopped_by: "what no connect wrote down is plain text from nobody",
        reasons: &["in_plaintext"],
        run: raw,
    },
    Attack {
        what: "attests itself by a connect, and sends a second SYN with the same addresses and ports",
        stopped_by: "the sequence number that the connecting socket chose",
        reasons: &["in_forged"],
        run: attests_itself,
    },
];

fn at(lab: &Lab, pod: &str, family: usize) -> Result<SocketAddr> {
    let ip: IpAddr = *lab.pod(pod)?.addresses().both().get(family).context("two families")?;
    Ok(SocketAddr::new(ip, 8080))
}

/// What the SYN is numbered with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    /// By the victim's own, which whoever is between the two sees.
    Seen,
    /// By another.
    Guessed,
}

/// Takes over a connection that dave has begun to bob.
fn takes_over(lab: &Lab, family: usize, number: Number) -> Result<Taken> {
    let target = at(lab, BOB, family)?;
    let until = lab.directory().join(format!("over-{}", fs::read_dir(lab.directory())?.count()));
    let wire = wire(lab, MALLORY)?;
    let (flood, begun) = begins(lab, DAVE, target, 1, &until)?;
    let victim = begun.from.context("dave's connect is under way")?;
    let sequence = match number {
        // Sent to a link address that is nobody's, it is flooded to all: so it is where ARP is spoofed. It comes again in a second.
        Number::Seen => wire
            .hear(CALL, |frame| {
                let (of, segment) = parse(frame)?;
                (of.from == victim && of.to == target && segment.flags == SYN).then_some(segment.sequence)
            })?
            .context("dave's SYN is seen")?,
        Number::Guessed => 1000,
    };
    let plan = Plan { victim, target, target_mac: mac(lab, BOB)?, sequence, data: DATA };
    let taken = hijack(&wire, &plan)?;
    ends(lab, DAVE, target, (flood, &until))?;
    Ok(taken)
}

/// A SYN that must get no answer.
fn unanswered(lab: &Lab, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let wire = wire(lab, MALLORY)?;
    let between = Ends { macs: (wire.mac, mac(lab, BOB)?), from, to };
    wire.send(&tcp(&between, &Segment { flags: SYN, sequence: 9, ..Segment::default() }))?;
    ensure!(answer(&wire, from, to)?.is_none(), "a SYN from {from} to {to} is answered");
    Ok(())
}

fn answer(wire: &Wire, from: SocketAddr, to: SocketAddr) -> Result<Option<()>> {
    Ok(wire.hear(SILENCE, |frame| {
        let (of, segment) = parse(frame)?;
        (of.to == from && of.from == to && segment.flags & SYN != 0).then_some(())
    })?)
}

/// From its own address, which its kernel is kept from having meanwhile: it would reset what it knows nothing of.
fn raw(lab: &Lab) -> Result<String> {
    let own = lab.pod(MALLORY)?.addresses().v4;
    let (wire, target) = (wire(lab, MALLORY)?, at(lab, BOB, 0)?);
    ip(lab, MALLORY, &format!("addr del {own}/24 dev eth0"))?;
    let victim = SocketAddr::new(own.into(), 4445);
    let taken = hijack(&wire, &Plan { victim, target, target_mac: mac(lab, BOB)?, sequence: 77, data: DATA });
    let said = wire.hear(SILENCE, |frame| {
        let (of, segment) = parse(frame)?;
        (of.to == victim && of.from == target && !segment.data.is_empty()).then(|| segment.data.to_vec())
    });
    ip(lab, MALLORY, &format!("addr add {own}/24 dev eth0"))?;
    ip(lab, MALLORY, &format!("route replace default via {}", millrace_lab::plan::pod_addresses(1, 0).v4))?;
    ensure!(matches!(taken?, Taken::Established(..)), "the proxy's listener takes the connection, to judge it");
    ensure!(said?.is_none(), "the application has said something");
    Ok("taken by the proxy, and reset".to_owned())
}

/// To carol, whom it may call: a record stands there, but for another SYN than this one.
fn attests_itself(lab: &Lab) -> Result<String> {
    let target = at(lab, super::CAROL, 0)?;
    let until = lab.directory().join("attested");
    let wire = wire(lab, MALLORY)?;
    let (flood, begun) = begins(lab, MALLORY, target, 1, &until)?;
    let victim = begun.from.context("the connect is under way")?;
    let own = lab.pod(MALLORY)?.addresses().v4;
    ip(lab, MALLORY, &format!("addr del {own}/24 dev eth0"))?;
    let taken = hijack(&wire, &Plan { victim, target, target_mac: mac(lab, super::CAROL)?, sequence: 77, data: DATA });
    ip(lab, MALLORY, &format!("addr add {own}/24 dev eth0"))?;
    ip(lab, MALLORY, &format!("route replace default via {}", millrace_lab::plan::pod_addresses(1, 0).v4))?;
    ends(lab, MALLORY, target, (flood, &until))?;
    ensure!(matches!(taken?, Taken::Established(..)), "carol's kernel shakes hands");
    Ok("held: the application gets no byte".to_owned())
}

/// The pins of the guards of a node.
fn guards(lab: &Lab, node: &str) -> Result<Vec<PathBuf>> {
    let pins = lab.directory().join(node).join("bpf/millrace").join(node);
    let mut found = Vec::new();
    for schema in fs::read_dir(pins)? {
        for pin in fs::read_dir(schema?.path())? {
            let path = pin?.path();
            let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
            if name.starts_with("guard_") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The attack of the table's first forgery again, with what stops it taken away: first one mechanism, then both. Where nothing
/// stops it, it succeeds: so it is those two that do.
#[test]
fn a_forgery_succeeds_where_neither_guard_nor_sequence_number_stands_in_its_way() {
    town("hostile-bare", |lab| {
        // Nothing taken away, and then the guards: the number alone holds it.
        ensure!(takes_over(lab, 0, Number::Seen)? == Taken::Unanswered, "the guard holds it");
        let pins = guards(lab, "a")?;
        ensure!(pins.len() == 5, "each pod of the node has a guard: {pins:?}");
        pins.iter().try_for_each(fs::remove_file)?;
        for family in 0..2 {
            let before = decided(lab, "in_forged")?;
            let taken = takes_over(lab, family, Number::Guessed)?;
            ensure!(matches!(taken, Taken::Established(..)), "without a guard bob's kernel shakes hands: {taken:?}");
            clock::until(CALL, "it is held", || {
                let now = decided(lab, "in_forged")?;
                if now > before { Ok(()) } else { bail!("in_forged stands at {now}") }
            })?;
        }
        let (log, dave) = (lab.logs().join("shop-bob-serve-8080.out"), lab.pod(DAVE)?.addresses().v4.to_string());
        let heard = || -> Result<usize> {
            let is_it = |line: &&str| line.contains("\"command\":\"forged\"") && line.contains(&dave);
            Ok(fs::read_to_string(&log)?.lines().filter(is_it).count())
        };
        ensure!(heard()? == 0, "so far bob has heard nothing");
        // With the number that was seen on the wire nothing tells mallory from dave.
        let taken = takes_over(lab, 0, Number::Seen)?;
        ensure!(matches!(taken, Taken::Established(..)), "{taken:?}");
        clock::until(CALL, "bob takes mallory for dave", || {
            ensure!(heard()? == 1, "he has not heard from him");
            Ok(())
        })?;
        Ok(())
    });
}
