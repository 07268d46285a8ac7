//! Bodies of any size, and clients and endpoints that are slow, in memory that does not grow with them.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock, pod::BULK, web::crowd::Crowd};
use serde_json::json;

use crate::{
    profile::comes,
    protocols::{all_to, plan, says, serves},
    scene,
};

const NODES: [&str; 2] = ["a", "b"];

/// How long a crowd is left to fill what it can: buffers are full within a second.
const SETTLED: Duration = Duration::from_secs(4);

/// What a proxy may take for one bulk body each way: windows and buffers, not the body.
const MOST_FOR_ONE_KIB: u64 = 64 * 1024;

/// What it may for a crowd, however large: what one workload may have buffered, 128 MiB, and as much again for what the allocator keeps.
const MOST_FOR_A_CROWD_KIB: u64 = 256 * 1024;

/// A line of /proc/<pid>/status in KiB.
fn memory_kib(lab: &Lab, node: &str, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", lab.pid(Part::Proxy(node))?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the kernel says what is resident")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
}

/// What each proxy has resident, and from now on the peak is counted anew.
fn begin(lab: &Lab) -> Result<[u64; 2]> {
    for node in NODES {
        // proc(5): 5 resets the peak.
        fs::write(format!("/proc/{}/clear_refs", lab.pid(Part::Proxy(node))?), "5")?;
    }
    Ok([memory_kib(lab, "a", "VmRSS:")?, memory_kib(lab, "b", "VmRSS:")?])
}

/// By how much each proxy has grown at its peak.
fn grown(lab: &Lab, before: [u64; 2]) -> Result<[u64; 2]> {
    let peak = [memory_kib(lab, "a", "VmHWM:")?, memory_kib(lab, "b", "VmHWM:")?];
    Ok([peak[0].saturating_sub(before[0]), peak[1].saturating_sub(before[1])])
}

fn mesh(name: &str, test: impl FnOnce(&mut Lab) -> Result<()>) {
    scene::mesh(&plan(name), |lab| {
        let _far = serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?;
        lab.apply(&all_to("HTTPRoute", "far", 80))?;
        clock::until(Duration::from_secs(10), "the route is in force", || {
            ensure!(lab.pod("shop/client")?.get("http://web/")?.contains("x-forwarded-for"));
            Ok(())
        })?;
        test(lab)
    });
}

/// So many bytes there, then as many back.
fn transfers(name: &str, n_bytes: u64) {
    mesh(name, |lab| {
        let before = begin(lab)?;
        let count = n_bytes.to_string();
        let began = clock::now();
        let came = says(lab, "shop/client", "probe-http", &["transfer", "web:80", "--up", &count, "--down", &count])?;
        let took = began.elapsed();
        ensure!(came.trim() == count, "{came} of {n_bytes} bytes came back");
        let grown = grown(lab, before)?;
        println!(
            "{n_bytes} bytes there and back in {took:?}: resident before {before:?} KiB, more at its peak {grown:?} KiB"
        );
        ensure!(grown.iter().all(|kib| *kib < MOST_FOR_ONE_KIB), "resident memory is flat: {grown:?} KiB more");
        Ok(())
    });
}

#[test]
fn a_body_of_64_mib_each_way_takes_no_memory_of_its_size() {
    transfers("body", 64 << 20);
}

#[test]
#[ignore = "long: 1 GiB each way, a minute"]
fn a_body_of_1_gib_each_way_takes_no_memory_of_its_size() {
    transfers("gibibyte", 1 << 30);
}

/// So many connections of this kind of slowness: what `look` sees once they have filled what they can, and what they had.
fn crowd<T>(
    lab: &Lab,
    name: &str,
    (slow, count): (&str, usize),
    look: impl FnOnce() -> Result<T>,
) -> Result<(T, Crowd)> {
    let program = lab.binaries().path("probe-http")?.display().to_string();
    let until = lab.directory().join(format!("stop-{name}"));
    let (path, n) = (until.display().to_string(), count.to_string());
    let arguments = [&program, "crowd", "web:80", slow, "--count", &n, "--until", &path];
    let mut crowd = lab.pod("shop/client")?.start(name, &arguments)?;
    crowd.says("open", BULK)?;
    let settled = clock::now() + SETTLED;
    clock::until(SETTLED * 10, "they have filled what they can", || {
        ensure!(clock::now() >= settled);
        Ok(())
    })?;
    let seen = look()?;
    fs::write(&until, "")?;
    crowd.wait(BULK)?;
    let output = crowd.output();
    let said = serde_json::from_str(output.lines().last().context("it says what it had")?)?;
    Ok((seen, said))
}

/// So many connections of each kind of slowness.
fn crowds(name: &str, count: usize) {
    mesh(name, |lab| {
        for slow in ["reader", "sender", "writer"] {
            let before = begin(lab)?;
            let ((now, grown), said) = crowd(lab, slow, (slow, count), || {
                Ok((NODES.map(|node| memory_kib(lab, node, "VmRSS:")), grown(lab, before)?))
            })?;
            println!(
                "{count} slow {slow}s: resident before {before:?} KiB, then {now:?}, more at its peak {grown:?} KiB: {:?} KiB each; {said:?}",
                grown.map(|kib| kib / count as u64),
            );
            ensure!(said.n_open == count, "none is cut: {said:?}");
            ensure!(
                grown.iter().all(|kib| *kib < MOST_FOR_A_CROWD_KIB),
                "at most {MOST_FOR_A_CROWD_KIB} KiB more: {grown:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn fifty_slow_readers_senders_and_writers_take_little_memory() {
    crowds("slow", 50);
}

#[test]
#[ignore = "long: 1,000 connections of each kind of slowness, a minute"]
fn a_thousand_slow_readers_senders_and_writers_take_little_memory() {
    crowds("crowd", 1_000);
}

/// What a workload may have waiting is what its slow readers cost a node, for docs/TUNING.md: fresh proxies for each, three times in turn.
#[test]
#[ignore = "long: 300 slow readers nine times, a minute and a half"]
fn what_a_workload_may_have_buffered_bounds_what_its_slow_readers_cost() {
    const READERS: usize = 300;
    mesh("buffered", |lab| {
        for (round, limit) in (0..3).flat_map(|round| [128_u64, 32, 8].map(|mib| (round, mib << 20))) {
            lab.apply(&json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "NodeProfile", "metadata": {"name": "buffered"},
                "spec": {"workloadLimits": {"maxBufferedBytes": limit}},
            }))?;
            for node in NODES {
                lab.take(Part::Proxy(node))?.stop()?;
                lab.start(Part::Proxy(node))?;
                lab.wait_ready(Part::Proxy(node))?;
                comes(lab, (node, "spec.workloadLimits.maxBufferedBytes"), &limit.to_string())?;
            }
            let before = begin(lab)?;
            let name = format!("crowd-{round}-{limit}");
            let (grown, said) = crowd(lab, &name, ("reader", READERS), || grown(lab, before))?;
            let grown = grown.map(|kib| kib / 1024);
            println!(
                "{} MiB may wait: more at its peak {grown:?} MiB, {} of {READERS} were not cut",
                limit >> 20,
                said.n_open
            );
        }
        Ok(())
    });
}
