//! What a same-node connect costs with the mesh and without: time of the kernel's programs, and of the whole.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, peer::Connects};

use crate::scene;

/// Connects per measurement: program times are steady from a few hundred on.
const CONNECTS: u32 = 3_000;

/// A bound that tells a mistake (a proxy, a stall) from noise: on a quiet machine it is 3 µs for both ends.
const MOST_NS_PER_CONNECT: f64 = 20_000.0;

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Runs and nanoseconds, by type of program.
type Programs = BTreeMap<&'static str, (f64, f64)>;

/// Runs and nanoseconds of node a's programs by type, as the kernel shows them beside the agent's descriptors.
fn programs(pid: u32) -> Result<Programs> {
    let mut found = Programs::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default(); // A descriptor may close meanwhile.
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        if let (Some(kind), Some(count), Some(time)) = (field("prog_type"), field("run_cnt"), field("run_time_ns")) {
            // Numbers of enum bpf_prog_type in include/uapi/linux/bpf.h.
            let name = match kind {
                "13" => "sock_ops",
                "18" => "cgroup_sock_addr",
                "30" => "sk_lookup",
                _ => "other",
            };
            let sums = found.entry(name).or_default();
            *sums = (sums.0 + count.parse::<f64>()?, sums.1 + time.parse::<f64>()?);
        }
    }
    Ok(found)
}

fn per_connect_us(done: &Connects) -> f64 {
    done.seconds * 1e6 / f64::from(CONNECTS)
}

/// One after the other, so that what is measured is a connect and not the queue for the processor.
fn connect(lab: &Lab, target: &str) -> Result<Connects> {
    let arguments = ["connects", target, "--count", &CONNECTS.to_string(), "--threads", "1"];
    let done: Connects = lab.pod("shop/client")?.peer(millrace_lab::pod::BULK, &arguments)?;
    ensure!(done.errors.is_empty(), "every connect to {target} succeeds: {done:?}");
    Ok(done)
}

#[test]
fn a_same_node_connect_costs_microseconds_and_no_proxy() {
    let plan = scene::two_nodes("cost");
    scene::plain(&plan, |lab| {
        let _serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let near = lab.pod("shop/near")?.at(8080).to_string();
        println!("without the mesh, by address: {:.1} µs per connection", per_connect_us(&connect(lab, &near)?));
        lab.start_mesh()?;
        let before = fs::read_to_string(STATS).context(STATS)?;
        fs::write(STATS, "1")?;
        let measured = measure(lab, &[("by address", &near), ("by service", "web:80")]);
        fs::write(STATS, before.trim())?;
        measured
    });
}

fn measure(lab: &Lab, ways: &[(&str, &str)]) -> Result<()> {
    let _far = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
    let pid = lab.pid(Part::Agent("a"))?;
    for (way, target) in ways {
        let bytes = |lab: &Lab| -> Result<f64> {
            Ok(lab.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_bytes_total", &[]))
        };
        let (before, bytes_before) = (programs(pid)?, bytes(lab)?);
        let done = connect(lab, target)?;
        let (after, carried) = (programs(pid)?, bytes(lab)? - bytes_before);
        println!(
            "with the mesh, {way}: {:.1} µs per connection; {carried} bytes through the proxy",
            per_connect_us(&done)
        );
        println!("  {:<16} {:>6} {:>10} {:>15}", "program", "runs", "ns per run", "ns per connect");
        let mut total = 0.0;
        for (name, (runs, ns)) in &after {
            let (runs_before, ns_before) = before.get(name).context("a program is new")?;
            let (runs, ns) = (runs - runs_before, ns - ns_before);
            if runs > 0.0 {
                println!("  {name:<16} {runs:>6} {:>10.0} {:>15.0}", ns / runs, ns / f64::from(CONNECTS));
            }
            total += ns / f64::from(CONNECTS);
        }
        println!("  {:<16} {:>6} {:>10} {total:>15.0}", "all", "", "");
        if *way == "by address" {
            ensure!(carried == 0.0, "a same-node connection passes no proxy: {carried} bytes did");
            ensure!(total > 0.0 && total < MOST_NS_PER_CONNECT, "{total:.0} ns of programs per connect");
        }
    }
    Ok(())
}
