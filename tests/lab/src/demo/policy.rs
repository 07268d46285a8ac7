//! The scenes about what the operator edits: weights, and who may call whom.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    Demo,
    scenes::order,
    shop::VISITOR,
    stage::{Tone, human},
};
use crate::{
    clock,
    lab::Lab,
    manifests::{self, Rule, access_policy},
    mesh::Part,
};

/// Connections over which the canary's share is measured: 4 standard deviations at 5 % are 2 percentage points.
const CALLS: u32 = 2_000;

/// Calls made while control and an agent are away.
const AWAY_CALLS: u32 = 200;

/// How far the measured share may be from the weights, in percentage points.
const TOLERANCE: f64 = 2.0;

/// How long an edit may take until it is in force.
const IN_FORCE: Duration = Duration::from_secs(1);

/// How long is waited for it, to say what it took if that was longer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn canary(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let (v1, v2) = versions(lab, CALLS)?;
    let share = 100.0 * f64::from(v2) / f64::from(CALLS);
    stage.say(format!(
        "{CALLS} calls of catalogue on new connections: v1 {v1}, v2 {v2} = {}",
        stage.tone(Tone::Strong, format!("{share:.1} %"))
    ));
    stage.check(v1 + v2 == CALLS, format!("{} of {CALLS} answered", v1 + v2));
    stage.check((share - 5.0).abs() < TOLERANCE, format!("v2 got {share:.1} %, within {TOLERANCE} points of 5 %"));
    for (pod, weight) in [("shop/catalogue-v2", 100), ("shop/catalogue-v1", 0)] {
        let mut pod = lab.topology().pod(pod)?.clone();
        pod.plan.weight = Some(weight);
        lab.apply(&manifests::pod(lab.number(), lab.topology(), &pod))?;
    }
    let (_, took) = clock::until(PATIENCE, "all calls go to v2", || {
        let (v1, _) = versions(lab, 20)?;
        ensure!(v1 == 0, "{v1} of 20 went to v1");
        Ok(())
    })?;
    stage.say("weights edited in the two manifests: v1 0, v2 100");
    stage.check(took < IN_FORCE, format!("in force {} after the edit", human(took)));
    Ok(())
}

pub(super) fn denied(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let database = "http://database/";
    lab.pod(VISITOR)?.get(database)?;
    stage.say(format!("before: the visitor (node a) may call {database} (node b)"));
    let policy =
        |callers: &[&str]| access_policy("shop/database-callers", "Allow", "database", &[Rule::identities(callers)]);
    let file = lab.apply(&policy(&["shop/cart", "shop/orders"])?)?;
    let (refusal, took) = clock::until(PATIENCE, "the visitor is refused", || refused(lab, database))?;
    stage.say(format!("{} says:", file.display()));
    stage.whisper(fs::read_to_string(&file)?.trim_end());
    stage.check(took < IN_FORCE, format!("in force {} after the edit: {refusal}", human(took)));
    let flow = names_policy(lab, "shop/database-callers")?;
    let text = |key: &str| flow.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    let (verdict, source, asked, named) = (text("verdict"), text("source"), text("asked"), text("policy"));
    stage.check(
        named == "shop/database-callers",
        format!("flow record: {verdict}, {source} to {asked}, by policy {named}"),
    );
    let hop = order(lab);
    stage.check(
        hop.is_ok(),
        format!("cart and orders still reach it{}", hop.err().map(|e| format!(": {e:#}")).unwrap_or_default()),
    );
    lab.apply(&policy(&["shop/cart", "shop/orders", "shop/visitor"])?)?;
    let (_, took) = clock::until(PATIENCE, "the visitor is let in", || lab.pod(VISITOR)?.get(database))?;
    stage.check(took < IN_FORCE, format!("the visitor added to the file: let in {} after the edit", human(took)));
    lab.apply(&policy(&["shop/cart", "shop/orders"])?)?;
    let (_, took) = clock::until(PATIENCE, "the visitor is refused again", || refused(lab, database))?;
    stage.check(took < IN_FORCE, format!("and taken out again: refused {} after the edit", human(took)));
    Ok(())
}

/// What is away while calls go on.
pub(super) fn control_away(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    lab.take(Part::Control)?.kill()?;
    lab.take(Part::Agent("a"))?.stop()?;
    let url = format!("http://orders/place?[1-{AWAY_CALLS}]");
    let web = lab.pod("shop/web")?;
    let arguments = [
        "curl",
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}\n",
        "--header",
        "connection: close",
        &url,
    ];
    let answers = web.run_within(PATIENCE, &arguments)?.stdout;
    let n_ok = u32::try_from(answers.lines().filter(|code| *code == "200").count())?;
    stage.say("control killed, node a's agent stopped; web on node a calls orders on node b");
    stage.check(n_ok == AWAY_CALLS, format!("{n_ok} of {AWAY_CALLS} calls on new connections answered meanwhile"));
    stage.check(refused(lab, "http://database/").is_ok(), "the visitor is still refused");
    lab.start(Part::Control)?;
    lab.wait_ready(Part::Control)?;
    lab.start(Part::Agent("a"))?;
    lab.wait_ready(Part::Agent("a"))?;
    let took = lab.settle()?;
    stage.check(
        order(lab).is_ok(),
        format!("both started again; every node is at the newest generation {} later", human(took)),
    );
    Ok(())
}

fn versions(lab: &Lab, calls: u32) -> Result<(u32, u32)> {
    let url = format!("http://catalogue/items?[1-{calls}]");
    let web = lab.pod("shop/web")?;
    let arguments = ["curl", "--silent", "--max-time", "60", "--header", "connection: close", &url];
    let said = web.run_within(PATIENCE * 6, &arguments)?.stdout;
    let count = |version: &str| u32::try_from(said.matches(&format!("\"version\": \"{version}\"")).count());
    Ok((count("v1")?, count("v2")?))
}

/// What curl says of a refusal; an error while the call is still let through.
fn refused(lab: &Lab, url: &str) -> Result<String> {
    let output = lab.pod(VISITOR)?.run(&["curl", "--silent", "--show-error", "--max-time", "3", url])?;
    ensure!(!output.status.success(), "it is still let through");
    Ok(output.stderr.trim().to_owned())
}

/// The kernel's own flow record of a refusal that names the policy: the caller's node refuses by what it knows.
fn names_policy(lab: &Lab, policy: &str) -> Result<Value> {
    let flows = lab.admin(Part::Agent("a")).follow("/flows")?;
    let is_it = |line: &str| line.contains(policy) && line.contains("\"verdict\":\"denied\"");
    let (line, _) = clock::until(PATIENCE, "a flow names the policy", || {
        refused(lab, "http://database/")?;
        flows.find(is_it).with_context(|| format!("there is {:?}", flows.all()))
    })?;
    Ok(serde_json::from_str(&line)?)
}
