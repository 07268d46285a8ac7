//! The agent's program, on a kernel that lacks a feature: `--force-missing` takes one away, for tests alone. Needs root.
#![cfg(test)]

use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-agent")).args(arguments).output().unwrap()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: it needs root");
    }
    is_root
}

/// Name, whether it is needed, and what its loss costs, as `check` has them.
fn features() -> Vec<(String, bool, String)> {
    let output = agent(&["check", "-o", "json"]);
    let features: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |feature: &serde_json::Value, field: &str| feature[field].as_str().unwrap().to_owned();
    features.iter().map(|f| (text(f, "feature"), f["needed"] == true, text(f, "cost"))).collect()
}

#[test]
fn check_says_of_each_feature_what_its_loss_costs_and_fails_only_for_a_needed_one() {
    if !is_root() {
        return;
    }
    for (name, is_needed, cost) in features() {
        let output = agent(&["check", "--force-missing", &name]);
        let said = String::from_utf8(output.stdout).unwrap();
        let mark = if is_needed { "NO" } else { "no" };
        let line = said.lines().find(|line| line.starts_with(&format!("{name} ")) && line.contains(&cost));
        assert!(line.is_some_and(|line| line.contains(&format!(" {mark} "))), "{name}:\n{said}");
        assert_eq!(output.status.success(), !is_needed, "{name}");
    }
}

#[test]
fn an_agent_refuses_to_start_without_a_needed_feature_names_it_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = format!("missing-{}", std::process::id());
    for (name, _, cost) in features().into_iter().filter(|(_, is_needed, _)| *is_needed) {
        let (run, state) = (dir.path().join("run"), dir.path().join("state"));
        let output = agent(&[
            "--node",
            &node,
            "--control",
            "https://127.0.0.1:1",
            "--run-dir",
            run.to_str().unwrap(),
            "--state-dir",
            state.to_str().unwrap(),
            "--force-missing",
            &name,
        ]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: whoever starts it need not try again\n{said}");
        assert!(said.contains(&format!("{name}: {cost}")), "{name}:\n{said}");
        assert!(!std::path::Path::new("/sys/fs/bpf/millrace").join(&node).exists(), "{name}: pins were made");
    }
}
