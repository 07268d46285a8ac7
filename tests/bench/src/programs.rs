//! What each kernel program costs on each path, by the kernel's own count, while a load runs through the real mesh.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::Lab;
use serde_json::Value;

use crate::{
    console,
    load::Load,
    report::{Table, plain},
    serve::ECHO,
    stage::{Route, Stage},
};

/// The name of the table, as `--only` takes it.
pub const NAME: &str = "kernel.programs";

/// Has the kernel count; costs each run some 30 ns, which are in the figures.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Load before anything is counted, and how long is counted: some thousand connections on each path.
const TIMES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1500)];

/// A program's runs and nanoseconds so far.
type Costs = BTreeMap<String, (f64, f64)>;

/// Counts while this lives, and puts back what was.
struct Counting(String);

impl Counting {
    fn begin() -> Result<Self> {
        let before = fs::read_to_string(STATS).context(STATS)?;
        fs::write(STATS, "1").context(STATS)?;
        Ok(Self(before.trim().to_owned()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Left on it costs 30 ns a run, and nothing else.
        fs::write(STATS, &self.0).unwrap_or_default();
    }
}

/// The table.
pub fn table(stage: &Stage) -> Result<Table> {
    let _counting = Counting::begin()?;
    let paths = [
        ("same node, by pod address", Route::NearMesh, "a"),
        ("same node, by service", Route::NearService, "a"),
        ("to another node: the caller's", Route::Mesh, "a"),
        ("to another node: the target's", Route::Mesh, "b"),
    ];
    let mut rows = Vec::new();
    for (path, route, node) in paths {
        console::progress(&format!("{NAME}: {path}"));
        let before = costs(stage.mesh(), node)?;
        let measured = stage.run(route, ECHO, Load::Short { at_once: 16 }, TIMES)?;
        let after = costs(stage.mesh(), node)?;
        // The warm-up's connections are counted too: by the kernel, not by the load.
        let n_connections = measured.operations * (TIMES[0] + TIMES[1]).as_secs_f64() / measured.seconds;
        for (program, (runs, ns)) in &after {
            let (runs_before, ns_before) = before.get(program).copied().unwrap_or_default();
            let (runs, ns) = (runs - runs_before, ns - ns_before);
            if runs > 0.0 {
                let per_run = plain(ns / runs);
                let cells = [path, program, &per_run, &plain(runs / n_connections), &plain(ns / n_connections)];
                rows.push(cells.map(str::to_owned).to_vec());
            }
        }
    }
    let columns = ["path", "program", "ns a run", "runs a connection", "ns a connection"].map(str::to_owned).to_vec();
    Ok(Table { title: format!("{NAME}: connect, 64 B echo, close, 16 at once"), columns, rows })
}

/// Of the programs of a node, by the links that it has pinned.
fn costs(lab: &Lab, node: &str) -> Result<Costs> {
    let pins = lab.directory().join(node).join("bpf/millrace").join(node);
    let mut programs = BTreeMap::new();
    for version in fs::read_dir(&pins).with_context(|| pins.display().to_string())? {
        for pin in fs::read_dir(version?.path())? {
            let path = pin?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !(name.starts_with("link_") || name.starts_with("lookup_")) {
                continue;
            }
            let link = bpftool(&["link", "show", "pinned", &path.display().to_string()])?;
            let id = link.get("prog_id").and_then(Value::as_u64).context("a link has a program")?;
            let program = bpftool(&["prog", "show", "id", &id.to_string()])?;
            let number = |key: &str| program.get(key).and_then(Value::as_f64).unwrap_or_default();
            let name = program.get("name").and_then(Value::as_str).context("a program has a name")?.to_owned();
            // Every pod's link leads to the one look-up program: by its id it is counted once.
            programs.insert(id, (name, number("run_cnt"), number("run_time_ns")));
        }
    }
    let mut costs = Costs::new();
    for (name, runs, ns) in programs.into_values() {
        let sum = costs.entry(name).or_default();
        *sum = (sum.0 + runs, sum.1 + ns);
    }
    Ok(costs)
}

fn bpftool(arguments: &[&str]) -> Result<Value> {
    let said =
        Command::new("bpftool").arg("--json").args(arguments).output().context("bpftool: `cargo xtask setup`")?;
    ensure!(said.status.success(), "bpftool {}: {}", arguments.join(" "), String::from_utf8_lossy(&said.stderr));
    Ok(serde_json::from_slice(&said.stdout)?)
}
