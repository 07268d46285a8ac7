//! Who joins and who does not, with the real agent: what a stolen token is worth, and that both ends say why.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock, process::Process};
use serde_json::{Value, json};

use crate::scene;

/// An agent tries to join again after ten seconds at the latest.
const PATIENCE: Duration = Duration::from_secs(30);

fn token(lab: &Lab, body: &Value) -> Result<String> {
    let answer = lab.admin(Part::Control).request("POST", "/tokens", &body.to_string())?;
    let body: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    Ok(body.get("token").and_then(Value::as_str).context("a token")?.to_owned())
}

/// An agent with directories of its own, called `node`, that comes to join with this token.
fn agent(lab: &Lab, node: &str, case: &str, token: &str) -> Result<Process> {
    let directory = lab.directory().join(case);
    let (run, state, file) = (directory.join("run"), directory.join("state"), directory.join("token"));
    for path in [&run, &state, &lab.directory().join("b/bpf")] {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    fs::write(&file, token)?;
    let (place, path) = (lab.place("b")?, |path: &Path| path.display().to_string());
    let mut command = place.command(lab.binaries().path("millrace-agent")?)?;
    command.args(["--node", node, "--control", &format!("https://172.30.0.1:{}", millrace_lab::mesh::CONTROL_PORT)]);
    command.args(["--run-dir", &path(&run), "--state-dir", &path(&state), "--join-token-file", &path(&file)]);
    command.args(["--bpffs", &path(&lab.directory().join("b/bpf")), "--cgroup", &path(&place.cgroup)]);
    Process::start(command, &format!("{case}-agent"), &lab.logs())
}

/// What the agent says of its refusal, and what control counts of it.
fn is_refused(
    lab: &Lab,
    case: &str,
    (node, token): (&str, &str),
    agent_says: &str,
    reason: Option<&str>,
) -> Result<()> {
    let counted = || -> Result<f64> {
        let labels: Vec<(&str, &str)> = reason.iter().map(|reason| ("reason", *reason)).collect();
        Ok(lab.admin(Part::Control).metrics()?.sum("millrace_control_refusals_total", &labels))
    };
    let before = counted()?;
    let mut process = agent(lab, node, case, token)?;
    clock::until(PATIENCE, &format!("{case}: the agent says {agent_says:?}"), || {
        process.still_runs()?;
        ensure!(process.errors().contains(agent_says), "it says {}", process.errors());
        Ok(())
    })?;
    let after = counted()?;
    match reason {
        Some(reason) => {
            ensure!(after > before, "{case}: control counts {reason}");
            let log = fs::read_to_string(lab.logs().join("control.err"))?;
            let is_told = log.lines().any(|line| line.contains("\"call\":\"join\"") && line.contains(reason));
            ensure!(is_told, "{case}: control logs {reason}");
        }
        None => ensure!(after == before, "{case}: control is not asked at all"),
    }
    ensure!(!lab.directory().join(case).join("state/node.crt").exists(), "{case}: it has no certificate");
    process.kill()
}

#[test]
fn a_stolen_token_is_of_no_use_and_both_ends_say_why() {
    let plan = Plan::new("joins").node("a", [Pod::new("shop/near")]).node("b", []);
    scene::plain(&plan, |lab| {
        lab.start(Part::Control)?;
        lab.wait_ready(Part::Control)?;
        lab.start(Part::Agent("a"))?;
        let of_a = lab.directory().join("a/state/node.crt");
        clock::until(PATIENCE, "a joins", || {
            ensure!(of_a.exists(), "not yet");
            Ok(())
        })?;

        // Node a's token, which it has used: shown by b as what it is, and with b's name in it.
        let used = fs::read_to_string(lab.directory().join("tokens/a"))?;
        let renamed = used.replacen("v1.a.", "v1.b.", 1);
        is_refused(lab, "on-another-node", ("b", &used), "names node a, and this is b", None)?;
        is_refused(lab, "renamed", ("b", &renamed), "token_other_node", Some("token_other_node"))?;
        is_refused(lab, "used-twice", ("a", &used), "token_used", Some("token_used"))?;

        let late = token(lab, &json!({ "node": "b", "seconds": 1 }))?;
        let (file, expires) = (lab.directory().join("wire/state/tokens.json"), clock::now() + Duration::from_secs(2));
        ensure!(file.exists(), "it is kept, as a hash");
        clock::until(PATIENCE, "a second is over", || {
            ensure!(clock::now() > expires, "not yet");
            Ok(())
        })?;
        is_refused(lab, "late", ("b", &late), "token_expired", Some("token_expired"))?;

        // Of another mesh: the agent does not even show it to this control plane.
        let good = token(lab, &json!({ "node": "b" }))?;
        let mut parts: Vec<&str> = good.split('.').collect();
        let other_root = "0f".repeat(32);
        parts[2] = &other_root;
        is_refused(lab, "other-root", ("b", &parts.join(".")), "(not_pinned)", None)?;

        // And none of this has spent it.
        let mut joins = agent(lab, "b", "good", &good)?;
        clock::until(PATIENCE, "b joins", || {
            joins.still_runs()?;
            ensure!(lab.directory().join("good/state/node.crt").exists(), "{}", joins.errors());
            Ok(())
        })?;
        joins.kill()
    });
}
