//! Services as Kubernetes says they are: clients that stay, endpoints that are near, endpoints that leave.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock, manifests};
use serde_json::{Value, json};

use crate::scene::{self, CALL};

/// Calls enough that a service of three endpoints, drawn from anew each time, would show another than the first: 3^-30.
const CALLS: u32 = 30;

/// Applies a service with more in its spec.
fn spec(lab: &Lab, service: &str, more: &Value) -> Result<()> {
    let mut object = manifests::service(lab.topology().service(service)?);
    for (key, value) in more.as_object().context("a spec is a mapping")? {
        object["spec"][key] = value.clone();
    }
    lab.apply(&object)?;
    Ok(())
}

/// Applies a pod that is ready or not, and told to go or not.
fn stands(lab: &Lab, pod: &str, ready: bool, going: bool) -> Result<()> {
    let mut object = manifests::pod(lab.number(), lab.topology(), lab.topology().pod(pod)?);
    object["status"]["conditions"][0]["status"] = json!(if ready { "True" } else { "False" });
    if going {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    lab.apply(&object)?;
    Ok(())
}

/// Who answers `client`, over `CALLS` calls that all succeed.
fn answers(lab: &Lab, client: &str, to: &str) -> Result<BTreeMap<String, u32>> {
    let done = lab.pod(client)?.connects_often(to, CALLS)?;
    ensure!(done.errors.is_empty(), "every connect of {client} to {to} succeeds: {done:?}");
    Ok(done.by_name)
}

/// Waits until exactly these answer.
fn answered_by(lab: &Lab, client: &str, to: &str, expected: &[&str]) -> Result<()> {
    let what = format!("{client} is answered by {expected:?} alone");
    clock::until(CALL, &what, || {
        let found = answers(lab, client, to)?;
        ensure!(found.keys().eq(expected.iter()), "by {found:?}");
        Ok(())
    })?;
    Ok(())
}

fn only(lab: &Lab, client: &str, to: &str) -> Result<String> {
    let found = answers(lab, client, to)?;
    ensure!(found.len() == 1, "{client} stays with one endpoint of {to}: {found:?}");
    found.into_keys().next().context("somebody answers")
}

fn serve(lab: &Lab, pods: &[&str]) -> Result<Vec<millrace_lab::process::Process>> {
    pods.iter().map(|pod| lab.pod(pod)?.serves("[::]:8080", &[])).collect()
}

/// A client stays with an endpoint of its own node, and with one that the proxy carries it to: the proxy draws no other.
#[test]
fn a_client_stays_with_its_endpoint_on_both_paths() {
    let near = ["shop/near-1", "shop/near-2", "shop/near-3"];
    let far = ["shop/far-1", "shop/far-2", "shop/far-3"];
    let plan = Plan::new("affinity")
        .node("a", near.map(|name| Pod::new(name).app("near")).into_iter().chain([Pod::new("shop/client")]))
        .node("b", far.map(|name| Pod::new(name).app("far")))
        .service("shop/near", &[(80, 8080)])
        .service("shop/far", &[(80, 8080)]);
    scene::mesh(&plan, |lab| {
        let _serving = serve(lab, &[near, far].concat())?;
        ensure!(answers(lab, "shop/client", "far:80")?.len() > 1, "without affinity it is spread");
        for service in ["shop/near", "shop/far"] {
            spec(lab, service, &json!({"sessionAffinity": "ClientIP"}))?;
        }
        for to in ["near:80", "far:80"] {
            clock::until(CALL, "affinity is in force", || only(lab, "shop/client", to))?;
        }
        let given = [only(lab, "shop/client", "near:80")?, only(lab, "shop/client", "far:80")?];
        lab.take(Part::Agent("a"))?.stop()?;
        lab.start(Part::Agent("a"))?;
        lab.wait_ready(Part::Agent("a"))?;
        for (to, given) in ["near:80", "far:80"].into_iter().zip(&given) {
            ensure!(only(lab, "shop/client", to)? == *given, "it stays through a restart of the agent");
            stands(lab, given, false, false)?;
            let (next, _) = clock::until(CALL, "it is given another when that one is not ready", || {
                let next = only(lab, "shop/client", to)?;
                ensure!(next != *given, "{next} still");
                Ok(next)
            })?;
            stands(lab, given, true, false)?;
            lab.settle()?;
            ensure!(only(lab, "shop/client", to)? == next, "it does not go back");
        }
        Ok(())
    });
}

/// Nodes a1 and a2 in one zone, b in another; an endpoint and a client on each.
#[test]
fn near_endpoints_go_first_and_those_farther_away_when_they_are_gone() {
    let zones = [("a1", "east"), ("a2", "east"), ("b", "west")];
    let mut plan = Plan::new("near").service("shop/web", &[(80, 8080)]);
    for (node, _) in zones {
        plan = plan
            .node(node, [Pod::new(&format!("shop/on-{node}")).app("web"), Pod::new(&format!("shop/client-{node}"))]);
    }
    scene::mesh(&plan, |lab| {
        let _serving = serve(lab, &["shop/on-a1", "shop/on-a2", "shop/on-b"])?;
        for (node, zone) in zones {
            let labels = json!({"kubernetes.io/hostname": node, "topology.kubernetes.io/zone": zone});
            lab.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}))?;
        }
        let all = ["shop/on-a1", "shop/on-a2", "shop/on-b"];
        answered_by(lab, "shop/client-a1", "web:80", &all)?;
        for zone in ["PreferSameZone", "PreferClose"] {
            spec(lab, "shop/web", &json!({"trafficDistribution": zone}))?;
            answered_by(lab, "shop/client-a1", "web:80", &["shop/on-a1", "shop/on-a2"])?;
            answered_by(lab, "shop/client-b", "web:80", &["shop/on-b"])?;
            spec(lab, "shop/web", &json!({}))?;
            answered_by(lab, "shop/client-a1", "web:80", &all)?;
        }
        spec(lab, "shop/web", &json!({"trafficDistribution": "PreferSameNode"}))?;
        for (node, _) in zones {
            answered_by(lab, &format!("shop/client-{node}"), "web:80", &[&format!("shop/on-{node}")])?;
        }
        stands(lab, "shop/on-a1", false, false)?;
        answered_by(lab, "shop/client-a1", "web:80", &["shop/on-a2"])?;
        stands(lab, "shop/on-a2", false, false)?;
        answered_by(lab, "shop/client-a1", "web:80", &["shop/on-b"])?;
        stands(lab, "shop/on-a1", true, false)?;
        answered_by(lab, "shop/client-a1", "web:80", &["shop/on-a1"])?;
        answered_by(lab, "shop/client-a2", "web:80", &["shop/on-a1"])
    });
}

#[test]
fn a_service_that_keeps_to_the_node_refuses_where_it_has_nobody_by_name() {
    let plan = Plan::new("local")
        .node("a", [Pod::new("shop/near").app("web"), Pod::new("shop/client")])
        .node("b", [Pod::new("shop/far").app("web"), Pod::new("shop/caller")])
        .node("c", [Pod::new("shop/lonely")])
        .service("shop/web", &[(80, 8080)]);
    scene::mesh(&plan, |lab| {
        let _serving = serve(lab, &["shop/near", "shop/far"])?;
        spec(lab, "shop/web", &json!({"internalTrafficPolicy": "Local"}))?;
        answered_by(lab, "shop/client", "web:80", &["shop/near"])?;
        answered_by(lab, "shop/caller", "web:80", &["shop/far"])?;
        clock::until(CALL, "there is nobody on its node", || {
            let called = lab.pod("shop/lonely")?.is_refused("web:80")?;
            ensure!(called.error.as_deref().is_some_and(|e| e.contains("ConnectionRefused")), "{called:?}");
            let flows = lab.admin(Part::Agent("c")).get("/flows?follow=false")?;
            ensure!(flows.contains("no_local_backend"), "the flow record says why: {flows}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_pod_that_was_told_to_go_is_given_nothing_unless_all_were() {
    let plan = Plan::new("going")
        .node("a", [Pod::new("shop/one").app("web"), Pod::new("shop/client")])
        .node("b", [Pod::new("shop/two").app("web")])
        .service("shop/web", &[(80, 8080)]);
    scene::mesh(&plan, |lab| {
        let _serving = serve(lab, &["shop/one", "shop/two"])?;
        answered_by(lab, "shop/client", "web:80", &["shop/one", "shop/two"])?;
        stands(lab, "shop/one", true, true)?;
        answered_by(lab, "shop/client", "web:80", &["shop/two"])?;
        stands(lab, "shop/two", true, true)?;
        answered_by(lab, "shop/client", "web:80", &["shop/one", "shop/two"])?;
        stands(lab, "shop/one", false, true)?;
        answered_by(lab, "shop/client", "web:80", &["shop/two"])?;
        stands(lab, "shop/two", false, true)?;
        clock::until(CALL, "nobody serves any more", || lab.pod("shop/client")?.is_refused("web:80"))?;
        Ok(())
    });
}

/// So many services are in the directory at a time; with each change of it all of them are others.
const CHURNED: usize = 500;

fn churned(generation: usize) -> String {
    let one = |n: usize| {
        let number = (generation * CHURNED + n) % 60_000;
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: churn-{number}, namespace: shop}}, \
             spec: {{clusterIP: 10.99.{}.{}, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n",
            number / 250,
            number % 250 + 1
        )
    };
    (0..CHURNED).map(one).collect()
}

/// A thousand services added and a thousand removed each second, under connects to one that stays.
fn churn(seconds: u64) {
    let plan = Plan::new("churn")
        .node("a", [Pod::new("shop/near").app("web"), Pod::new("shop/client")])
        .node("b", [Pod::new("shop/far").app("web")])
        .service("shop/web", &[(80, 8080)]);
    scene::mesh(&plan, |lab| {
        let _serving = serve(lab, &["shop/near", "shop/far"])?;
        let agent = || lab.admin(Part::Agent("a"));
        let entries = |map: &str| -> Result<u64> {
            let status = agent().json("/status")?;
            let maps = status["maps"].as_array().context("status has maps")?.clone();
            maps.iter()
                .find(|one| one["map"] == map)
                .and_then(|one| one["entries"].as_u64())
                .context("the map is there")
        };
        let before = [entries("SERVICES")?, entries("SLOTS")?];
        let until = lab.directory().join("stop");
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let path = until.display().to_string();
        let mut steady = lab.pod("shop/client")?.start("steady", &[&program, "steady", "web:80", "--until", &path])?;
        let (began, mut generation) = (clock::now(), 0);
        while clock::now().duration_since(began).as_secs() < seconds {
            generation += 1;
            let compiled = || lab.admin(Part::Control).json("/status")?["generation"].as_u64().context("a generation");
            let last = compiled()?;
            lab.manifests().write("churn.yaml", &churned(generation))?;
            clock::until(CALL, "the change is compiled", || {
                ensure!(compiled()? > last, "generation {last}");
                Ok(())
            })?;
            lab.settle()?; // In force on every node.
        }
        let took = clock::now().duration_since(began).as_secs_f64();
        let rate = (generation * CHURNED) as f64 / took;
        let failures = agent().json("/status")?["failures"].clone();
        ensure!(failures == json!([]), "{failures}");
        lab.manifests().write("churn.yaml", "")?;
        clock::until(CALL, "the tables are as they were", || {
            let after = [entries("SERVICES")?, entries("SLOTS")?];
            ensure!(after == before, "{after:?}, and {before:?} before");
            Ok(())
        })?;
        std::fs::write(&until, "")?;
        steady.wait(millrace_lab::pod::BULK)?;
        let found: millrace_lab::peer::Steady = serde_json::from_str(&steady.output())?;
        ensure!(found.n_failed == 0, "no connect failed and no old connection broke: {found:?}");
        let torn = agent().metrics()?.sum("millrace_kernel_decisions_total", &[("reason", "torn_table")]);
        ensure!(torn == 0.0, "no table was torn: {torn}");
        println!(
            "{rate:.0} services added and as many removed a second over {took:.1} s, under {} connects",
            found.connects
        );
        Ok(())
    });
}

#[test]
fn services_that_come_and_go_by_the_hundred_disturb_nobody() {
    churn(4);
}

#[test]
#[ignore = "long: a minute of churn"]
fn services_that_come_and_go_for_a_minute_disturb_nobody() {
    churn(60);
}
