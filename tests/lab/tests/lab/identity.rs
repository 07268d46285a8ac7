//! Certificates that live for seconds, and a root that takes another's place, under traffic that must not notice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock};
use serde_json::{Value, json};

use crate::{outage::meanwhile, scene};

/// Renewals come with jitter, ten seconds after another root took over at the latest.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab whose control plane issues certificates that live for ten seconds, nodes' own too.
#[track_caller]
fn with_short_lives(name: &str, test: impl FnOnce(&mut Lab) -> Result<()>) {
    scene::plain(&scene::two_nodes(name), |lab| {
        lab.control_flags(&["--leaf-ttl", "10s", "--node-ttl", "10s"]);
        lab.start_mesh()?;
        test(lab)
    });
}

/// How many certificates were issued, but those that nodes joined with.
fn issued(lab: &Lab) -> Result<f64> {
    Ok(lab.admin(Part::Control).metrics()?.sum("millrace_control_certificates_total", &[("call", "issue")]))
}

/// Traffic for as long as `times` certificates are issued for each one that is in use.
fn rotate(lab: &mut Lab, times: u32) -> Result<()> {
    // Two nodes, and the mesh's pods on them, each with a service account of its own.
    let n_identities = 2 + lab.topology().pods.iter().filter(|pod| pod.plan.is_in_mesh()).count();
    let start = clock::now();
    meanwhile(lab, "certificates of ten seconds", |lab| {
        let enough = issued(lab)? + f64::from(times) * n_identities as f64;
        let patience = Duration::from_secs(10) * times + PATIENCE;
        clock::until(patience, "certificates are renewed", || {
            let so_far = issued(lab)?;
            ensure!(so_far >= enough, "{so_far} of {enough}");
            Ok(())
        })?;
        Ok(())
    })?;
    println!("{n_identities} certificates of ten seconds, each renewed {times} times in {:?}", start.elapsed());
    let refused = lab.admin(Part::Control).metrics()?.sum("millrace_control_refusals_total", &[]);
    ensure!(refused == 0.0, "nobody is refused: {refused}");
    Ok(())
}

#[test]
fn certificates_of_ten_seconds_are_rotated_under_traffic_and_nothing_fails() {
    with_short_lives("short", |lab| rotate(lab, 4));
}

#[test]
#[ignore = "long: certificates of ten seconds for two minutes"]
fn certificates_of_ten_seconds_are_rotated_for_two_minutes_and_nothing_fails() {
    with_short_lives("short-long", |lab| rotate(lab, 20));
}

/// The control plane's answer to a step from one root to another.
fn step(lab: &Lab, step: &str) -> Result<Value> {
    let answer = lab.admin(Part::Control).request("POST", "/root", &json!({ "step": step }).to_string())?;
    ensure!(answer.status == 200, "{step}: {} {}", answer.status, answer.body);
    Ok(serde_json::from_str(&answer.body)?)
}

/// The roots that there are, and what part each has.
fn parts(roots: &Value) -> Result<Vec<String>> {
    let all = roots.get("roots").and_then(Value::as_array).context("roots")?;
    Ok(all.iter().map(|root| root.get("part").and_then(Value::as_str).unwrap_or_default().to_owned()).collect())
}

/// Makes the next root, has it sign, and has the former one forgotten: each step as soon as control lets it.
fn change_root(lab: &Lab) -> Result<()> {
    let start = clock::now();
    ensure!(parts(&step(lab, "add")?)? == ["signs", "next"], "it is believed beside the other");
    let (_, believed) = clock::until(PATIENCE, "every node believes the next root", || step(lab, "activate"))?;
    let (roots, renewed) = clock::until(PATIENCE, "no certificate is under the former root", || step(lab, "retire"))?;
    ensure!(parts(&roots)? == ["signs"], "one is left: {roots}");
    println!(
        "another root: believed after {believed:?}, the former retired after {renewed:?}, {:?} in all",
        start.elapsed()
    );
    Ok(())
}

/// Then everything is stopped and started, with what is on the disk.
#[test]
fn a_root_takes_anothers_place_under_traffic_and_nothing_fails() {
    scene::mesh(&scene::two_nodes("roots"), |lab| {
        meanwhile(lab, "another root", |lab| change_root(lab))?;
        meanwhile(lab, "started anew under the other root", |lab| {
            lab.take(Part::Control)?.stop()?;
            lab.start(Part::Control)?;
            lab.wait_ready(Part::Control)?;
            for node in ["a", "b"] {
                lab.take(Part::Agent(node))?.stop()?;
                lab.start(Part::Agent(node))?;
                lab.wait_ready(Part::Agent(node))?;
            }
            lab.settle().map(drop)
        })?;
        let refused = lab.admin(Part::Control).metrics()?.sum("millrace_control_refusals_total", &[]);
        ensure!(refused == 0.0, "nobody is refused: {refused}");
        Ok(())
    });
}

/// A node that does not hear of the next root would be cut off: control waits for it, and says for whom.
#[test]
fn a_root_signs_only_once_every_connected_node_believes_it() {
    scene::mesh(&scene::two_nodes("behind"), |lab| {
        // Stopped in its tracks, it is connected still.
        let agent = lab.pid(Part::Agent("b"))?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(agent)?).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        step(lab, "add")?;
        clock::until(PATIENCE, "only b is behind", || {
            let answer =
                lab.admin(Part::Control).request("POST", "/root", &json!({ "step": "activate" }).to_string())?;
            ensure!(answer.status == 409, "it waits: {} {}", answer.status, answer.body);
            ensure!(answer.body.contains("bundle yet: b;"), "{}", answer.body);
            Ok(())
        })?;
        rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
        clock::until(PATIENCE, "b believes it too", || step(lab, "activate"))?;
        Ok(())
    });
}
