//! Attacks by sockets and by numbers.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, clock,
    frames::{
        Ends, SYN, Segment,
        hijack::{self, Plan},
        tcp,
    },
    intruder::Flooded,
    process::Process,
};

use super::{Attack, BOB, CAROL, MALLORY, decided, fails, ip, mac, tries, wire};
use crate::scene::CALL;

const ECONNREFUSED: i32 = 111;
const EPERM: i32 = 1;

/// Marks that others exempt themselves by, and some at random.
const MARKS: [&str; 6] = ["1", "1337", "15008", "3840", "16777216", "4294967295"];

pub(super) const ALL: [Attack; 9] = [
    Attack {
        what: "sets SO_MARK",
        stopped_by: "the proxy's own sockets are known by storage that only the agent writes",
        reasons: &["denied"],
        run: |lab| {
            let bob = at(lab, BOB)?;
            MARKS.iter().try_for_each(|mark| fails(lab, ECONNREFUSED, &[&bob, "--mark", mark]))?;
            Ok("refused, with each of 6 marks".to_owned())
        },
    },
    Attack {
        what: "binds the mesh's ports",
        stopped_by: "the agent's listeners have them, without SO_REUSEPORT",
        reasons: &["mesh_port"],
        run: binds,
    },
    Attack {
        what: "nests a network namespace, and a user namespace",
        stopped_by: "a namespace that nobody enrolled is nobody, and its cgroup is the pod's still",
        reasons: &["unknown_namespace", "denied"],
        run: |lab| {
            let bob = at(lab, BOB)?;
            fails(lab, EPERM, &[&bob, "--nested"])?;
            fails(lab, EPERM, &[&bob, "--nested", "--user"])?;
            fails(lab, ECONNREFUSED, &[&bob, "--user"])?;
            Ok("refused".to_owned())
        },
    },
    Attack {
        what: "moves to a cgroup of its own making",
        stopped_by: "programs stand at an ancestor cgroup",
        reasons: &["denied"],
        run: |lab| {
            let below = lab.pod(MALLORY)?.place()?.cgroup.join("deeper/still").display().to_string();
            fails(lab, ECONNREFUSED, &[&at(lab, BOB)?, "--cgroup", &below])?;
            Ok("refused".to_owned())
        },
    },
    Attack {
        what: "connects by MPTCP",
        stopped_by: "`connect` is judged whatever the protocol",
        reasons: &["denied"],
        run: |lab| {
            fails(lab, ECONNREFUSED, &[&at(lab, BOB)?, "--mptcp"])?;
            Ok("refused".to_owned())
        },
    },
    Attack {
        what: "sends data by Fast Open, without connect()",
        stopped_by: "the kernel calls the hook of `connect` for it too",
        reasons: &["denied"],
        run: |lab| {
            fails(lab, ECONNREFUSED, &[&at(lab, BOB)?, "--fast-open"])?;
            Ok("refused".to_owned())
        },
    },
    Attack {
        what: "connects from a neighbour's address that it gave itself",
        stopped_by: "no attestation for an address that is not the pod's, and the guard of its interface",
        reasons: &["spoofed_source"],
        run: takes_an_address,
    },
    Attack {
        what: "fills the table of connects under way, 5,000 to a black hole",
        stopped_by: "a quota of 1,024 for each pod",
        reasons: &["too_many_pending"],
        run: |lab| fills(lab, 5_000),
    },
    Attack {
        what: "leaves 10,000 connections half open, at an application and at its tunnel's port",
        stopped_by: "unattested connections wait in listeners of their own, and SYN cookies",
        reasons: &["in_plaintext", "in_tunnel"],
        run: |lab| half_opens(lab, 10_000),
    },
];

pub(super) const LONG: [Attack; 2] = [
    Attack {
        what: "fills the table of connects under way, 19,000 to a black hole",
        run: |lab| fills(lab, 19_000),
        ..ALL[7]
    },
    Attack { what: "leaves 100,000 connections half open", run: |lab| half_opens(lab, 100_000), ..ALL[8] },
];

fn at(lab: &Lab, pod: &str) -> Result<String> {
    Ok(lab.pod(pod)?.at(8080).to_string())
}

fn binds(lab: &Lab) -> Result<String> {
    let program = lab.binaries().path("intruder")?.display().to_string();
    let ports = [15801, 15806, 15008];
    let wanted =
        ports.iter().flat_map(|port| ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"].map(|ip| format!("{ip}:{port}")));
    let wanted: Vec<String> = wanted.collect();
    let mut all = vec![program.as_str(), "bind"];
    all.extend(wanted.iter().map(String::as_str));
    let said = lab.pod(MALLORY)?.run(&all)?.ok()?;
    let bound: Vec<(SocketAddr, Option<String>)> = serde_json::from_str(&said)?;
    for (address, error) in &bound {
        ensure!(error.as_deref() == Some("errno 98"), "{address} was bound, or failed otherwise: {error:?}");
    }
    // Nor does it reach those of others.
    for port in ports {
        fails(lab, EPERM, &[&lab.pod(CAROL)?.at(port).to_string()])?;
    }
    Ok(format!("in use: all of {}; others' are refused", bound.len()))
}

fn takes_an_address(lab: &Lab) -> Result<String> {
    let (carol, dave) = (lab.pod(CAROL)?.addresses(), lab.pod(super::DAVE)?.addresses());
    for (to, from, bits) in [(carol.both()[0], dave.both()[0], 32), (carol.both()[1], dave.both()[1], 128)] {
        ip(lab, MALLORY, &format!("addr add {from}/{bits} dev eth0"))?;
        let (to, from) = (SocketAddr::new(to, 8080).to_string(), SocketAddr::new(from, 0).to_string());
        let tried = tries(lab, &[&to, "--from", &from]);
        ip(lab, MALLORY, &format!("addr del {}/{bits} dev eth0", from.parse::<SocketAddr>()?.ip()))?;
        let tried = tried?;
        ensure!(tried.greeting.is_none(), "{to} took it for {from}: {tried:?}");
    }
    let own = tries(lab, &[&at(lab, CAROL)?])?;
    ensure!(own.greeting.is_some(), "in its own name it is let in: {own:?}");
    Ok("no answer, by IPv4 and IPv6".to_owned())
}

/// Begins connects in a pod that get no answer, for their packets go to a link address that is nobody's.
pub(super) fn begins(
    lab: &Lab,
    pod: &str,
    target: SocketAddr,
    count: usize,
    until: &Path,
) -> Result<(Process, Flooded)> {
    ip(lab, pod, &format!("neigh replace {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent", target.ip()))?;
    let (program, count) = (lab.binaries().path("intruder")?.display().to_string(), count.to_string());
    let (target, until) = (target.to_string(), until.display().to_string());
    let name = format!("flood-{}", until.rsplit('/').next().unwrap_or_default());
    let mut flood = lab.pod(pod)?.start(&name, &[&program, "flood", &target, "--count", &count, "--until", &until])?;
    let line = flood.says("under_way", CALL)?;
    Ok((flood, serde_json::from_str(&line)?))
}

/// Ends them.
pub(super) fn ends(lab: &Lab, pod: &str, target: SocketAddr, (mut flood, until): (Process, &Path)) -> Result<()> {
    std::fs::write(until, "")?;
    flood.wait(CALL)?;
    // It went with the address that the pod took off its interface, if it did.
    ip(lab, pod, &format!("neigh replace {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent", target.ip()))?;
    ip(lab, pod, &format!("neigh del {} dev eth0", target.ip()))
}

fn fills(lab: &Lab, count: usize) -> Result<String> {
    let target = lab.pod(CAROL)?.at(8080);
    let until = lab.directory().join(format!("filled-{count}"));
    let (flood, Flooded { under_way, refused, .. }) = begins(lab, MALLORY, target, count, &until)?;
    let enobufs = refused.get("errno 105").copied().unwrap_or_default();
    ensure!(under_way == 1024 && enobufs == count - 1024, "{under_way} are under way, refused: {refused:?}");
    // It goes on with what is not of the mesh, and nobody else is refused.
    fails(lab, 105, &[&target.to_string()])?;
    lab.pod(super::DAVE)?.connects(target)?;
    ends(lab, MALLORY, target, (flood, &until))?;
    clock::until(CALL, "it may connect again", || {
        let tried = tries(lab, &[&target.to_string()])?;
        tried.greeting.context("no greeting")
    })?;
    Ok(format!("{under_way} under way, {enobufs} refused with ENOBUFS; none left when they end"))
}

/// As many of its own ports; the next round goes to the other port of bob's.
const PORTS: u32 = 64_000;

/// SYNs from all its ports; its kernel is kept from answering what comes back, so that they stay half open.
fn half_opens(lab: &Lab, count: u32) -> Result<String> {
    let (own, bob) = (lab.pod(MALLORY)?, lab.pod(BOB)?);
    let (wire, bobs) = (wire(lab, MALLORY)?, mac(lab, BOB)?);
    let v4 = own.addresses().v4;
    ip(lab, MALLORY, &format!("addr del {v4}/24 dev eth0"))?;
    let flooded = (|| -> Result<()> {
        for n in 0..count {
            let port = 1024 + u16::try_from(n % PORTS)?;
            let (from, target) = (
                SocketAddr::new(v4.into(), port),
                bob.at(if (n + n / PORTS).is_multiple_of(2) { 8080 } else { 15008 }),
            );
            if n % 500 == 0 {
                // That it is there is its own to say.
                let plan = Plan { victim: from, target, target_mac: bobs, sequence: n, data: b"" };
                hijack::poison(&wire, &plan)?;
            }
            let ends = Ends { macs: (wire.mac, bobs), from, to: target };
            wire.send(&tcp(&ends, &Segment { flags: SYN, sequence: n, ..Segment::default() }))?;
        }
        Ok(())
    })();
    ip(lab, MALLORY, &format!("addr add {v4}/24 dev eth0"))?;
    ip(lab, MALLORY, &format!("route replace default via {}", millrace_lab::plan::pod_addresses(1, 0).v4))?;
    flooded?;
    // Others come through while they are there: half-open connections live for a minute.
    std::iter::repeat_n((), 20).try_for_each(|()| lab.pod(super::ALICE)?.connects(bob.at(8080)).map(drop))?;
    std::iter::repeat_n((), 20).try_for_each(|()| lab.pod(super::FAR)?.connects(bob.at(8080)).map(drop))?;
    let seen = decided(lab, "in_plaintext")? + decided(lab, "in_tunnel")?;
    clock::until(Duration::from_secs(5), "it is in the mesh again", || {
        tries(lab, &[&at(lab, CAROL)?])?.greeting.context("no greeting")
    })?;
    Ok(format!("{count} SYNs sent, {seen:.0} judged so far; calls on the same node and from another go through"))
}
