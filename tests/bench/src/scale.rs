//! A large mesh: how long until one endpoint's change is everywhere, and what it takes to hold.
//!
//! The control plane, two agents and their kernels are real; 98 further nodes join and subscribe over real mTLS, and decode what
//! comes, but have no kernel. All share this machine's cores, which 100 nodes would not.

mod node;
mod stages;
pub mod world;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock::until, mesh::CONTROL_PORT, plan::WIRE};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, mpsc::error::TryRecvError};

use crate::{
    clock, console,
    figure::{Figure, Goal},
    machine::{Cpu, Memory},
    report::{Table, plain},
    stats,
};

use node::{Arrived, Joining};
use stages::Sums;
use world::{CHANGING, LARGE, Size};

/// Lone changes: enough for a p99 that is not the most.
const LONE: usize = 100;

/// Between two lone changes: the one before has settled.
const APART: Duration = Duration::from_millis(350);

/// Changes at the rate, in all, and how many a second.
const STEADY: usize = 500;
/// How many a second.
const RATE: u32 = 50;

/// How often the control plane is asked what the real nodes have applied: what is measured is late by half of it.
const LOOK: Duration = Duration::from_millis(5);

/// How long all may take to stand.
const READY: Duration = Duration::from_secs(240);

/// How long a change may take before it counts as lost.
const LOST: Duration = Duration::from_secs(30);

/// Nodes that join at a time: half of what the control plane takes from one address.
const JOINS: usize = 16;

/// Generations that wait to be noted: some for each node.
const QUEUE: usize = 4096;

/// The names of the figures here.
pub const NAMES: [&str; 6] =
    ["scale.compile", "scale.diff", "scale.fanout", "scale.apply", "scale.maps", "scale.memory"];

/// What the mesh is asked to do in time.
const REQUIRED_MS: f64 = 200.0;

/// What is aimed at for a lone change, and at the rate.
const LONE_AIM_MS: f64 = 50.0;
/// At the rate.
const STEADY_AIM_MS: f64 = 150.0;

/// When each change was written, and when it was where.
#[derive(Debug, Default)]
struct Times {
    written: BTreeMap<u16, Instant>,
    /// By change, the generation it came with.
    generations: BTreeMap<u16, u64>,
    /// By generation, when the last node without a kernel had it.
    decoded: BTreeMap<u64, (usize, Instant)>,
    /// What the real nodes had applied, and when that was seen first.
    applied: Vec<(u64, Instant)>,
}

impl Times {
    fn note(&mut self, arrived: Arrived) {
        for change in arrived.changes {
            self.generations.entry(change).or_insert(arrived.generation);
        }
        let (count, last) = self.decoded.entry(arrived.generation).or_insert((0, arrived.at));
        *count += 1;
        *last = (*last).max(arrived.at);
    }

    /// How long each change took, in milliseconds: until the last node had decoded it, and until it was in the last real
    /// node's kernel too.
    fn took(&self) -> Result<Vec<[f64; 2]>> {
        let ms = |since: Instant, until: Instant| until.saturating_duration_since(since).as_secs_f64() * 1e3;
        let mut all = Vec::new();
        for (change, written) in &self.written {
            let generation = self.generations.get(change).with_context(|| format!("change {change} came nowhere"))?;
            let (_, decoded) = self.decoded.get(generation).context("a generation came")?;
            let applied = self.applied.iter().find(|(applied, _)| applied >= generation);
            let (_, applied) = applied.with_context(|| format!("change {change} is in no kernel"))?;
            all.push([ms(*written, *decoded), ms(*written, (*applied).max(*decoded))]);
        }
        Ok(all)
    }
}

/// Figures, and tables beside them.
pub type Found = (Vec<Figure>, Vec<Table>);

/// The figures of a large mesh, and its tables.
pub fn run() -> Result<Found> {
    let mut lab = Lab::up(&Plan::new("scale").node("a", [Pod::new("shop/a")]).node("b", [Pod::new("shop/b")]))?;
    for (name, text) in LARGE.files() {
        lab.manifests().write(&name, &text)?;
    }
    console::progress("scale: the control plane reads 60,000 objects");
    let begun = clock::now();
    lab.start(Part::Control)?;
    lab.wait_ready(Part::Control)?;
    let read = begun.elapsed();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let joining = joinings(&lab, LARGE)?;
    let place = lab.place("wire")?;
    // The runtime's threads are in the wire's namespace, and end with this process.
    let followers = thread::spawn(move || {
        let ended = place.inside(|| follow_all(joining, sender));
        console::progress(&format!("scale: a node without a kernel ended: {ended:?}"));
    });
    for node in ["a", "b"] {
        lab.start(Part::Agent(node))?;
        lab.start(Part::Proxy(node))?;
    }
    let mut times = Watch { lab: &lab, receiver, times: Times::default() };
    console::progress("scale: 98 nodes join");
    times.until_all_stand(begun)?;
    let stands = begun.elapsed();
    let mut figures = Vec::new();
    for (aim, case, n, apart) in [
        (LONE_AIM_MS, "a lone change", LONE, APART),
        (STEADY_AIM_MS, "50 changes/s", STEADY, Duration::from_secs(1) / RATE),
    ] {
        console::progress(&format!("scale, {case}: {n} changes"));
        let (before, cpu) = (Sums::now(&lab)?, Cpu::now()?);
        let took = times.changes(n, apart)?;
        let used = Cpu::now()?.since(cpu);
        let note = format!("the machine was {:.0} % busy, steal {:.1} %", used.share() * 100.0, used.stolen() * 100.0);
        figures.extend(figures_of((case, aim), &took).into_iter().map(|figure| figure.note(&note)));
        figures.extend(Sums::now(&lab)?.figures_since(before, case));
    }
    figures.sort_by_key(|figure| NAMES.iter().position(|name| *name == figure.name));
    let (of_memory, memory) = memory(&lab, read, stands)?;
    figures.extend(of_memory);
    let tables = vec![memory, stages(&lab)?];
    ensure!(!followers.is_finished(), "the nodes that have no kernel ended");
    Ok((figures, tables))
}

fn figures_of((case, aim): (&str, f64), took: &[[f64; 2]]) -> Vec<Figure> {
    let column = |index: usize| took.iter().filter_map(|both| both.get(index)).copied().collect::<Vec<f64>>();
    let (decoded, applied) = (column(0), column(1));
    let figure = |name: &str, samples: &[f64], share: f64, goal: Goal| {
        let value = stats::percentile(samples, share);
        let ends = stats::extremes(samples);
        Figure { rounds: samples.len(), min: ends.low, max: ends.high, ..Figure::alone(name, "ms", goal, &[value]) }
    };
    let none = Goal::none(crate::figure::Better::Lower);
    vec![
        figure("scale.apply", &applied, 0.99, Goal::at_most(REQUIRED_MS, aim))
            .case(&format!("{case}: in the last node's kernel, p99")),
        figure("scale.apply", &applied, 0.5, none).case(&format!("{case}: in the last node's kernel, p50")),
        figure("scale.fanout", &decoded, 0.99, none).case(&format!("{case}: with the last of 98 nodes, p99")),
        figure("scale.fanout", &decoded, 0.5, none).case(&format!("{case}: with the last of 98 nodes, p50")),
    ]
}

fn joinings(lab: &Lab, size: Size) -> Result<Vec<Joining>> {
    let address = SocketAddr::new(WIRE.v4.into(), CONTROL_PORT);
    let (mut all, joins) = (Vec::new(), Arc::new(Semaphore::new(JOINS)));
    for number in 0..size.nodes {
        let body = json!({"node": world::node(number)}).to_string();
        let answer = lab.admin(Part::Control).request("POST", "/tokens", &body)?;
        let said: serde_json::Value = serde_json::from_str(&answer.body)?;
        let token = said.get("token").and_then(serde_json::Value::as_str).context("control gives no token")?.to_owned();
        let pods = size.all_pods().filter(|pod| pod.node == number).collect();
        all.push(Joining { number, token, address, pods, joins: joins.clone() });
    }
    Ok(all)
}

fn follow_all(joining: Vec<Joining>, arrived: mpsc::Sender<Arrived>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for joining in joining {
            let arrived = arrived.clone();
            all.spawn(Box::pin(node::follow(joining, arrived)));
        }
        drop(arrived);
        match all.join_next().await {
            Some(ended) => ended?,
            None => Ok(()),
        }
    })
}

struct Watch<'l> {
    lab: &'l Lab,
    receiver: mpsc::Receiver<Arrived>,
    times: Times,
}

impl Watch<'_> {
    /// What the two real nodes have both applied, noted with the time.
    fn look(&mut self) -> Result<u64> {
        // One that is busy with 60,000 objects answers late: then nothing new is known.
        let status = self.lab.admin(Part::Control).json("/status").unwrap_or_default();
        let of = |node: &str| status.pointer(&format!("/nodes/{node}/applied")).and_then(serde_json::Value::as_u64);
        let known = self.times.applied.last().map_or(0, |(last, _)| *last);
        let applied = of("a").unwrap_or_default().min(of("b").unwrap_or_default()).max(known);
        if self.times.applied.last().is_none_or(|(last, _)| *last < applied) {
            self.times.applied.push((applied, clock::now()));
        }
        loop {
            match self.receiver.try_recv() {
                Ok(arrived) => self.times.note(arrived),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("a node without a kernel ended; see above"),
            }
        }
        Ok(applied)
    }

    /// Until every node has the generation that the control plane has, and it stays so.
    fn until_all_stand(&mut self, begun: Instant) -> Result<()> {
        let mut still = 0;
        while begun.elapsed() < READY {
            let applied = self.look()?;
            let everywhere = self.times.decoded.get(&applied).is_some_and(|(count, _)| *count == LARGE.nodes);
            let newest = self.times.decoded.keys().next_back().is_some_and(|newest| *newest <= applied);
            still = if everywhere && newest { still + 1 } else { 0 };
            if still >= 10 {
                return Ok(());
            }
            thread::sleep(LOOK * 20);
        }
        let seen: Vec<_> = self.times.decoded.iter().rev().take(3).map(|(g, (n, _))| (*g, *n)).collect();
        bail!("not every node stands within {READY:?}: {:?}, {seen:?}", self.times.applied.last())
    }

    /// Makes so many changes, so far apart, and says how long each took.
    fn changes(&mut self, n: usize, apart: Duration) -> Result<Vec<[f64; 2]>> {
        self.times.written.clear();
        self.times.generations.clear();
        let begun = clock::now();
        for number in 0..n {
            let id = u16::try_from(number + 1)?;
            let (name, text) = world::slice(number % CHANGING, id);
            self.times.written.insert(id, clock::now());
            self.lab.manifests().write(&name, &text)?;
            let next = begun + apart * u32::try_from(number + 1)?;
            while clock::now() < next {
                self.look()?;
                thread::sleep(LOOK.min(next.saturating_duration_since(clock::now())));
            }
        }
        let (took, _) = until(LOST, "every change is everywhere", || {
            self.look()?;
            self.times.took()
        })?;
        Ok(took)
    }
}

/// Resident memory, and the time to begin with.
fn memory(lab: &Lab, read: Duration, stands: Duration) -> Result<(Vec<Figure>, Table)> {
    let (mut figures, mut rows) = (Vec::new(), Vec::new());
    for (what, part) in [("control", Part::Control), ("agent a", Part::Agent("a")), ("proxy a", Part::Proxy("a"))] {
        let Memory { resident, proportional } = Memory::of(lab.pid(part)?)?;
        let none = Goal::none(crate::figure::Better::Lower);
        figures.push(Figure::alone("scale.memory", "MiB", none, &[resident]).case(what));
        rows.push(vec![what.to_owned(), plain(resident), plain(proportional)]);
    }
    let title = format!(
        "scale.memory: {} services, {} workloads, {} nodes; read in {:.1} s, everywhere in {:.1} s",
        LARGE.namespaces * LARGE.services + CHANGING,
        LARGE.n_pods() + 2,
        LARGE.nodes + 2,
        read.as_secs_f64(),
        stands.as_secs_f64(),
    );
    let columns = ["process", "resident MiB", "its share MiB"].map(str::to_owned).to_vec();
    Ok((figures, Table { title, columns, rows }))
}

/// What the control plane and the agent say of their own stages: sums and counts of their histograms.
fn stages(lab: &Lab) -> Result<Table> {
    let mut rows = Vec::new();
    for (who, part) in [("control", Part::Control), ("agent a", Part::Agent("a"))] {
        let metrics = lab.admin(part).metrics()?;
        for name in metrics.names().iter().filter(|name| name.ends_with("_seconds_sum")) {
            let (sum, count) = (metrics.sum(name, &[]), metrics.sum(&name.replace("_sum", "_count"), &[]));
            if count > 0.0 {
                rows.push(vec![
                    format!("{who} {}", name.trim_end_matches("_sum")),
                    plain(count),
                    plain(sum / count * 1e3),
                ]);
            }
        }
    }
    let columns = ["stage", "times", "mean ms"].map(str::to_owned).to_vec();
    Ok(Table { title: "scale: stages".to_owned(), columns, rows })
}
