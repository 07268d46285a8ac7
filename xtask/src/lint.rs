//! Formatting and clippy over all workspaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{config::Config, console};

/// The workspaces that stand beside the outer one.
const OTHERS: [&str; 2] = ["ebpf/programs/Cargo.toml", "tests/fuzz/Cargo.toml"];

/// Both, and an error when either finds something that is denied.
pub(crate) fn run(config: &Config) -> Result<()> {
    let formatted = format(config);
    clippy(config)?;
    formatted
}

/// An error unless all code is formatted.
pub(crate) fn format(config: &Config) -> Result<()> {
    let mut mends = Vec::new();
    // `--all` goes to local dependencies too, which the outer workspace has seen to.
    let all = [(Some("--all"), "Cargo.toml")].into_iter().chain(OTHERS.map(|path| (None, path)));
    for (scope, manifest) in all {
        let mut command = Command::new(&config.cargo);
        command.current_dir(&config.root).arg("fmt").args(scope).args(["--manifest-path", manifest]);
        if !command.args(["--check", "--", "--files-with-diff"]).status()?.success() {
            mends.push(format!("cargo fmt {} --manifest-path {manifest}", scope.unwrap_or_default()));
        }
    }
    if !mends.is_empty() {
        bail!("these files are not formatted: run `{}`", mends.join("` and `"));
    }
    Ok(())
}

/// Runs clippy: what is denied is shown whole and is an error; warnings are counted, by lint.
pub(crate) fn clippy(config: &Config) -> Result<()> {
    let said = Command::new(&config.cargo)
        .current_dir(&config.root)
        .args(["clippy", "--workspace", "--all-targets", "--keep-going", "--quiet", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()?;
    let findings = findings(&String::from_utf8_lossy(&said.stdout));
    for (lint, n) in count(&findings) {
        console::say(&format!("{n:>6}  {lint}"));
    }
    console::say(&format!("{} warnings", findings.iter().filter(|finding| finding.level == "warning").count()));
    let denied: Vec<_> = findings.iter().filter(|finding| finding.level == "error").collect();
    for finding in &denied {
        console::say(&finding.shown);
    }
    if !said.status.success() || !denied.is_empty() {
        bail!("{} findings that are denied", denied.len());
    }
    Ok(())
}

/// Something clippy or the compiler says of the code.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    level: String,
    lint: String,
    shown: String,
}

/// The findings in cargo's messages, each once: a library and its tests are compiled from the same lines.
fn findings(messages: &str) -> BTreeSet<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.get("reason").is_some_and(|reason| reason == "compiler-message"))
        .filter_map(|mut message| message.get_mut("message").map(Value::take))
        .map(|message| Finding {
            level: message.get("level").map(text).unwrap_or_default(),
            lint: message.pointer("/code/code").map(text).unwrap_or_default(),
            shown: message.get("rendered").map(text).unwrap_or_default(),
        })
        // What has no lint is a sum, "3 warnings emitted"; an error without one is a real error.
        .filter(|finding| !finding.lint.is_empty() || finding.level.starts_with("error"))
        .collect()
}

fn count(findings: &BTreeSet<Finding>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.level == "warning") {
        *counts.entry(&*finding.lint).or_default() += 1;
    }
    counts
}

/// The manifests of every workspace, the outer one first.
pub(crate) fn manifests(root: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    std::iter::once("Cargo.toml").chain(OTHERS).map(|path| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::{count, findings};

    #[test]
    fn a_finding_of_a_library_and_of_its_tests_is_one() {
        let warning = r#"{"reason":"compiler-message","message":{"level":"warning","code":{"code":"clippy::x"},"rendered":"at 1"}}"#;
        let sum =
            r#"{"reason":"compiler-message","message":{"level":"warning","code":null,"rendered":"1 warning emitted"}}"#;
        let found = findings(&format!("{warning}\n{warning}\n{sum}\nnot json\n"));
        assert_eq!(count(&found).into_iter().collect::<Vec<_>>(), [("clippy::x", 1)]);
    }
}
