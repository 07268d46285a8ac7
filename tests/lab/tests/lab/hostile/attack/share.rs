//! One workload that takes ten times its share of two nodes' proxies, and what its neighbours on both notice of it.
//!
//! Its share is eight connections that are always busy: with the neighbour's calls beside them both cores are spent already. Ten times
//! as many spend no more of the machine; what they could take is the neighbour's turn in the proxies, and that is what is measured. So
//! both of its ends are one thread each, however many connections there are: eighty threads that are ready to run would take the
//! neighbour's turn at the kernel's scheduler, where no proxy has a say. Both are processes of their pods: nobody else's connects are
//! captured, and those of a test's own threads would pass both tunnels by.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, clock,
    peer::{busy::Busy, latency::Latency},
    process::Process,
};
use serde_json::{Value, json};

use super::{in_lab, neighbour};
use crate::scene::CALL;

/// Busy connections of a workload that takes its share.
const SHARE: usize = 8;

/// Where the busy workload's other end listens.
const ECHO: u16 = 8083;

/// An application that sends back what comes, on one thread.
fn echo(lab: &Lab, pod: &str) -> Result<Process> {
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let mut process = lab.pod(pod)?.start("echo", &[&program, "app", &format!("[::]:{ECHO}")])?;
    process.says("listening", CALL)?;
    Ok(process)
}

/// Calls of the neighbour while `shop/near` keeps so many connections to `shop/far` busy; and how many round trips those made.
fn beside(lab: &Lab, n_busy: usize, count: u32, pace: Duration) -> Result<(Latency, u64)> {
    if n_busy == 0 {
        return Ok((neighbour(lab, count, pace)?, 0));
    }
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let until = lab.directory().join("stop-busy");
    let (target, n) = (lab.pod("shop/far")?.at(ECHO).to_string(), n_busy.to_string());
    let arguments = [&program, "busy", &target, "--count", &n, "--until", &until.display().to_string()];
    let mut busy = lab.pod("shop/near")?.start("busy", &arguments)?;
    busy.says("open", CALL * 2)?;
    let called = neighbour(lab, count, pace);
    std::fs::write(&until, "")?;
    ensure!(busy.wait(CALL * 2)?.success(), "the busy one failed: {}", busy.errors());
    std::fs::remove_file(&until)?;
    let said = busy.output();
    let found: Busy = serde_json::from_str(said.lines().last().context("it says what it did")?)?;
    let called = called?;
    ensure!(called.failed == 0, "a neighbour's calls fail beside {n_busy} busy connections: {called:?}");
    Ok((called, found.trips))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Ten times its share against its share, interleaved: ratios of the neighbour's p50 and p99, the median of the rounds' each.
fn ratios(lab: &Lab, rounds: usize, count: u32) -> Result<[f64; 2]> {
    let pace = Duration::from_millis(5);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (alone, _) = beside(lab, 0, count, pace)?;
        let (share, trips) = beside(lab, SHARE, count, pace)?;
        let (ten, more) = beside(lab, 10 * SHARE, count, pace)?;
        println!(
            "| {round} | alone {} / {} | share {} / {}, {trips} trips | ten times {} / {}, {more} trips |",
            alone.p50_us, alone.p99_us, share.p50_us, share.p99_us, ten.p50_us, ten.p99_us
        );
        p50.push(ten.p50_us as f64 / share.p50_us as f64);
        p99.push(ten.p99_us as f64 / share.p99_us as f64);
    }
    let found = [median(p50), median(p99)];
    println!("ten times the share moves the neighbour's p50 by {:.2}, its p99 by {:.2}", found[0], found[1]);
    Ok(found)
}

/// Busy connections of a workload that would have the worker for itself: what is ready of it at once is many quanta of work.
const CROWD: usize = 800;

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
    let wanted = weight.to_string();
    for node in ["a", "b"] {
        clock::until(CALL, &format!("{node} weighs all by {weight}"), || {
            let status = lab.admin(Part::Agent(node)).json("/status")?;
            let rows = status.pointer("/tuning/settings").and_then(Value::as_array).context("no settings")?;
            let row = rows.iter().find(|row| row["field"] == "spec.workloadLimits.shareWeight");
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
    println!("with long turns a neighbour's p50 beside {CROWD} busy connections is {found:.2} times as long");
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

#[test]
#[ignore = "long: a minute of load in seven rounds, for the neighbours' p99; it wants a quiet machine"]
fn a_workload_at_ten_times_its_share_moves_its_neighbours_p99_by_less_than_half() {
    in_lab("shares", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let [_, p99] = ratios(lab, 7, 600)?;
        ensure!(p99 < 1.5, "a neighbour's p99 moves by {p99:.2}");
        Ok(())
    });
}
