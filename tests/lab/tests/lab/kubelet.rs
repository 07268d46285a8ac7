//! Pods whose network namespaces no manifest names: found by their processes' cgroups and the folders of their logs, both as a kubelet
//! makes them, before the API server is told their addresses.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    manifests::{Rule, access_policy, pod},
    place::Place,
    process::Process,
};
use serde_json::{Value, json};

use crate::scene::{self, CALL};

const CLIENT: &str = "shop/client";
/// The pod's uid: each lab's own. An agent looks at every process of the machine, and would take another lab's for its pod's.
fn uid(lab: &Lab) -> String {
    format!("0f1b2c3d-1111-2222-3333-{:012x}", lab.number())
}

fn plan() -> Plan {
    Plan::new("kubelet")
        .node("a", [Pod::new(CLIENT), Pod::new("shop/near").app("web")])
        .node("b", [Pod::new("shop/far").app("web")])
        .service("shop/web", &[(80, 8080)])
}

/// The pod's object as an API server has it: it names no namespace.
fn object(lab: &Lab) -> Result<Value> {
    let mut object = pod(lab.number(), lab.topology(), lab.topology().pod(CLIENT)?);
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("a pod has metadata")?;
    metadata.remove("annotations");
    metadata.insert("uid".to_owned(), json!(uid(lab)));
    Ok(object)
}

/// As it is from its scheduling to the kubelet's first word of it.
fn scheduled(lab: &Lab) -> Result<Value> {
    let mut object = object(lab)?;
    let ready = json!([{"type": "Ready", "status": "False"}]);
    *object.pointer_mut("/status").context("a pod has a status")? = json!({"phase": "Pending", "conditions": ready});
    Ok(object)
}

fn logs(lab: &Lab) -> PathBuf {
    lab.directory().join("pod-logs")
}

/// Where one of the pod's containers runs.
fn container(lab: &Lab, name: &str) -> Result<Place> {
    let (node, netns) = (lab.place("a")?, lab.place(CLIENT)?.netns);
    let cgroup = node.cgroup.join(format!("kubepods/burstable/pod{}/{name}", uid(lab)));
    fs::create_dir_all(&cgroup)?;
    Ok(Place { netns, cgroup, hosts: None })
}

/// What a kubelet and a runtime do before the first container starts.
fn sandbox(lab: &Lab) -> Result<Process> {
    fs::create_dir_all(logs(lab).join(format!("shop_client_{}", uid(lab))))?;
    let mut pause = container(lab, "sandbox")?.command("sleep")?;
    pause.arg("600");
    Process::start(pause, "sandbox", &lab.logs())
}

fn on_status(lab: &Lab) -> Result<Value> {
    let status = lab.admin(Part::Agent("a")).json("/status")?;
    let all = status.get("workloads").and_then(Value::as_array).context("there are workloads")?;
    let found = all.iter().find(|workload| workload.get("name") == Some(&json!(CLIENT)));
    found.cloned().with_context(|| format!("{CLIENT} is not on status: {status}"))
}

fn is_captured(lab: &Lab) -> Result<Value> {
    let client = on_status(lab)?;
    ensure!(client.get("state") == Some(&json!("captured")), "{client}");
    Ok(client)
}

fn call(lab: &Lab, target: impl ToString, name: &str) -> Result<Process> {
    let mut call = container(lab, "app")?.command(lab.binaries().path("probe-peer")?)?;
    call.args(["call", &target.to_string()]);
    Process::start(call, name, &lab.logs())
}

fn answered(lab: &Lab, target: impl ToString, by: &str) -> Result<()> {
    let mut call = call(lab, target, "call")?;
    call.wait(CALL)?;
    let said = call.output();
    let last = said.lines().last().unwrap_or_default();
    let refused = || -> Result<String> {
        let metrics = lab.admin(Part::Agent("a")).metrics()?;
        let count = |reason| metrics.sum("millrace_kernel_decisions_total", &[("reason", reason)]);
        Ok(["unknown_namespace", "denied", "not_enrolled"]
            .map(|reason| format!("{reason} {}", count(reason)))
            .join(", "))
    };
    ensure!(last.contains(&format!("\"name\":\"{by}\"")), "{by} must answer: {last}; refused: {:?}", refused());
    Ok(())
}

fn begin(lab: &mut Lab) -> Result<()> {
    lab.remove(&pod(lab.number(), lab.topology(), lab.topology().pod(CLIENT)?))?;
    let logs = logs(lab);
    fs::create_dir_all(&logs)?;
    lab.agent_flags(&["--pod-logs", &logs.display().to_string()]);
    lab.start_mesh()?;
    Ok(())
}

/// The order of a real start: scheduled, network made, containers started, and only then the address told.
#[test]
fn a_pod_that_no_manifest_places_is_captured_before_its_address_is_told() {
    scene::plain(&plan(), |lab| {
        begin(lab)?;
        let (near, far) = (lab.pod("shop/near")?, lab.pod("shop/far")?);
        let _serving = [near.serves("[::]:8080", &[])?, far.serves("[::]:8080", &[])?];
        // What it may is said by policy before it is there.
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::identity(CLIENT)])?)?;
        lab.apply(&scheduled(lab)?)?;
        clock::until(CALL, "the node hears of it", || {
            let heard = lab.admin(Part::Agent("a")).json("/config")?;
            ensure!(
                heard.pointer("/snapshot/workloads").is_some_and(|all| all.to_string().contains(CLIENT)),
                "it did not"
            );
            Ok(())
        })?;
        let _pause = sandbox(lab)?;
        let (client, took) = clock::until(CALL, "the pod is captured", || is_captured(lab))?;
        println!("captured {took:.1?} after its sandbox");
        let own = lab.topology().pod(CLIENT)?.addresses.both();
        ensure!(client.get("addresses") == Some(&json!(own)), "by the addresses of its network: {client}");
        // Its first connects: within the node as its policy says, and to another node as soon as a proxy knows it.
        answered(lab, near.at(8080), "shop/near")?;
        let mut early = call(lab, far.at(8080), "early")?;
        lab.apply(&object(lab)?)?;
        early.wait(CALL)?;
        ensure!(
            early.output().contains("\"name\":\"shop/far\""),
            "its first call to another node waits: {}",
            early.output()
        );
        lab.settle()?;
        let told = is_captured(lab)?;
        ensure!(told.get("netns_cookie") == client.get("netns_cookie"), "as it was: {told}");
        let service = lab.topology().service("shop/web")?.addresses.v4;
        for _ in 0..10 {
            let called = call(lab, format!("{service}:80"), "service").and_then(|mut call| {
                call.wait(CALL)?;
                Ok(call.output())
            })?;
            ensure!(called.contains("\"greeting\":{"), "the service answers: {called}");
        }
        let unknown = lab.admin(Part::Agent("a")).metrics()?;
        let unknown = unknown.sum("millrace_kernel_decisions_total", &[("reason", "unknown_namespace")]);
        ensure!(unknown == 0.0, "no connect of it was refused for want of its name: {unknown}");
        Ok(())
    });
}

/// An agent that begins knows by its maps whose a namespace is until it has looked for itself.
#[test]
fn a_pod_that_was_found_stays_captured_while_its_agent_is_replaced() {
    scene::plain(&plan(), |lab| {
        begin(lab)?;
        let _serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let near = lab.pod("shop/near")?.at(8080);
        let pause = sandbox(lab)?;
        lab.apply(&object(lab)?)?;
        clock::until(CALL, "the pod is captured", || is_captured(lab))?;
        lab.settle()?;
        for _ in 0..2 {
            let agent = lab.take(Part::Agent("a"))?;
            agent.kill()?;
            answered(lab, near, "shop/near")?;
            lab.start(Part::Agent("a"))?;
            while lab.admin(Part::Agent("a")).ready().is_err() || is_captured(lab).is_err() {
                answered(lab, near, "shop/near")?;
            }
            lab.settle()?;
        }
        // It ends, and another of its name has another network: the one that was found is no proof.
        lab.remove(&object(lab)?)?;
        pause.kill()?;
        clock::until(CALL, "it is let go of", || {
            ensure!(on_status(lab).is_err(), "it is on status");
            Ok(())
        })?;
        Ok(())
    });
}
