//! Endpoints to which connections fail are left out for a while, on both paths, and return by themselves.

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock, network};
use serde_json::{Value, json};

use crate::scene::{self, CALL};

const CALLS: u32 = 20;

/// Three failures leave an endpoint out, for two seconds the first time.
fn policy(services: &[&str], more: &Value) -> Value {
    let refs: Vec<Value> = services.iter().map(|name| json!({"kind": "Service", "name": name})).collect();
    let mut ejection = json!({"consecutiveFailures": 3, "baseEjectionTime": "2s", "maxEjectionTime": "4s"});
    for (key, value) in more.as_object().into_iter().flatten() {
        ejection[key] = value.clone();
    }
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"namespace": "shop", "name": "quick"},
        "spec": {"targetRefs": refs, "outlierEjection": ejection},
    })
}

fn plan(name: &str, on: &str) -> Plan {
    let servers = || ["shop/one", "shop/two", "shop/three"].map(|pod| Pod::new(pod).app("web"));
    let plan = Plan::new(name);
    let plan = match on {
        "a" => plan.node("a", servers().into_iter().chain([Pod::new("shop/client")])),
        _ => plan.node("a", [Pod::new("shop/client")]).node("b", servers()),
    };
    plan.service("shop/web", &[(80, 8080)])
}

/// The service, of one family: each has its own endpoints.
fn web(lab: &Lab) -> Result<String> {
    Ok(format!("{}:80", lab.topology().service("shop/web")?.addresses.v4))
}

/// The endpoints that the client's agent leaves out, with their cause.
fn left_out(lab: &Lab) -> Result<Vec<(String, String)>> {
    let status = lab.admin(Part::Agent("a")).json("/status")?;
    let all = status["ejected"].as_array().context("status lists who is left out")?;
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|one| (text(one, "workload"), text(one, "cause"))).collect())
}

/// Calls until the endpoint is left out, and checks what is said of it.
fn is_left_out(lab: &Lab, pod: &str, cause: &str) -> Result<()> {
    clock::until(CALL, &format!("{pod} is left out: {cause}"), || {
        lab.pod("shop/client")?.connects_often(web(lab)?, CALLS)?;
        let found = left_out(lab)?;
        ensure!(found == [(pod.to_owned(), cause.to_owned())], "{found:?}");
        Ok(())
    })?;
    let flows = lab.admin(Part::Agent("a")).get("/flows?follow=false")?;
    ensure!(flows.lines().any(|flow| flow.contains("\"ejected\"") && flow.contains("shop/web:80")), "{flows}");
    let metrics = lab.admin(Part::Agent("a")).metrics()?;
    ensure!(metrics.sum("millrace_agent_ejections_total", &[("cause", cause)]) >= 1.0, "it is counted by its cause");
    let program = lab.binaries().path("millrace")?.display().to_string();
    let run_dir = lab.run_directory("a").display().to_string();
    let ask = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(["--run-dir", &run_dir]).args(words);
        anyhow::Ok(String::from_utf8(command.output()?.stdout)?)
    };
    let status = ask(&["status"])?;
    ensure!(status.contains("LEFT OUT") && status.contains(pod), "status names it: {status}");
    let explained = ask(&["explain", "shop/client", &web(lab)?, "--by", "agent"])?;
    ensure!(explained.contains(pod) && explained.contains("leaves it out"), "explain says why: {explained}");
    Ok(())
}

fn returns(lab: &Lab, pod: &str) -> Result<()> {
    clock::until(CALL, &format!("{pod} returns"), || {
        let done = lab.pod("shop/client")?.connects_often(web(lab)?, CALLS)?;
        ensure!(done.errors.is_empty() && done.by_name.contains_key(pod), "{done:?}");
        ensure!(left_out(lab)?.is_empty(), "nobody is left out any more");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn an_endpoint_of_this_node_that_refuses_is_left_out_and_returns() {
    scene::mesh(&plan("refuses", "a"), |lab| {
        let _serving = [lab.pod("shop/one")?.serves("[::]:8080", &[])?, lab.pod("shop/two")?.serves("[::]:8080", &[])?];
        lab.apply(&policy(&["web"], &json!({"baseEjectionTime": "30s", "maxEjectionTime": "30s"})))?;
        is_left_out(lab, "shop/three", "refused")?;
        clock::until(CALL, "the others serve alone", || {
            let done = lab.pod("shop/client")?.connects_often(web(lab)?, 10 * CALLS)?;
            ensure!(done.errors.is_empty(), "{done:?}");
            Ok(())
        })?;
        let _back = lab.pod("shop/three")?.serves("[::]:8080", &[])?;
        lab.apply(&policy(&["web"], &json!({"mode": "Disabled"})))?;
        returns(lab, "shop/three")
    });
}

/// The proxy tries another, so that no caller notices; and after three such it does not begin with this one.
#[test]
fn an_endpoint_of_another_node_is_left_out_by_what_the_proxy_meets() {
    scene::mesh(&plan("afar", "b"), |lab| {
        let _serving = [lab.pod("shop/one")?.serves("[::]:8080", &[])?, lab.pod("shop/two")?.serves("[::]:8080", &[])?];
        lab.apply(&policy(&["web"], &json!({"baseEjectionTime": "20s", "maxEjectionTime": "20s"})))?;
        is_left_out(lab, "shop/three", "unavailable")?;
        let proxy = || lab.admin(Part::Proxy("a")).metrics();
        ensure!(
            proxy()?.sum("millrace_proxy_ejections_total", &[("cause", "unavailable")]) >= 1.0,
            "the proxy decides too"
        );
        let before = proxy()?.sum("millrace_proxy_retries_total", &[]);
        let done = lab.pod("shop/client")?.connects_often(web(lab)?, 5 * CALLS)?;
        ensure!(done.errors.is_empty() && !done.by_name.contains_key("shop/three"), "{done:?}");
        let after = proxy()?.sum("millrace_proxy_retries_total", &[]);
        ensure!(before == after, "nothing is tried there while it is out: {} retries", after - before);
        let _back = lab.pod("shop/three")?.serves("[::]:8080", &[])?;
        lab.apply(&policy(&["web"], &json!({"mode": "Disabled"})))?;
        returns(lab, "shop/three")
    });
}

/// Its answers go nowhere: callers wait, give up, and count. Its time over, it returns by itself.
#[test]
fn an_endpoint_that_is_silent_is_left_out_and_returns_by_itself() {
    scene::mesh(&plan("silent", "a"), |lab| {
        let serving = ["shop/one", "shop/two", "shop/three"].map(|pod| lab.pod(pod)?.serves("[::]:8080", &[]));
        let _serving: Vec<_> = serving.into_iter().collect::<Result<_>>()?;
        lab.apply(&policy(&["web"], &json!({})))?;
        let client = lab.topology().pod("shop/client")?.addresses.v4;
        let namespace = network::netns(lab.number(), "shop/three");
        let name = namespace.file_name().context("a name")?.to_string_lossy().into_owned();
        let route = |verb: &str| -> Result<()> {
            let line = format!("-n {name} route {verb} blackhole {client}/32");
            let done = std::process::Command::new("ip").args(line.split(' ')).output()?;
            ensure!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
            Ok(())
        };
        route("add")?;
        let calls = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do \
            curl -4 -s -o /dev/null --connect-timeout 1.4 --max-time 1.6 http://web:80/ & done; wait";
        clock::until(CALL, "the silent one is left out", || {
            lab.pod("shop/client")?.run(&["sh", "-c", calls])?;
            let found = left_out(lab)?;
            ensure!(found == [("shop/three".to_owned(), "timed_out".to_owned())], "{found:?}");
            Ok(())
        })?;
        route("del")?;
        returns(lab, "shop/three")
    });
}

/// Nobody listens at all: of three endpoints half at most is left out, which is one, and callers are refused by the others.
#[test]
fn no_more_than_the_share_is_left_out_however_many_refuse() {
    scene::mesh(&plan("all-refuse", "a"), |lab| {
        lab.apply(&policy(
            &["web"],
            &json!({"maxEjectedPercent": 50, "baseEjectionTime": "30s", "maxEjectionTime": "30s"}),
        ))?;
        clock::until(CALL, "one is left out", || {
            lab.pod("shop/client")?.connects_often(web(lab)?, CALLS)?;
            ensure!(left_out(lab)?.len() == 1);
            Ok(())
        })?;
        // Each of the others has had failures enough, over several of the agent's looks at them.
        for _ in 0..10 {
            lab.pod("shop/client")?.connects_often(web(lab)?, 2 * CALLS)?;
            let found = left_out(lab)?;
            ensure!(found.len() == 1, "half of three is one: {found:?}");
        }
        lab.apply(&policy(
            &["web"],
            &json!({"maxEjectedPercent": 100, "baseEjectionTime": "30s", "maxEjectionTime": "30s"}),
        ))?;
        clock::until(CALL, "with all of the share, all but one", || {
            lab.pod("shop/client")?.connects_often(web(lab)?, CALLS)?;
            ensure!(left_out(lab)?.len() == 2);
            Ok(())
        })?;
        Ok(())
    });
}
