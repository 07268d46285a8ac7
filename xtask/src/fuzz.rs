//! Builds the fuzz targets with coverage counters and runs each for a bounded time from its committed seeds.
//!
//! Works with the stable compiler and without cargo-fuzz: LLVM's coverage pass is reached by stable flags, and libFuzzer
//! is compiled from its crate. What is left out is AddressSanitizer, which needs a nightly; the parsers hold no unsafe code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    config::Config,
    console, setup,
    steps::{Steps, Tally},
};

/// How long each target runs in CI: enough for a few hundred thousand inputs of each on two cores.
pub(crate) const SECONDS: u64 = 20;

/// Beyond the time asked for, what a target may take to read its seeds and to end.
const SLACK: Duration = Duration::from_secs(120);

/// One input that takes longer than this, in seconds, is a finding.
const SLOWEST: &str = "-timeout=5";

/// An input that makes a parser hold more than this, in MB, is a finding.
const LARGEST: &str = "-rss_limit_mb=1024";

/// Counters on every edge, and the table that maps them to code: what libFuzzer needs to see new ground. Only the last
/// three are LLVM's own options; the spelling is that of cargo-fuzz.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Runs all targets, or one.
pub(crate) fn run(config: &Config, seconds: u64, target: Option<&str>) -> Result<()> {
    setup::quietly(config)?;
    let mut done = Steps::default();
    steps(config, seconds, target, &mut done);
    done.finish()
}

/// Builds and runs the targets as steps.
pub(crate) fn steps(config: &Config, seconds: u64, target: Option<&str>, steps: &mut Steps) {
    let Some(targets) = steps.run("build the fuzz targets", || build(config)) else { return };
    for one in targets.iter().filter(|one| target.is_none_or(|wanted| wanted == one.name)) {
        steps.count(&format!("fuzz {} for {seconds} s", one.name), || fuzz(config, one, seconds));
    }
}

struct Target {
    name: String,
    program: PathBuf,
    seeds: PathBuf,
}

/// Builds every target, and finds its seeds: `tests/fuzz/seeds/<target>/`.
fn build(config: &Config) -> Result<Vec<Target>> {
    let folder = config.root.join("tests/fuzz");
    let mut command = Command::new(&config.cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics", "--manifest-path"]);
    command.arg(folder.join("Cargo.toml"));
    // Named even though it is the host: flags then stay away from build scripts, which have no fuzzer to link with.
    command.args(["--target", &host()?, "--target-dir"]).arg(config.target.join("fuzz"));
    let flags = COVERAGE.join("\x1f");
    let said = command.env("CARGO_ENCODED_RUSTFLAGS", flags).stderr(Stdio::inherit()).output()?;
    if !said.status.success() {
        bail!("the build failed: {}", said.status);
    }
    let mut targets = Vec::new();
    for program in programs(&String::from_utf8_lossy(&said.stdout)) {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let seeds = folder.join("seeds").join(&name);
        if !seeds.is_dir() {
            bail!("{} is not there: a target begins from a few inputs of its own", seeds.display());
        }
        targets.push(Target { name, program, seeds });
    }
    targets.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(targets)
}

/// The programs in cargo's messages.
fn programs(messages: &str) -> Vec<PathBuf> {
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    built.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from)).collect()
}

/// The triple that this machine's compiler builds for.
fn host() -> Result<String> {
    let said = console::read(Command::new("rustc").arg("-vV"))?;
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc names no host")
}

fn fuzz(config: &Config, target: &Target, seconds: u64) -> Result<Tally> {
    let found = config.target.join("fuzz/corpus").join(&target.name);
    let failures = config.target.join("fuzz/failures").join(&target.name);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&failures)?;
    let mut command = Command::new(&target.program);
    command.arg(&found).arg(&target.seeds);
    command.args([&format!("-max_total_time={seconds}"), SLOWEST, LARGEST, "-print_final_stats=1", "-verbosity=0"]);
    command.arg(format!("-artifact_prefix={}/", failures.display()));
    let dictionary = target.seeds.with_extension("dict");
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let status = console::follow(&mut command, Duration::from_secs(seconds) + SLACK, |line| {
        if !is_noise(line) {
            console::say(line);
        }
    })?;
    if !status.success() {
        bail!("{}", finding(&failures, target));
    }
    Ok(Tally { passed: 1, failed: 0 })
}

/// True for what libFuzzer says at length and nobody reads: words it found useful, and sanitizers that are not linked.
fn is_noise(line: &str) -> bool {
    ["\"", "######", "WARNING: Failed to find function"].iter().any(|start| line.starts_with(start))
}

/// Says where the input is that did it, and what becomes of it: a failure is a seed.
fn finding(failures: &Path, target: &Target) -> String {
    format!(
        "an input broke it: the newest file in {}. Run {} on that file to see it again; with the fix, move it to {}",
        failures.display(),
        target.program.display(),
        target.seeds.display()
    )
}
