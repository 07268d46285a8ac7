//! A workload that keeps two nodes' proxies busy, and what its neighbours on both notice of it.
//!
//! Both of its ends are one thread each, however many connections there are: eighty threads that are ready to run would take the
//! neighbour's turn at the kernel's scheduler, where no proxy has a say. Both are processes of their pods: nobody else's connects are
//! captured, and those of a test's own threads would pass both tunnels by. What it may have of processors is in [`held`](super::held).

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, clock,
    peer::{busy::Busy, latency::Latency},
    process::Process,
};
use serde_json::{Value, json};

use super::{in_lab, neighbour};
use crate::scene::CALL;

/// Where the busy workload's other end listens.
const ECHO: u16 = 8083;

/// An application that sends back what comes, on one thread.
pub(super) fn echo(lab: &Lab, pod: &str) -> Result<Process> {
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let mut process = lab.pod(pod)?.start("echo", &[&program, "app", &format!("[::]:{ECHO}")])?;
    process.says("listening", CALL)?;
    Ok(process)
}

/// Connections that are kept busy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// So many; none at all for 0.
    pub(super) count: usize,
    /// A message on each so often; None: the next as soon as the last one is back.
    pub(super) each: Option<Duration>,
}

/// `shop/near` keeps connections to `shop/far` busy, until it is told to stop.
pub(super) struct Busily {
    process: Process,
    until: PathBuf,
}

impl Busily {
    pub(super) fn begin(lab: &Lab, load: Load) -> Result<Self> {
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("stop-busy");
        let (target, n) = (lab.pod("shop/far")?.at(ECHO).to_string(), load.count.to_string());
        let stop = until.display().to_string();
        let each = load.each.map(|each| each.as_micros().to_string());
        let mut arguments = vec![program.as_str(), "busy", &target, "--count", &n, "--until", &stop];
        arguments.extend(each.iter().flat_map(|each| ["--each-us", each.as_str()]));
        let mut process = lab.pod("shop/near")?.start("busy", &arguments)?;
        process.says("open", CALL * 2)?;
        Ok(Self { process, until })
    }

    /// What it did.
    pub(super) fn end(mut self) -> Result<Busy> {
        std::fs::write(&self.until, "")?;
        ensure!(self.process.wait(CALL * 2)?.success(), "the busy one failed: {}", self.process.errors());
        std::fs::remove_file(&self.until)?;
        Ok(serde_json::from_str(self.process.output().lines().last().context("it says what it did")?)?)
    }
}

/// Calls of the neighbour beside such a load; and how many round trips that made.
pub(super) fn beside(lab: &Lab, load: Load, count: u32, pace: Duration) -> Result<(Latency, u64)> {
    if load.count == 0 {
        return Ok((neighbour(lab, count, pace)?, 0));
    }
    let busy = Busily::begin(lab, load)?;
    let called = neighbour(lab, count, pace);
    let found = busy.end()?;
    let called = called?;
    ensure!(called.failed == 0, "a neighbour's calls fail beside {load:?}: {called:?}");
    Ok((called, found.trips))
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Busy connections of a workload that would have the worker for itself: what is ready of it at once is many quanta of work.
const CROWD: Load = Load { count: 800, each: None };

/// The usual weight, at which a turn is 200 us of work, and one at which it is 20 ms: all that is ready of the crowd goes first.
const TURNS: u32 = 100;
const LONG_TURNS: u32 = 10_000;

/// Has one worker on each node, and all workloads weighed so.
fn weigh(lab: &Lab, weight: u32) -> Result<()> {
    lab.apply(&json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "NodeProfile",
        "metadata": {"name": "turns"},
        "spec": {"proxy": {"workers": 1}, "workloadLimits": {"shareWeight": weight}},
    }))?;
    in_force(lab, "spec.workloadLimits.shareWeight", &weight.to_string())
}

/// Waits until a setting is in force on both nodes.
pub(super) fn in_force(lab: &Lab, field: &str, wanted: &str) -> Result<()> {
    for node in ["a", "b"] {
        clock::until(CALL, &format!("{field} of {node} is {wanted}"), || {
            let status = lab.admin(Part::Agent(node)).json("/status")?;
            let rows = status.pointer("/tuning/settings").and_then(Value::as_array).context("no settings")?;
            let row = rows.iter().find(|row| row["field"] == field);
            ensure!(row.is_some_and(|row| row["in_force"] == *wanted), "{row:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A neighbour's calls beside a crowd, with long turns against usual ones, interleaved: the ratio of its p50, the median of the rounds'.
fn turns_save(lab: &Lab, rounds: usize, count: u32) -> Result<f64> {
    let pace = Duration::from_millis(10);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        weigh(lab, TURNS)?;
        let (with, trips) = beside(lab, CROWD, count, pace)?;
        weigh(lab, LONG_TURNS)?;
        let (without, more) = beside(lab, CROWD, count, pace)?;
        println!(
            "| {round} | turns {} / {}, {trips} trips | long turns {} / {}, {more} trips |",
            with.p50_us, with.p99_us, without.p50_us, without.p99_us
        );
        ratios.push(without.p50_us as f64 / with.p50_us as f64);
    }
    let found = median(ratios);
    println!("with long turns a neighbour's p50 beside {CROWD:?} is {found:.2} times as long");
    Ok(found)
}

/// Processor time that the proxies of both nodes have taken, in hundredths of a second.
fn spent(lab: &Lab) -> Result<[u64; 2]> {
    let of = |node| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", lab.pid(Part::Proxy(node))?))?;
        // After the name in brackets: utime and stime are the 12th and 13th.
        let fields = stat.rsplit_once(')').context("no stat")?.1.split_whitespace();
        Ok(fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
    };
    Ok([of("a")?, of("b")?])
}

/// Whoever began rounds for a crowd begins none when it has gone: an idle worker sleeps.
#[test]
fn a_worker_rests_when_a_crowd_has_gone() {
    in_lab("rest", |lab| {
        let _echo = echo(lab, "shop/far")?;
        weigh(lab, TURNS)?;
        beside(lab, CROWD, 100, Duration::from_millis(10))?;
        clock::until(CALL, "the proxies rest", || {
            let before = spent(lab)?;
            std::thread::sleep(Duration::from_millis(500));
            let after = spent(lab)?;
            let took = [after[0] - before[0], after[1] - before[1]];
            ensure!(took.iter().all(|took| *took < 10), "they take {took:?} hundredths of a second in half of one");
            Ok(())
        })?;
        Ok(())
    });
}

/// How often the work of a workload waited for its turn at its node's proxy.
fn waited(lab: &Lab, node: &str, workload: &str) -> Result<f64> {
    let metrics = lab.admin(Part::Proxy(node)).metrics()?;
    Ok(metrics.sum("millrace_proxy_workload_turns_waited_total", &[("workload", workload)]))
}

/// That the proxies' own work is done in turns is seen by who waits for one, on a machine of any speed: the crowd at both ends, and its
/// neighbours next to never.
#[test]
fn a_crowd_waits_for_its_turns_and_its_neighbours_do_not() {
    in_lab("turns", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let of_all = || -> Result<[f64; 4]> {
            let of = |node, workload| waited(lab, node, workload);
            Ok([of("a", "shop/near")?, of("b", "shop/far")?, of("a", "shop/client")?, of("b", "shop/caller")?])
        };
        weigh(lab, TURNS)?;
        beside(lab, CROWD, 100, Duration::from_millis(10))?;
        let with = of_all()?;
        println!(
            "near and far waited for their turns {} and {} times, client and caller {} and {}",
            with[0], with[1], with[2], with[3]
        );
        ensure!(with[0] > 100.0 && with[1] > 100.0, "the crowd has its turns and no more: it waited {with:?}");
        ensure!(with[2] + with[3] < (with[0] + with[1]) / 10.0, "neighbours wait for their own turns: {with:?}");
        Ok(())
    });
}

/// Both are measured in the same lab, one after the other: it is turns that keep the neighbour's calls short.
#[test]
#[ignore = "long: fifteen seconds of load, for a neighbour's p50 with short turns and long ones; it wants a quiet machine"]
fn short_turns_keep_a_neighbours_calls_short_beside_a_crowd() {
    in_lab("share", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let saved = turns_save(lab, 5, 100)?;
        ensure!(saved > 1.3, "with long turns a neighbour's p50 is {saved:.2} times as long");
        Ok(())
    });
}
