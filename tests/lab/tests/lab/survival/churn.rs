//! Pods that come and go by the thousand: each one's namespace is really gone, and nothing of them is left.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock, comings::Stands};
use serde_json::Value;

use super::load::Callers;
use crate::scene::{self, CALL};

/// Pods of one wave on each of the two nodes.
const WAVE: usize = 15;

/// Short calls a second of each caller meanwhile: some, so that tunnels and stocks are used, and CPU for the churn.
const RATE: u32 = 25;

/// How long all of a wave may take to come, or to be gone, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing happens before memory is looked at.
const IDLE: Duration = Duration::from_secs(60);

/// How long what was used may stay open, as tunnels do that nobody uses: 90 s, and a look each 5 s.
const REST: Duration = Duration::from_secs(120);

/// Descriptors that come and go by themselves: a connection to an admin socket, a file that is being written.
const SLACK: usize = 4;

/// Those of a proxy too: sockets in stock. One that was left of each pod of a wave would be twice as many. Tunnels to pods that are gone
/// are there for 90 s more where nothing could tell their other end: only the long form waits for that.
const STOCKED: usize = WAVE / 2;

fn coming(node: &str) -> Vec<String> {
    (0..WAVE).map(|n| format!("shop/come-{node}{n}")).collect()
}

fn plan() -> Plan {
    let pods = |node: &str, more: [&str; 2]| {
        let later = coming(node).into_iter().map(|name| Pod::new(&name).app("web").later());
        later.chain([Pod::new(more[0]), Pod::new(more[1]).app("web")]).collect::<Vec<_>>()
    };
    Plan::new("churn")
        .node("a", pods("a", ["shop/client", "shop/near"]))
        .node("b", pods("b", ["shop/caller", "shop/far"]))
        .service("shop/web", &[(80, 8080)])
}

/// What a process or a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holds {
    /// Open descriptors, by process.
    descriptors: BTreeMap<String, usize>,
    /// Resident memory in KiB, by process.
    resident: BTreeMap<String, u64>,
    /// Entries of the kernel's tables and pins, by node.
    entries: BTreeMap<String, u64>,
}

impl Holds {
    fn now(lab: &Lab) -> Result<Self> {
        let mut holds = Self::default();
        let parts = ["a", "b"].into_iter().flat_map(|node| [Part::Agent(node), Part::Proxy(node), Part::Holder(node)]);
        for part in parts.chain([Part::Control]) {
            let pid = lab.pid(part)?;
            let name = format!("{part:?}");
            holds.descriptors.insert(name.clone(), fs::read_dir(format!("/proc/{pid}/fd"))?.count());
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
            holds.resident.insert(name, line.trim().trim_end_matches(" kB").parse()?);
        }
        for node in ["a", "b"] {
            let status = lab.admin(Part::Agent(node)).json("/status")?;
            for map in status["maps"].as_array().context("status has maps")? {
                let name = format!("{node} {}", map["map"].as_str().unwrap_or_default());
                holds.entries.insert(name, map["entries"].as_u64().unwrap_or_default());
            }
            for (dir, n) in pins(lab, node)? {
                holds.entries.insert(format!("{node} pins {dir}"), n);
            }
            let workloads = status["workloads"].as_array().map_or(0, Vec::len);
            holds.entries.insert(format!("{node} workloads"), workloads as u64);
        }
        // Connects under way come and go with the load; and who has connected once has a count of them, which goes with the pod.
        for node in ["a", "b"] {
            let entries = |map: &str| holds.entries.get(&format!("{node} {map}")).copied().unwrap_or_default();
            ensure!(entries("PENDING") <= entries("PODS"), "counts of pods that are gone: {:?}", holds.entries);
        }
        holds.entries.retain(|name, _| !name.ends_with("HANDOFFS") && !name.ends_with("PENDING"));
        Ok(holds)
    }

    /// Fails with what there is more than `before` any of them came; of proxies' descriptors, where they are looked at, than when the
    /// first were gone.
    fn is_none_of_theirs(&self, before: &Self, warm: Option<&Self>) -> Result<()> {
        for (what, n) in &self.descriptors {
            let (before, slack) = match (what.starts_with("Proxy"), warm) {
                (false, _) => (before, SLACK),
                (true, Some(warm)) => (warm, SLACK + STOCKED),
                (true, None) => continue,
            };
            let before = before.descriptors.get(what).copied().unwrap_or_default();
            ensure!(*n <= before + slack, "{what} has {n} descriptors, {before} before");
        }
        for (what, n) in &self.entries {
            let before = before.entries.get(what).copied().unwrap_or_default();
            ensure!(*n == before, "{what}: {n}, {before} before");
        }
        Ok(())
    }
}

/// How many pins of each kind a node has.
fn pins(lab: &Lab, node: &str) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for set in fs::read_dir(lab.bpffs(node)?.join("millrace").join(node))? {
        for pin in fs::read_dir(set?.path())? {
            let name = pin?.file_name().to_string_lossy().into_owned();
            let kind = name.split_once('_').map_or("maps", |(kind, _)| kind).to_owned();
            *found.entry(kind).or_default() += 1;
        }
    }
    Ok(found)
}

/// A wave comes, is called, and goes, on both nodes.
fn wave(lab: &Lab, life: u32) -> Result<()> {
    let names = [coming("a"), coming("b")].concat();
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let mut servers = Vec::new();
    for name in &names {
        lab.create_pod(name, life)?;
        let mut server = lab.pod(name)?.start("app", &[&program, "app", "[::]:8080"])?;
        server.says("listening", CALL)?;
        servers.push(server);
        lab.tell_pod(name, life, Stands::Ready)?;
    }
    clock::until(PATIENCE, "all of a wave are captured, and every node knows", || lab.settle())?;
    // One of each node is a caller too: it has tunnels, and a stock of sockets.
    for (name, to) in [(&names[0], "shop/far"), (&names[WAVE], "shop/near")] {
        let to = lab.pod(to)?.at(8080).to_string();
        // It ends at once: that file is there.
        let load = [&program, "load", &to, "--rate", "50", "--long", "2", "--until", "/dev/null"];
        let said = lab.pod(name)?.run(&load)?.ok()?;
        let said: Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        ensure!(said["n_failed"] == 0 && said["n_cut"] == 0, "{name} calls {to}: {said}");
    }
    for (name, server) in names.iter().zip(servers) {
        lab.tell_pod(name, life, Stands::Going)?;
        server.stop()?;
        lab.delete_pod(name, life)?;
    }
    clock::until(PATIENCE, "every namespace of a wave is really gone", || {
        for name in &names {
            ensure!(!lab.has_namespace(name)?, "{name} is held by somebody");
        }
        Ok(())
    })?;
    Ok(())
}

fn churn(waves: u32, looks_at_memory: bool) {
    scene::mesh(&plan(), |lab| {
        for node in ["a", "b"] {
            lab.start(Part::Holder(node))?;
        }
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let mut stays = Vec::new();
        for server in ["shop/near", "shop/far"] {
            let mut process = lab.pod(server)?.start("app", &[&program, "app", "[::]:8080"])?;
            process.says("listening", CALL)?;
            stays.push(process);
        }
        let callers = Callers::start(lab, &["web:80".to_owned()], RATE, 4)?;
        let before = Holds::now(lab)?;
        // The first wave warms up: memory that is taken once and kept, and the stocks and tunnels of proxies, are there then.
        wave(lab, 1)?;
        let warm = if looks_at_memory { Some(settled(lab, IDLE)?) } else { None };
        for life in 2..=waves {
            wave(lab, life)?;
        }
        let n_pods = (waves as usize) * WAVE * 2;
        let (mut last, mut late) = (Holds::default(), String::new());
        let began = clock::now();
        let looked = clock::until(REST, "nothing is left of what went", || {
            last = Holds::now(lab)?;
            last.is_none_of_theirs(&before, warm.as_ref()).inspect_err(|why| late = format!("the last to go: {why}"))
        });
        println!("{n_pods} pods came and went; before: {before:?}\nafter: {last:?}");
        looked?;
        println!("nothing of them was left after {:?}; {late}", clock::now().duration_since(began));
        if let Some(warm) = warm {
            last = settled(lab, IDLE)?;
            println!("after, and 60 s idle: {last:?}, after the first wave {warm:?}");
            for (what, kib) in &last.resident {
                let before = warm.resident.get(what).copied().unwrap_or_default();
                ensure!(*kib * 10 <= before * 11, "{what} has {kib} KiB, {before} before: more than a tenth more");
            }
        }
        let load = callers.end()?;
        ensure!(load.n_cut == 0, "no long connection of those who stay is cut: {:#?}", load.cut);
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        for failure in &load.failed {
            *kinds.entry(&failure.what).or_default() += 1;
        }
        println!("meanwhile {} calls, {} failed: {kinds:?}", load.calls, load.n_failed);
        Ok(())
    });
}

/// What is held after nothing has happened for so long, but for the light load.
fn settled(lab: &Lab, idle: Duration) -> Result<Holds> {
    let until = clock::now() + idle;
    clock::until(idle * 2, "it is idle", || {
        ensure!(clock::now() >= until);
        Ok(())
    })?;
    Holds::now(lab)
}

#[test]
fn pods_that_came_and_went_leave_nothing() {
    churn(2, false);
}

#[test]
#[ignore = "long: a thousand pods, ten minutes"]
fn a_thousand_pods_that_came_and_went_leave_nothing() {
    churn(35, true);
}
