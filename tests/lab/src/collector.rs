//! Builds and runs a collector of spans: the OpenTelemetry collector's own receivers, from Go modules (`tests/lab/collector`). Go keeps
//! what it built: the first build takes half a minute, the next one less than a second.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Lab, pod::CALL, process::Process};

/// A Go that has nothing built yet, on a machine that is busy.
const BUILT: Duration = Duration::from_secs(300);

/// A collector at work.
#[derive(Debug)]
pub struct Collector(Process);

/// A span that a collector took.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// By which of its receivers: `otlp`, `zipkin`.
    pub receiver: String,
    /// Whose it is: `service.name` and so on.
    pub resource: Map<String, Value>,
    /// The trace, in hexadecimal letters.
    pub trace: String,
    /// The span.
    pub span: String,
    /// The span above it; empty for none.
    pub parent: String,
    /// `Client`, `Server`.
    pub kind: String,
    /// What was done.
    pub name: String,
    /// How long it took.
    pub micros: i64,
    /// `Unset`, `Ok`, `Error`.
    pub status: String,
    /// What went wrong.
    pub message: String,
    /// What else is told.
    pub attributes: Map<String, Value>,
}

impl Collector {
    /// Starts one in a pod, on the ports that OTLP (4317, 4318) and Zipkin (9411) have.
    pub fn start(lab: &Lab, pod: &str) -> Result<Self> {
        let program = build(lab.binaries().directory())?.display().to_string();
        let mut process = lab.pod(pod)?.start("collector", &[&program])?;
        process.says("listening", CALL)?;
        Ok(Self(process))
    }

    /// What it took so far.
    pub fn spans(&self) -> Vec<Span> {
        self.0.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Ends it, with nothing more said to anybody.
    pub fn kill(self) -> Result<()> {
        self.0.kill()
    }
}

/// The collector's program, built if its sources are not those of the last build.
fn build(binaries: &Path) -> Result<PathBuf> {
    let target = binaries.parent().context("programs lie in a folder of cargo's")?;
    let built = target.join("lab").join("collector");
    let go = go(target)?;
    let mut command = Command::new(go);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("collector"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .args(["build", "-p", "2", "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", "-s -w", "-o"])
        .arg(&built)
        .arg(".");
    crate::process::run(command, BUILT)?.ok().context("go builds tests/lab/collector")?;
    Ok(built)
}

/// As xtask finds it: in `PATH`, where its own installer puts it, or where setup fetched it.
fn go(target: &Path) -> Result<PathBuf> {
    let fetched = ["cluster/go/go/bin/go", "cluster/go/bin/go"].map(|path| target.join(path));
    let known = ["go", "/usr/local/go/bin/go"].map(PathBuf::from);
    let runs = |go: &PathBuf| Command::new(go).arg("version").output().is_ok_and(|output| output.status.success());
    known.into_iter().chain(fetched).find(runs).context("there is no Go: `cargo xtask setup` fetches it")
}
