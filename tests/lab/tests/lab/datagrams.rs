//! UDP over two nodes: services are balanced, answers come from whom was asked, policy binds both ends, and what is connected is
//! closed when it turns.

mod left;
mod network;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    manifests::{self, Rule, access_policy, encryption_policy},
    peer::{crowd::unix_us, datagram::Asked},
    process::Process,
};
use serde_json::json;

use crate::{
    held::Held,
    scene::{self, CALL},
};

/// An edit of the directory is in force within this time, for what is open too.
const IN_FORCE: Duration = Duration::from_secs(1);

/// The servers' port, and the services'.
const SERVERS: u16 = 5353;
const SERVICES: u16 = 53;

/// A client and servers on two nodes; the servers' names are `<service>-<node>`.
fn plan(name: &str) -> Plan {
    let server = |name: &str, app: &str| Pod::new(name).app(app);
    Plan::new(name)
        .node(
            "a",
            [Pod::new("shop/client"), Pod::new("shop/other"), server("shop/one-a", "one"), server("shop/two-a", "two")],
        )
        .node("b", [Pod::new("shop/caller"), server("shop/one-b", "one"), server("shop/three-b", "three")])
        .service("shop/one", &[(SERVICES, SERVERS)])
        .service("shop/two", &[(SERVICES, SERVERS)])
        .service("shop/three", &[(SERVICES, SERVERS)])
}

/// Turns the services' ports into ports of UDP, and starts every server.
fn serve(lab: &Lab) -> Result<Vec<Process>> {
    for service in ["shop/one", "shop/two", "shop/three"] {
        let mut object = manifests::service(lab.topology().service(service)?);
        object["spec"]["ports"][0]["protocol"] = json!("UDP");
        lab.apply(&object)?;
    }
    ["shop/one-a", "shop/one-b", "shop/two-a", "shop/three-b"].iter().map(|pod| answers(lab, pod)).collect()
}

fn answers(lab: &Lab, pod: &str) -> Result<Process> {
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let name = pod.rsplit('/').next().context("a pod has a name")?;
    let listen = format!("[::]:{SERVERS}");
    let mut process = lab.pod(pod)?.start("answers", &[&program, "answer", &listen, "--name", name])?;
    process.says("answers", CALL)?;
    Ok(process)
}

/// Both addresses of these services.
fn services(lab: &Lab, names: &[&str]) -> Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for name in names {
        let service = lab.topology().service(name)?;
        all.extend(service.addresses.both().map(|ip| SocketAddr::new(ip, SERVICES)));
    }
    Ok(all)
}

/// Both addresses of a pod.
fn pod(lab: &Lab, name: &str) -> Result<Vec<SocketAddr>> {
    Ok(lab.pod(name)?.addresses().both().map(|ip| SocketAddr::new(ip, SERVERS)).to_vec())
}

fn ask(lab: &Lab, from: &str, targets: &[SocketAddr], more: &[&str]) -> Result<Asked> {
    let targets: Vec<String> = targets.iter().map(SocketAddr::to_string).collect();
    let arguments: Vec<&str> =
        ["ask"].into_iter().chain(targets.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    lab.pod(from)?.peer(CALL, &arguments)
}

/// Checks that every question is answered.
fn answered(lab: &Lab, from: &str, targets: &[SocketAddr]) -> Result<()> {
    let asked = ask(lab, from, targets, &["--count", "4"])?;
    ensure!(asked.errors.is_empty() && asked.strays == 0, "{from} is answered by all of {targets:?}: {asked:?}");
    Ok(())
}

/// Checks that none is even sent, and what the kernel of this node calls the reason.
fn refused(lab: &Lab, (from, node): (&str, &'static str), targets: &[SocketAddr], reason: &str) -> Result<()> {
    let count = |lab: &Lab| -> Result<f64> {
        let metrics = lab.admin(Part::Agent(node)).metrics()?;
        Ok(metrics.sum("millrace_kernel_decisions_total", &[("reason", reason)]))
    };
    let before = count(lab)?;
    let asked = ask(lab, from, targets, &["--count", "4"])?;
    ensure!(asked.errors.get("ConnectionRefused") == Some(&4), "{from} is refused by all of {targets:?}: {asked:?}");
    clock::until(CALL, &format!("{reason} is counted on node {node}"), || {
        ensure!(count(lab)? >= before + 4.0);
        Ok(())
    })?;
    Ok(())
}

/// Waits until this is so.
fn in_force(what: &str, is_so: impl FnMut() -> Result<()>) -> Result<()> {
    clock::until(CALL, what, is_so)?;
    Ok(())
}

/// As resolvers ask: one socket of each family, and eight destinations in turn. IPv4 as such and as v4-mapped.
#[test]
fn one_socket_asks_many_services_of_two_nodes_and_each_answers_for_itself() {
    scene::mesh(&plan("datagrams"), |lab| {
        let _serving = serve(lab)?;
        let mut targets = services(lab, &["shop/one", "shop/two", "shop/three"])?;
        in_force("the services take datagrams", || answered(lab, "shop/client", &targets))?;
        targets.extend(pod(lab, "shop/one-b")?);
        for more in [&["--sockets", "30", "--count", "200"][..], &["--sockets", "30", "--count", "200", "--mapped"]] {
            let asked = ask(lab, "shop/client", &targets, more)?;
            println!("{more:?}: {asked:?}");
            ensure!(asked.errors.is_empty() && asked.strays == 0, "all are answered by whom they asked: {asked:?}");
            let names: Vec<&str> = asked.by_name.keys().map(String::as_str).collect();
            ensure!(names == ["one-a", "one-b", "three-b", "two-a"], "both nodes answer: {asked:?}");
            ensure!(asked.by_name.values().sum::<u32>() == 30 * 200, "{asked:?}");
        }
        let plain = lab.admin(Part::Agent("a")).metrics()?;
        ensure!(plain.sum("millrace_kernel_decisions_total", &[("reason", "udp_direct")]) > 0.0, "counted");
        ensure!(plain.sum("millrace_kernel_decisions_total", &[("reason", "udp_plain")]) > 0.0, "counted");
        Ok(())
    });
}

/// As stub resolvers ask: a pair of sockets, one of each family, asks each destination once and is closed. First without the mesh, of the pods by
/// their addresses; then of their services. Both rates are printed.
fn stubs(name: &str, sockets: u32) {
    scene::plain(&plan(name), |lab| {
        let bare = ["shop/one-a", "shop/one-b", "shop/two-a", "shop/three-b"];
        let answering: Vec<Process> = bare.iter().map(|pod| answers(lab, pod)).collect::<Result<_>>()?;
        let all: Vec<SocketAddr> = bare.iter().map(|name| pod(lab, name)).collect::<Result<Vec<_>>>()?.concat();
        asked_by_stubs(lab, "without the mesh", &all, sockets)?;
        drop(answering);
        lab.start_mesh()?;
        let _serving = serve(lab)?;
        let targets = services(lab, &["shop/one", "shop/two", "shop/three"])?;
        in_force("the services take datagrams", || answered(lab, "shop/client", &targets))?;
        asked_by_stubs(lab, "by service", &targets, sockets)
    });
}

fn asked_by_stubs(lab: &Lab, what: &str, targets: &[SocketAddr], sockets: u32) -> Result<()> {
    let (pairs, count) = (sockets.to_string(), targets.len().to_string());
    let asked = ask(lab, "shop/client", targets, &["--sockets", &pairs, "--count", &count])?;
    let n = asked.by_name.values().sum::<u32>();
    println!("{what}: {n} questions by {} sockets, {:.0} a second", 2 * sockets, f64::from(n) / asked.seconds);
    ensure!(asked.errors.is_empty() && asked.strays == 0, "{what}: all are answered by whom they asked: {asked:?}");
    ensure!(n as usize == sockets as usize * targets.len(), "{what}: {asked:?}");
    Ok(())
}

#[test]
fn stub_resolvers_are_answered_on_every_socket() {
    stubs("stubs", 300);
}

#[test]
#[ignore = "long: 100,000 questions by 40,000 sockets, twenty seconds"]
fn stub_resolvers_at_length_are_answered_on_every_socket() {
    stubs("stubs-long", 20_000);
}

/// Within a node by identity; between nodes nobody has one, and what is refused is so by name, at the source.
#[test]
fn policy_binds_datagrams_within_a_node_and_between_nodes() {
    scene::mesh(&plan("datagram-policy"), |lab| {
        let _serving = serve(lab)?;
        let (one, two, three) = (pod(lab, "shop/one-a")?, pod(lab, "shop/two-a")?, pod(lab, "shop/three-b")?);
        for (from, to) in [("shop/client", &one), ("shop/other", &one), ("shop/caller", &one), ("shop/caller", &two)] {
            answered(lab, from, to)?;
        }
        let identities = &[Rule::identities(&["shop/client", "shop/caller"])];
        lab.apply(&access_policy("shop/by-identity", "Allow", "one", identities)?)?;
        in_force("a pod of the node is denied", || refused(lab, ("shop/other", "a"), &one, "denied"))?;
        in_force("a pod of another node has no identity", || {
            refused(lab, ("shop/caller", "b"), &one, "udp_no_identity")
        })?;
        answered(lab, "shop/client", &one)?;
        // Strict encryption: nothing in the clear between nodes, save answers.
        lab.apply(&encryption_policy("shop/strict", "Strict", "two")?)?;
        in_force("what is strict takes no datagrams", || {
            refused(lab, ("shop/caller", "b"), &two, "udp_between_nodes")
        })?;
        answered(lab, "shop/client", &two)?;
        answered(lab, "shop/two-a", &three)?;
        let mut allowed = encryption_policy("shop/strict", "Strict", "two")?;
        allowed["spec"]["udp"] = json!("Allow");
        lab.apply(&allowed)?;
        in_force("but where it says so", || answered(lab, "shop/caller", &two))
    });
}

/// Connected sockets of one pod to another.
fn hold(lab: &Lab, from: &str, to: SocketAddr) -> Result<Held> {
    let name = to.to_string().replace([':', '.', '[', ']'], "-");
    Held::open(lab, (from, "hold", &name), &to.to_string(), 50)
}

/// Checks that all were closed in time after `start`.
fn closed(what: &str, held: Vec<Held>, start: u64) -> Result<()> {
    for held in held {
        let crowd = held.end()?;
        let last = crowd.ended_us.map_or(0, |(_, last)| last.saturating_sub(start));
        println!("{what}: {} sockets closed, the last after {:?}", crowd.closed, Duration::from_micros(last));
        ensure!(crowd.closed == 50 && crowd.alive == 0, "all are closed: {crowd:?}");
        ensure!(Duration::from_micros(last) < IN_FORCE, "within a second: {crowd:?}");
    }
    Ok(())
}

fn alive(what: &str, held: Vec<Held>) -> Result<()> {
    for held in held {
        let crowd = held.look()?;
        println!("{what}: {crowd:?}");
        ensure!(crowd.closed == 0 && crowd.alive == 50, "{what}: all live: {crowd:?}");
    }
    Ok(())
}

/// Of 350 sockets of both families, within a node and between nodes, by service and by address: those that are concerned.
#[test]
fn connected_sockets_are_closed_when_policy_turns_or_the_pod_goes_and_no_others() {
    scene::mesh(&plan("datagram-revoked"), |lab| {
        let _serving = serve(lab)?;
        let (one, two, three) = (pod(lab, "shop/one-a")?, pod(lab, "shop/two-a")?, pod(lab, "shop/three-b")?);
        let by_service = services(lab, &["shop/two"])?;
        in_force("the services take datagrams", || answered(lab, "shop/client", &by_service))?;
        let first = |all: &[SocketAddr]| all.first().copied().context("an address");
        let denied = one.iter().map(|to| hold(lab, "shop/other", *to)).collect::<Result<Vec<_>>>()?;
        let allowed = one.iter().map(|to| hold(lab, "shop/client", *to)).collect::<Result<Vec<_>>>()?;
        let others = vec![hold(lab, "shop/client", first(&by_service)?)?, hold(lab, "shop/client", first(&two)?)?];
        let far = vec![hold(lab, "shop/client", first(&three)?)?];
        let start = unix_us()?;
        lab.apply(&access_policy("shop/guard", "Allow", "one", &[Rule::identity("shop/client")])?)?;
        closed("policy turned", denied, start)?;
        let start = unix_us()?;
        lab.remove(&manifests::pod(lab.number(), lab.topology(), lab.topology().pod("shop/three-b")?))?;
        closed("a pod of another node is gone", far, start)?;
        let start = unix_us()?;
        lab.remove(&manifests::pod(lab.number(), lab.topology(), lab.topology().pod("shop/two-a")?))?;
        closed("a pod of the node is gone", others, start)?;
        let revoked = lab.admin(Part::Agent("a")).metrics()?.sum("millrace_agent_revoked_total", &[]);
        ensure!(revoked == 250.0, "each socket is counted once: {revoked}");
        alive("callers that policy allows", allowed)
    });
}
