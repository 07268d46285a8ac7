//! Runs the tests that CI has no time for: those with `#[ignore = "long: ..."]`, and no other that is ignored.
//!
//! A test runner knows what is ignored but does not list why, so the sources are asked: which functions stand below such a
//! line, in which package.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    config::Config,
    demo, setup,
    steps::{Steps, Tally},
    tidy::tree::Tree,
};

use super::{Binary, Level, build, follow};

/// How the line above a long test begins.
const MARK: &str = "#[ignore = \"long: ";

/// After this long a binary's long tests hang. The longest that is planned moves 18,000 connections for minutes, at several loads.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Sets up, builds, and runs all long tests whose name holds `filter`, one at a time, showing what they print.
pub(crate) fn run(config: &Config, filter: Option<&str>) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("setup", || setup::quietly(config));
    let Some(binaries) = steps.run("build everything", || build(config)) else { return steps.finish() };
    let Some(tree) = steps.run("look for long tests", || Tree::read(config)) else { return steps.finish() };
    for binary in &binaries {
        let folder = binary.folder.strip_prefix(&config.root).unwrap_or(&binary.folder);
        let marked = marked(&tree, folder);
        if marked.is_empty() {
            continue;
        }
        let Some(ignored) = steps.run(&format!("ask {} {}", binary.package, binary.target), || ignored(config, binary))
        else {
            continue;
        };
        let wanted = wanted(&ignored, &marked, filter);
        let is_ready = wanted.is_empty()
            || binary.level != Level::Cluster
            || steps.run("build Kubernetes' API server", || crate::cluster::prepare(config)).is_some();
        if is_ready && !wanted.is_empty() {
            steps.count(&format!("long tests: {} {}", binary.package, binary.target), || {
                run_these(config, binary, &wanted)
            });
        }
    }
    steps.finish()
}

fn run_these(config: &Config, binary: &Binary, names: &[&str]) -> Result<Tally> {
    let mut command = command(config, binary)?;
    // One at a time, and speaking: they load the machine, and their figures are what they are run for.
    command.args(names).args(["--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    follow(&mut command, LIMIT)
}

fn command(config: &Config, binary: &Binary) -> Result<Command> {
    let mut command = match binary.level {
        Level::Unit | Level::Cluster => Command::new(&binary.executable),
        Level::Kernel | Level::Lab => demo::as_root(config, binary.executable.as_os_str())?,
    };
    command.current_dir(&binary.folder).env("CARGO_MANIFEST_DIR", &binary.folder).env("CARGO", &config.cargo);
    Ok(command)
}

/// The names of a binary's ignored tests, as its runner knows them.
fn ignored(config: &Config, binary: &Binary) -> Result<String> {
    let said = command(config, binary)?.args(["--list", "--ignored", "--format", "terse"]).output()?;
    if !said.status.success() {
        bail!("{} can't list its tests: {}", binary.executable.display(), said.status);
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Of a runner's list, the tests that are marked and whose name holds `filter`.
fn wanted<'a>(list: &'a str, marked: &BTreeSet<&str>, filter: Option<&str>) -> Vec<&'a str> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| marked.contains(name.rsplit("::").next().unwrap_or(name)))
        .filter(|name| filter.is_none_or(|filter| name.contains(filter)))
        .collect()
}

/// The functions below a mark, in the sources of the package in this folder.
fn marked<'a>(tree: &'a Tree, folder: &Path) -> BTreeSet<&'a str> {
    tree.ending(".rs")
        .filter(|(path, _)| Path::new(path).starts_with(folder))
        .flat_map(|(_, text)| functions(text))
        .collect()
}

/// The functions below a mark in one source.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines().map(str::trim_start);
    std::iter::from_fn(move || {
        lines.find(|line| line.starts_with(MARK))?;
        let line = lines.find(|line| line.contains("fn "))?;
        let (_, name) = line.split_once("fn ")?;
        name.split(['(', '<']).next()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Tree, marked, wanted};

    fn source(why: &str, name: &str) -> String {
        format!("#[test]\n#[ignore = \"{why}\"]\nfn {name}() {{}}\n")
    }

    #[test]
    fn only_what_is_ignored_for_its_length_is_a_long_test() {
        let text = source("long: 120 s", "holds") + &source("measures, asserts nothing", "speed");
        let other = source("long: 20 s", "elsewhere");
        let tree = Tree::from([("tests/lab/tests/lab/load.rs", &*text), ("agent/src/pods.rs", &*other)]);
        let marked = marked(&tree, Path::new("tests/lab"));
        assert_eq!(marked.iter().copied().collect::<Vec<_>>(), ["holds"]);
        let list = "load::holds: test\nload::speed: test\nother::holds: test\n\n3 tests, 0 benchmarks\n";
        assert_eq!(wanted(list, &marked, None), ["load::holds", "other::holds"]);
        assert_eq!(wanted(list, &marked, Some("load")), ["load::holds"]);
    }

    #[test]
    fn a_mark_above_an_asynchronous_test_is_found() {
        let text = "    #[tokio::test]\n    #[ignore = \"long: 90 s\"]\n    #[expect(x, reason = \"y\")]\n    async fn lasts<T>() {}\n";
        let tree = Tree::from([("a/b.rs", text)]);
        assert!(marked(&tree, Path::new("a")).contains("lasts"));
    }
}
