//! Builds everything once and runs every test binary by itself: the counts and the times are then ours to add up.
//!
//! One `cargo build --workspace --all-targets` and no `cargo test -p ...`: each other choice of packages would unify features
//! another way and compile the dependencies again.

mod long;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{
    command,
    config::Config,
    console, demo, fuzz, h2spec, setup,
    steps::{Steps, Tally},
    tidy::tree::Tree,
};

/// A kind of test binary, by the package it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Pure, or on sockets of its own: any user may run it.
    Unit,
    /// Loads kernel programs: as root.
    Kernel,
    /// Whole nodes in network namespaces: as root.
    Lab,
    /// The control plane on a real API server: any user may run it.
    Cluster,
}

impl Level {
    /// By the package; the tests inside a library or a program are units wherever they are.
    fn of(package: &str, kind: &str) -> Self {
        match (package, kind) {
            ("millrace-kernel-tests", "test") => Self::Kernel,
            ("millrace-lab", "test") => Self::Lab,
            ("millrace-cluster-tests", "test") => Self::Cluster,
            _ => Self::Unit,
        }
    }

    /// How many tests of a binary run at a time. Two labs fit side by side on two cores; kernel tests count what the
    /// kernel did, and read clearer alone.
    fn threads(self) -> Option<&'static str> {
        match self {
            Self::Unit => None,
            // Cluster tests share one API server, which some of them end.
            Self::Kernel | Self::Cluster => Some("--test-threads=1"),
            Self::Lab => Some("--test-threads=2"),
        }
    }

    /// After this long a binary hangs: four times what the slowest of its kind takes on two cores.
    fn limit(self) -> Duration {
        match self {
            Self::Unit => Duration::from_secs(300),
            Self::Kernel => Duration::from_secs(900),
            Self::Cluster => Duration::from_secs(600),
            Self::Lab => Duration::from_secs(1200),
        }
    }
}

/// A built test binary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Binary {
    level: Level,
    package: String,
    target: String,
    executable: PathBuf,
    /// The package's folder: tests run there, as under `cargo test`.
    folder: PathBuf,
}

/// Sets up, builds and runs all tests whose name holds the filter: the everyday ones, or the long ones.
pub(crate) fn run(config: &Config, options: &command::Test) -> Result<()> {
    let filter = options.filter.as_deref();
    if options.long {
        return long::run(config, filter);
    }
    let mut steps = Steps::default();
    steps.run("setup", || setup::quietly(config));
    all(config, filter, &mut steps);
    steps.finish()
}

/// Builds and runs all tests as steps.
pub(crate) fn all(config: &Config, filter: Option<&str>, steps: &mut Steps) {
    let Some(binaries) = steps.run("build everything", || build(config)) else { return };
    let (unit, rest): (Vec<_>, Vec<_>) = binaries.into_iter().partition(|binary| binary.level == Level::Unit);
    let (cluster, root): (Vec<_>, Vec<_>) = rest.into_iter().partition(|binary| binary.level == Level::Cluster);
    steps.count("unit and property tests", || {
        let mut sum = Tally::default();
        for binary in &unit {
            sum.add(run_one(config, binary, filter)?);
        }
        Ok(sum)
    });
    steps.count("examples in the documentation", || examples(config, filter));
    if root.iter().any(|binary| binary.level == Level::Lab && lists(binary, filter, "h2spec")) {
        steps.run("build h2spec", || h2spec::prepare(config));
    }
    for binary in &root {
        let level = if binary.level == Level::Kernel { "kernel tests" } else { "lab tests" };
        steps.count(&format!("{level}: {}", binary.target), || run_one(config, binary, filter));
    }
    for binary in cluster.iter().filter(|binary| filter.is_none_or(|filter| has_test(binary, filter))) {
        if steps.run("build Kubernetes' API server", || crate::cluster::prepare(config)).is_some() {
            steps.count(&format!("cluster tests: {}", binary.target), || run_one(config, binary, filter));
        }
    }
    if filter.is_none() {
        fuzz::steps(config, fuzz::SECONDS, None, steps);
    }
}

/// True where a test's name holds the filter: an API server is not built for nothing.
fn has_test(binary: &Binary, filter: &str) -> bool {
    lists(binary, Some(filter), "")
}

/// True where the name of a test that the filter fits holds `word` too.
fn lists(binary: &Binary, filter: Option<&str>, word: &str) -> bool {
    let said = Command::new(&binary.executable).args(["--list", "--format", "terse"]).args(filter).output();
    said.is_ok_and(|said| {
        let said = String::from_utf8_lossy(&said.stdout);
        said.lines().any(|line| line.strip_suffix(": test").is_some_and(|name| name.contains(word)))
    })
}

/// Builds all targets, and returns the test binaries in the order they are run.
fn build(config: &Config) -> Result<Vec<Binary>> {
    let said = Command::new(&config.cargo)
        .current_dir(&config.root)
        .args(["build", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()?;
    if !said.status.success() {
        bail!("the build failed: {}", said.status);
    }
    let mut binaries = binaries(&String::from_utf8_lossy(&said.stdout));
    binaries.sort();
    Ok(binaries)
}

/// The test binaries in cargo's messages.
fn binaries(messages: &str) -> Vec<Binary> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/profile/test") == Some(&Value::Bool(true)))
        .filter_map(|message| binary(&message))
        .collect()
}

fn binary(message: &Value) -> Option<Binary> {
    let folder = PathBuf::from(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let executable = PathBuf::from(message.get("executable")?.as_str()?);
    let target = message.pointer("/target/name")?.as_str()?.to_owned();
    // `path+file:///folder#name@version`, or without the name where the folder has it.
    let id = message.get("package_id")?.as_str()?;
    let (place, version) = id.rsplit_once('#')?;
    let package = version.split_once('@').map_or_else(|| place.rsplit('/').next(), |(name, _)| Some(name))?.to_owned();
    let kind = message.pointer("/target/kind/0")?.as_str()?;
    Some(Binary { level: Level::of(&package, kind), package, target, executable, folder })
}

fn run_one(config: &Config, binary: &Binary, filter: Option<&str>) -> Result<Tally> {
    console::say(&format!("\n-- {} {}", binary.package, binary.target));
    let mut command = match binary.level {
        Level::Unit | Level::Cluster => Command::new(&binary.executable),
        Level::Kernel | Level::Lab => demo::as_root(config, binary.executable.as_os_str())?,
    };
    command.args(filter).args(binary.level.threads());
    command.current_dir(&binary.folder).env("CARGO_MANIFEST_DIR", &binary.folder).env("CARGO", &config.cargo);
    follow(&mut command, binary.level.limit())
}

/// Documentation examples are compiled by rustdoc and run by cargo alone. To ask costs half a minute, so not when there are none.
fn examples(config: &Config, filter: Option<&str>) -> Result<Tally> {
    if !Tree::read(config)?.ending(".rs").any(|(_, text)| has_example(text)) {
        console::say("there are none");
        return Ok(Tally::default());
    }
    let mut command = Command::new(&config.cargo);
    command.current_dir(&config.root).args(["test", "--workspace", "--doc", "--quiet", "--"]).args(filter);
    follow(&mut command, Level::Unit.limit())
}

/// True for a documentation comment with a block of code: an opening fence that names no other language.
fn has_example(text: &str) -> bool {
    let comments = text.lines().map(str::trim_start).filter_map(|line| line.strip_prefix("//"));
    let mut fences = comments.filter_map(|line| line.get(1..)?.trim_start().strip_prefix("```"));
    // Every other fence closes a block.
    std::iter::from_fn(|| fences.next().map(|open| (open, fences.next())))
        .any(|(open, _)| open.is_empty() || open.starts_with("rust"))
}

/// Runs a test runner to its end, showing its lines and adding up its counts.
fn follow(command: &mut Command, limit: Duration) -> Result<Tally> {
    let mut tally = Tally::default();
    let status = console::follow(command, limit, |line| {
        console::say(line);
        if let Some(counts) = result(line) {
            tally.add(counts);
        }
    })?;
    if !status.success() && tally.failed == 0 {
        bail!("{} ended with {status}", command.get_program().to_string_lossy());
    }
    Ok(tally)
}

/// The counts in a runner's closing line: `test result: ok. 3 passed; 0 failed; ...`.
fn result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let counts: BTreeMap<&str, u64> = counts
        .split("; ")
        .filter_map(|count| count.split_once(' '))
        .filter_map(|(n, what)| Some((what, n.parse().ok()?)))
        .collect();
    Some(Tally { passed: *counts.get("passed")?, failed: *counts.get("failed")? })
}

#[cfg(test)]
mod tests {
    use super::{Level, Tally, binaries, has_example, result};

    #[test]
    fn only_a_block_of_rust_is_an_example() {
        assert!(has_example("/// Adds.\n/// ```\n/// add(1, 1);\n/// ```\n"));
        assert!(!has_example("//! ```text\n//! a picture\n//! ```\n"));
    }

    #[test]
    fn a_runners_closing_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(result(line), Some(Tally { passed: 12, failed: 2 }));
        assert_eq!(result("test result is ok"), None);
    }

    #[test]
    fn test_binaries_are_found_and_sorted_by_what_they_need() {
        let built = r#"{"reason":"compiler-artifact","package_id":"path+file:///m/tests/lab#millrace-lab@0.1.0",
            "manifest_path":"/m/tests/lab/Cargo.toml","target":{"name":"paths","kind":["test"]},"profile":{"test":true},"executable":"/t/paths-1"}"#;
        let plain =
            r#"{"reason":"compiler-artifact","package_id":"path+file:///m/xtask#0.1.0","profile":{"test":false}}"#;
        let short = r#"{"reason":"compiler-artifact","package_id":"path+file:///m/xtask#0.1.0",
            "manifest_path":"/m/xtask/Cargo.toml","target":{"name":"xtask","kind":["bin"]},"profile":{"test":true},"executable":"/t/xtask-1"}"#;
        let lines = [built, plain, short].map(|message| message.replace('\n', "")).join("\n");
        let found: Vec<_> = binaries(&lines).into_iter().map(|one| (one.level, one.package, one.target)).collect();
        assert_eq!(
            found,
            [(Level::Lab, "millrace-lab".into(), "paths".into()), (Level::Unit, "xtask".into(), "xtask".into())]
        );
    }
}
