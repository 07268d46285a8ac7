//! Ports do not run out: as many connections at once, and as many a second, as bare sockets could have, whichever end closes first.
//!
//! The CI-size tests give pods so few ports that hundreds of connections are many. The long ones leave ports as they are and make as
//! many connections as issue and machine allow: they need it to themselves.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, load::Report, plan::Addresses, process::Process};
use serde_json::json;

use crate::{profile::comes, scene};

/// Where servers listen.
const PORT: u16 = 8080;

/// How many backends the service on the callers' own node has.
const N_NEAR: usize = 8;

/// How many pods call at once where many do.
const N_CALLERS: usize = 10;

/// Ports that a pod is left with in CI.
const FEW: u32 = 64;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who closes first, as the load tool is told.
const FIRST: [&str; 2] = ["client", "server"];

/// By which addresses.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// What a name has of this family.
    fn of(self, addresses: Addresses, port: u16) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new(addresses.v4.into(), port),
            Self::V6 => SocketAddr::new(addresses.v6.into(), port),
        }
    }
}

fn plan(name: &str) -> Plan {
    let callers = (0..N_CALLERS).map(|n| Pod::new(&format!("shop/client{n}")));
    let near = (0..N_NEAR).map(|n| Pod::new(&format!("shop/near{n}")).app("near"));
    Plan::new(name).node("a", callers.chain(near)).node("b", [Pod::new("shop/far")]).service("shop/near", &[(80, PORT)])
}

/// Leaves a pod few source ports.
fn narrow(lab: &Lab, pod: &str) -> Result<()> {
    let range = format!("40000 {}", 40_000 + FEW - 1);
    Ok(lab.pod(pod)?.place()?.inside(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range))??)
}

/// Starts servers in these pods, as many processes in each.
fn serve(lab: &Lab, pods: &[String], n_each: usize) -> Result<Vec<Process>> {
    let program = lab.binaries().path("load-peer")?.display().to_string();
    let mut servers = Vec::new();
    for pod in pods {
        for n in 0..n_each {
            let mut server =
                lab.pod(pod)?.start(&format!("server{n}"), &[&program, "serve", &format!("[::]:{PORT}")])?;
            server.says("listening", scene::CALL)?;
            servers.push(server);
        }
    }
    Ok(servers)
}

fn near() -> Vec<String> {
    (0..N_NEAR).map(|n| format!("shop/near{n}")).collect()
}

/// A load: from which pods, by how many processes in each, to where.
struct Load<'l> {
    lab: &'l Lab,
    from: Vec<String>,
    n_each: usize,
    target: String,
}

impl<'l> Load<'l> {
    fn new(lab: &'l Lab, n_callers: usize, target: impl ToString) -> Self {
        let from = (0..n_callers).map(|n| format!("shop/client{n}")).collect();
        Self { lab, from, n_each: 1, target: target.to_string() }
    }

    fn processes(self, n_each: usize) -> Self {
        Self { n_each, ..self }
    }

    /// Starts the clients, each with its part of count and rate.
    fn start(&self, what: &str, count: usize, rate: usize, more: &[&str]) -> Result<Vec<Process>> {
        self.start_as((what, what), (count, rate), more)
    }

    /// As processes of this name.
    fn start_as(
        &self,
        (name, what): (&str, &str),
        (count, rate): (usize, usize),
        more: &[&str],
    ) -> Result<Vec<Process>> {
        let program = self.lab.binaries().path("load-peer")?.display().to_string();
        let n = self.from.len() * self.n_each;
        let mut clients = Vec::with_capacity(n);
        for (pod, name) in self.from.iter().flat_map(|pod| (0..self.n_each).map(move |n| (pod, format!("{name}{n}")))) {
            let part = count / n + usize::from(clients.len() < count % n);
            let (count, rate) = (part.to_string(), (rate / n).to_string());
            let words = [&*program, what, &*self.target, "--count", &*count, "--rate", &*rate];
            let words: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
            clients.push(self.lab.pod(pod)?.start(&name, &words)?);
        }
        Ok(clients)
    }

    /// So many connections a second; those that were to be made.
    fn short(&self, count: usize, rate: usize, first: &str) -> Result<Report> {
        reports(self.start("short", count, rate, &["--first", first])?)
    }

    /// So many connections at once; `meanwhile` all are open.
    fn hold(&self, count: usize, rate: usize, first: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<Report> {
        let until: PathBuf = self.lab.directory().join("held");
        let path = until.display().to_string();
        let mut clients = self.start("hold", count, rate, &["--until", &path, "--first", first])?;
        for client in &mut clients {
            client.says("open: ", PATIENCE)?;
        }
        let looked = meanwhile();
        fs::write(&until, "")?;
        let report = reports(clients);
        fs::remove_file(&until)?;
        looked?;
        report
    }
}

fn reports(clients: Vec<Process>) -> Result<Report> {
    let mut all = Report::default();
    for mut client in clients {
        let ended = client.wait(PATIENCE)?;
        ensure!(ended.success(), "a client ended with {ended}: {}", client.errors());
        let said = client.output();
        let last = said.lines().last().context("a client said nothing")?;
        all = all.and(serde_json::from_str(last)?);
    }
    Ok(all)
}

/// All were done, at the pace.
fn ensure_all(what: &str, report: &Report, count: usize, rate: Option<usize>) -> Result<()> {
    let a_second = f64::from(report.done) / report.seconds;
    println!(
        "{what}: {} done, {} failed, {:.1} s, {a_second:.0}/s, to the first answer {} µs (median), {} µs (99 %)",
        report.done,
        report.n_failed(),
        report.seconds,
        report.median_us,
        report.p99_us
    );
    ensure!(report.failed.is_empty() && report.done as usize == count, "{what}: {count} of them, not {report:?}");
    if let Some(rate) = rate {
        ensure!(a_second > 0.95 * rate as f64, "{what}: {rate}/s, not {a_second:.0}");
    }
    Ok(())
}

/// What both proxies have left, for whom looks on.
fn descriptors(lab: &Lab) -> Result<()> {
    for node in ["a", "b"] {
        let metrics = lab.admin(Part::Proxy(node)).metrics()?;
        let of = |name: &str| metrics.sum(name, &[]);
        println!(
            "  proxy {node}: {} descriptors left, {} in stock, {} tunnels",
            of("millrace_proxy_descriptors_left"),
            of("millrace_proxy_stock_sockets"),
            of("millrace_proxy_tunnels")
        );
    }
    Ok(())
}

#[test]
fn pods_with_few_ports_have_many_connections_through_the_proxies() {
    scene::mesh(&plan("ports-far"), |lab| {
        let far = lab.pod("shop/far")?.at(PORT);
        for pod in ["shop/client0", "shop/client1", "shop/client2", "shop/far"] {
            narrow(lab, pod)?;
        }
        let _serving = serve(lab, &["shop/far".to_owned()], 1)?;
        for first in FIRST {
            let held = Load::new(lab, 1, far).hold(300, 1000, first, || Ok(()))?;
            ensure_all(&format!("one pod, {first} first, held"), &held, 300, None)?;
            let held = Load::new(lab, 3, far).hold(450, 1000, first, || Ok(()))?;
            ensure_all(&format!("three pods, {first} first, held"), &held, 450, None)?;
            let short = Load::new(lab, 3, far).short(600, 300, first)?;
            ensure_all(&format!("three pods, {first} first, short"), &short, 600, None)?;
        }
        // IPv6 has one loopback address: what a bare socket has for one far end, and no more.
        let far = Family::V6.of(lab.pod("shop/far")?.addresses(), PORT);
        let held = Load::new(lab, 1, far).hold(FEW as usize, 1000, "server", || Ok(()))?;
        ensure_all("one pod by IPv6, held", &held, FEW as usize, None)?;
        Ok(())
    });
}

#[test]
fn a_pod_has_as_many_connections_within_its_node_as_without_the_mesh() {
    scene::plain(&plan("ports-near"), |lab| {
        let one = lab.pod("shop/near0")?.at(PORT);
        narrow(lab, "shop/client0")?;
        let _serving = serve(lab, &near(), 1)?;
        let count = FEW as usize + 20;
        // By the server, so that nothing of it lingers at the client.
        let bare = Load::new(lab, 1, one).hold(count, 1000, "server", || Ok(()))?.done;
        ensure!(bare == FEW, "a bare socket has {FEW} ports: {bare}");
        lab.start_mesh()?;
        let ours = Load::new(lab, 1, one).hold(count, 1000, "server", || Ok(()))?.done;
        ensure!(ours == bare, "to one backend there are {ours}, without the mesh {bare}");
        for first in ["server", "client"] {
            let held = Load::new(lab, 1, "10.96.0.11:80").hold(240, 1000, first, || Ok(()))?;
            ensure_all(&format!("eight backends, {first} first"), &held, 240, None)?;
        }
        Ok(())
    });
}

/// How many a second, and for how long.
const RATE: usize = 2000;
const SECONDS: usize = 120;

/// The service on the callers' own node.
fn near_service(lab: &Lab, family: Family) -> Result<SocketAddr> {
    Ok(family.of(lab.topology().service("shop/near")?.addresses, 80))
}

/// The same without the mesh, from a pod of its own: who calls names each backend, for nobody shares its connects among them.
fn bare_near_rate(lab: &Lab, first: &str, family: Family) -> Result<Report> {
    let mut clients = Vec::with_capacity(N_NEAR);
    for pod in near() {
        let mut load = Load::new(lab, 1, family.of(lab.pod(&pod)?.addresses(), PORT));
        load.from = vec!["shop/client1".to_owned()];
        let name = format!("short-{}", pod.replace('/', "-"));
        clients.extend(load.start_as(
            (&name, "short"),
            (RATE * SECONDS / N_NEAR, RATE / N_NEAR),
            &["--first", first],
        )?);
    }
    reports(clients)
}

/// Where the client closes first, 120,000 of its connections linger: half of all tuples that there are, and past a half the kernel
/// looks for a free port one by one. What that costs it costs bare sockets too.
fn long_near_rate(first: &str, family: Family) {
    scene::plain(&plan("ports-near-rate"), |lab| {
        let _serving = serve(lab, &near(), 1)?;
        let bare = bare_near_rate(lab, first, family)?;
        ensure_all(&format!("bare, eight backends, {family:?}, {first} first"), &bare, RATE * SECONDS, None)?;
        lab.start_mesh()?;
        let short = Load::new(lab, 1, near_service(lab, family)?).processes(2).short(RATE * SECONDS, RATE, first)?;
        let what = format!("within the node, eight backends, {family:?}, {first} first");
        ensure_all(&what, &short, RATE * SECONDS, Some(RATE))
    });
}

#[test]
#[ignore = "long: 2,000 connections a second within a node for 120 s"]
fn long_2000_a_second_within_a_node_the_client_first() {
    long_near_rate("client", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second within a node for 120 s"]
fn long_2000_a_second_within_a_node_the_server_first() {
    long_near_rate("server", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second within a node by IPv6 for 120 s"]
fn long_2000_a_second_within_a_node_by_ipv6() {
    long_near_rate("client", Family::V6);
}

fn long_near_held(family: Family) {
    scene::mesh(&plan("ports-near-held"), |lab| {
        let _serving = serve(lab, &near(), 1)?;
        for first in FIRST {
            let load = Load::new(lab, 1, near_service(lab, family)?).processes(7);
            let held = load.hold(100_000, 3500, first, || Ok(()))?;
            ensure_all(&format!("within the node, {family:?}, at once, {first} first"), &held, 100_000, None)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "long: 100,000 connections at once within a node, twice"]
fn long_100_000_at_once_within_a_node() {
    long_near_held(Family::V4);
}

#[test]
#[ignore = "long: 100,000 connections at once within a node by IPv6, twice"]
fn long_100_000_at_once_within_a_node_by_ipv6() {
    long_near_held(Family::V6);
}

#[test]
#[ignore = "long: 28,232 connections at once to one backend, bare and within the mesh"]
fn long_one_backend_takes_as_many_as_bare() {
    let most = 29_000;
    scene::plain(&plan("ports-one"), |lab| {
        let one = lab.pod("shop/near0")?.at(PORT);
        let _serving = serve(lab, &["shop/near0".to_owned()], 2)?;
        // By the server, so that nothing of it lingers at the client.
        let bare = Load::new(lab, 1, one).processes(2).hold(most, 3000, "server", || Ok(()))?;
        println!("one backend, bare: {} at once, {:?}", bare.done, bare.failed);
        lab.start_mesh()?;
        let ours = Load::new(lab, 1, one).processes(2).hold(most, 3000, "server", || Ok(()))?;
        println!("one backend, with the mesh: {} at once, {:?}", ours.done, ours.failed);
        ensure!(ours.done >= bare.done, "no fewer than bare");
        Ok(())
    });
}

/// By default one workload may have a quarter of a proxy's descriptors open: these are to be all one's.
fn lift_the_limit(lab: &Lab) -> Result<()> {
    lab.apply(&json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "NodeProfile", "metadata": {"name": "one-for-all"},
        "spec": {"workloadLimits": {"maxConnections": 100_000}},
    }))?;
    ["a", "b"].iter().try_for_each(|node| comes(lab, (*node, "spec.workloadLimits.maxConnections"), "100000"))
}

fn long_far_rate(n_callers: usize, first: &str, family: Family) {
    scene::mesh(&plan("ports-far-rate"), |lab| {
        let far = family.of(lab.pod("shop/far")?.addresses(), PORT);
        let _serving = serve(lab, &["shop/far".to_owned()], 1)?;
        let short = Load::new(lab, n_callers, far).short(RATE * SECONDS, RATE, first)?;
        descriptors(lab)?;
        let what = format!("across nodes, {n_callers} pods, {family:?}, {first} first");
        ensure_all(&what, &short, RATE * SECONDS, Some(RATE))
    });
}

fn long_far_held(n_callers: usize, family: Family) {
    const HELD: usize = 18_000;
    scene::mesh(&plan("ports-far-held"), |lab| {
        lift_the_limit(lab)?;
        let far = family.of(lab.pod("shop/far")?.addresses(), PORT);
        let _serving = serve(lab, &["shop/far".to_owned()], 2)?;
        for first in FIRST {
            let held = Load::new(lab, n_callers, far).hold(HELD, 1000, first, || descriptors(lab))?;
            let what = format!("across nodes, {n_callers} pods, {family:?}, at once, {first} first");
            ensure_all(&what, &held, HELD, None)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "long: 2,000 connections a second from one pod to one port across nodes for 120 s"]
fn long_2000_a_second_across_nodes_the_client_first() {
    long_far_rate(1, "client", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second from one pod to one port across nodes for 120 s"]
fn long_2000_a_second_across_nodes_the_server_first() {
    long_far_rate(1, "server", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second from ten pods into one port across nodes for 120 s"]
fn long_2000_a_second_from_ten_pods_the_client_first() {
    long_far_rate(N_CALLERS, "client", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second from ten pods into one port across nodes for 120 s"]
fn long_2000_a_second_from_ten_pods_the_server_first() {
    long_far_rate(N_CALLERS, "server", Family::V4);
}

#[test]
#[ignore = "long: 2,000 connections a second from one pod to one port across nodes by IPv6 for 120 s"]
fn long_2000_a_second_across_nodes_by_ipv6_the_client_first() {
    long_far_rate(1, "client", Family::V6);
}

#[test]
#[ignore = "long: 2,000 connections a second from ten pods into one port across nodes by IPv6 for 120 s"]
fn long_2000_a_second_from_ten_pods_by_ipv6_the_server_first() {
    long_far_rate(N_CALLERS, "server", Family::V6);
}

#[test]
#[ignore = "long: 18,000 connections at once from one pod to one port across nodes, twice"]
fn long_18_000_at_once_across_nodes() {
    long_far_held(1, Family::V4);
}

#[test]
#[ignore = "long: 18,000 connections at once from ten pods into one port across nodes, twice"]
fn long_18_000_at_once_from_ten_pods() {
    long_far_held(N_CALLERS, Family::V4);
}

#[test]
#[ignore = "long: 18,000 connections at once from one pod to one port across nodes by IPv6, twice"]
fn long_18_000_at_once_across_nodes_by_ipv6() {
    long_far_held(1, Family::V6);
}

#[test]
#[ignore = "long: 18,000 connections at once from ten pods into one port across nodes by IPv6, twice"]
fn long_18_000_at_once_from_ten_pods_by_ipv6() {
    long_far_held(N_CALLERS, Family::V6);
}

/// How many connections the proxies have refused for want of a descriptor.
fn refused(lab: &Lab) -> Result<f64> {
    let mut sum = 0.0;
    for node in ["a", "b"] {
        let metrics = lab.admin(Part::Proxy(node)).metrics()?;
        sum += metrics.sum("millrace_proxy_connections_refused_total", &[("reason", "no_descriptor")]);
    }
    Ok(sum)
}

/// More than a proxy may have descriptors for: by its own count, before the kernel has none left for it.
#[test]
#[ignore = "long: more connections at once across nodes than a proxy has descriptors"]
fn long_what_is_over_a_proxys_descriptors_is_refused_by_name() {
    scene::mesh(&plan("ports-descriptors"), |lab| {
        lift_the_limit(lab)?;
        let far = lab.pod("shop/far")?.at(PORT);
        let _serving = serve(lab, &["shop/far".to_owned()], 2)?;
        let held = Load::new(lab, 2, far).hold(21_000, 1000, "client", || {
            descriptors(lab)?;
            let refused = refused(lab)?;
            println!("  {refused} refused for want of a descriptor");
            ensure!(refused > 0.0, "nothing was refused by name");
            Ok(())
        })?;
        println!("over the limit: {} held, {} failed: {:?}", held.done, held.n_failed(), held.failed);
        ensure!(held.done >= 18_000, "what fits is held: {held:?}");
        // There is room again, and the proxies never lost their footing.
        let after = Load::new(lab, 2, far).short(2000, 1000, "client")?;
        ensure_all("after it", &after, 2000, None)
    });
}
