//! Requests to a service with routes go where the routes say, over two nodes, and a change of routes fails none.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod, clock,
    pod::BULK,
    process::Process,
    web::{Counted, Seen},
};
use serde_json::{Value, json};

use crate::scene;

/// How long a change may take to be in force: the bound.
const IN_FORCE: Duration = Duration::from_secs(1);

/// 4 standard deviations at 50/50 are 2 percentage points.
const REQUESTS: u32 = 10_000;

/// Version 1 on both nodes' sides of the client, version 2 on the other node.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1"), Pod::new("other/stranger")])
        .node("b", [Pod::new("shop/far").app("v2"), Pod::new("shop/caller")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v1", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
}

pub(crate) fn serves(lab: &Lab, pod: &str) -> Result<Process> {
    let pod = lab.pod(pod)?;
    let program = lab.binaries().path("probe-http")?.display().to_string();
    let mut server = pod.start("web", &[&program, "serve", "[::]:8080", "--name", pod.name()])?;
    server.says("listening", scene::CALL)?;
    Ok(server)
}

/// An HTTPRoute of namespace shop on port 80 of service web, with these rules.
pub(crate) fn route(name: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}], "rules": rules},
    })
}

pub(crate) fn split(v1: u32, v2: u32) -> Value {
    // A mark on every answer says by which edition of the rule it went.
    let mark = json!([{"name": "x-split", "value": format!("{v1}-{v2}")}]);
    let filters = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": mark}}]);
    let backends = json!([{"name": "v1", "port": 80, "weight": v1}, {"name": "v2", "port": 80, "weight": v2}]);
    route("canary", &json!([{"name": "split", "filters": filters, "backendRefs": backends}]))
}

/// Applies an object and waits until the client's node has it in force, as `holds` finds.
pub(crate) fn apply(lab: &Lab, object: &Value, holds: impl Fn() -> Result<()>) -> Result<Duration> {
    let begun = clock::now();
    lab.apply(object)?;
    clock::until(Duration::from_secs(10), "the route is in force", holds)?;
    Ok(begun.elapsed())
}

/// Who answers a request of curl's for `url`, and what it was sent.
pub(crate) fn asks(lab: &Lab, pod: &str, url: &str) -> Result<Seen> {
    serde_json::from_str(&lab.pod(pod)?.get(url)?).context("it says what it saw")
}

/// Status and headers that curl gets.
pub(crate) fn answers(lab: &Lab, pod: &str, more: &[&str]) -> Result<String> {
    let mut all = vec!["curl", "--silent", "--max-time", "8", "--output", "/dev/null", "--dump-header", "-"];
    all.extend(more);
    lab.pod(pod)?.run(&all)?.ok()
}

fn load(lab: &Lab, count: u32) -> Result<Counted> {
    lab_http(lab, &["load", "web:80", "--count", &count.to_string()])
}

/// So many requests for a path of `web`.
pub(crate) fn load_path(lab: &Lab, path: &str, count: u32) -> Result<Counted> {
    lab_http(lab, &["load", "web:80", "--path", path, "--count", &count.to_string()])
}

fn lab_http(lab: &Lab, arguments: &[&str]) -> Result<Counted> {
    let program = lab.binaries().path("probe-http")?.display().to_string();
    let mut all = vec![program.as_str()];
    all.extend(arguments);
    let said = lab.pod("shop/client")?.run_within(BULK, &all)?.ok()?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

#[test]
fn a_canary_gets_its_share_and_an_edit_under_load_fails_no_request() {
    scene::mesh(&plan("canary"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        apply(lab, &split(95, 5), || asks(lab, "shop/client", "http://web/").map(drop))?;
        let first = load(lab, REQUESTS)?;
        ensure!(first.n_failed() == 0, "no request fails: {first:?}");
        let share = first.share_of("shop/far");
        ensure!((share - 5.0).abs() < 2.0, "v2 gets 5 % within 2 points, not {share:.2}: {first:?}");

        let program = lab.binaries().path("probe-http")?.display().to_string();
        let until = lab.directory().join("stop");
        let path = until.display().to_string();
        let mut steady = lab.pod("shop/client")?.start("load", &[&program, "load", "web:80", "--until", &path])?;
        lab.apply(&split(50, 50))?;
        let begun = clock::now();
        clock::until(IN_FORCE, "the edit is in force", || {
            let said = answers(lab, "shop/client", &["http://web/"])?;
            ensure!(said.contains("x-split: 50-50"), "it is asked by the edited rule: {said}");
            Ok(())
        })?;
        let took = begun.elapsed();
        let second = load(lab, REQUESTS)?;
        std::fs::write(&until, "")?;
        steady.wait(BULK)?;
        let under: Counted = serde_json::from_str(&steady.output())?;
        ensure!(under.n_failed() == 0 && second.n_failed() == 0, "no request fails: {under:?} {second:?}");
        ensure!(under.n_connections <= 8, "no connection was lost: {under:?}");
        let half = second.share_of("shop/far");
        ensure!((half - 50.0).abs() < 2.0, "v2 gets 50 % within 2 points, not {half:.2}: {second:?}");
        println!(
            "95/5: v2 got {share:.2} %; edited under load, in force within {took:?}; 50/50: v2 got {half:.2} %; {under:?}"
        );
        Ok(())
    });
}

#[test]
fn rules_choose_by_path_header_and_host_and_filters_are_done() {
    scene::mesh(&plan("rules"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        let to = |name: &str| json!([{"name": name, "port": 80}]);
        let rules = json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}], "backendRefs": to("v2"),
             "filters": [
                {"type": "URLRewrite", "urlRewrite": {"hostname": "two.example.com", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}},
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": "1"}], "remove": ["user-agent"]}},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "x-added", "value": "yes"}]}},
             ]},
            {"matches": [{"path": {"type": "Exact", "value": "/old"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301, "path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}}}]},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/gone"}}], "backendRefs": to("nobody")},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/wait"}}], "backendRefs": to("v1"), "timeouts": {"request": "300ms"}},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": to("v1")},
        ]);
        apply(lab, &route("rules", &rules), || {
            let seen = asks(lab, "shop/client", "http://web/v2/a?b=c")?;
            ensure!(seen.pod == "shop/far", "{seen:?}");
            Ok(())
        })?;
        let seen = asks(lab, "shop/client", "http://web/v2/a?b=c")?;
        ensure!(seen.target == "/new/a?b=c" && seen.headers["host"] == "two.example.com", "{seen:?}");
        ensure!(seen.headers["x-set"] == "1" && !seen.headers.contains_key("user-agent"), "{seen:?}");
        let client = lab.pod("shop/client")?.addresses();
        ensure!(client.both().contains(&seen.client.ip()), "the application sees the pod that called: {seen:?}");
        let near = asks(lab, "shop/client", "http://web/v1")?;
        ensure!(near.pod == "shop/near" && client.both().contains(&near.client.ip()), "on one node too: {near:?}");
        ensure!(near.headers["host"] == "web", "{near:?}");
        let says = |wanted: &[&str], arguments: &[&str]| {
            let said = answers(lab, "shop/client", arguments)?.to_ascii_lowercase();
            ensure!(wanted.iter().all(|wanted| said.contains(wanted)), "{arguments:?} gets {wanted:?}: {said}");
            Ok(())
        };
        says(&["200 ok", "x-added: yes"], &["http://web/v2/a"])?;
        says(&["301 moved", "location: https://web/new\r\n"], &["http://web/old"])?;
        says(&["404 not found", "x-millrace-reason: no_route"], &["http://web/else"])?;
        says(&["500 internal", "x-millrace-reason: backend_unresolved"], &["http://web/gone"])?;
        says(&["504 gateway", "x-millrace-reason: request_timeout"], &["http://web/wait/5000"])?;
        says(
            &["400 bad", "x-millrace-reason: bad_content_length"],
            &["-H", "Content-Length: 1, 1", "-d", "x", "http://web/v1"],
        )?;
        Ok(())
    });
}

#[test]
fn without_a_route_a_port_is_not_parsed_and_with_one_policy_still_binds() {
    scene::mesh(&plan("unrouted"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        let direct = asks(lab, "shop/client", "http://v1/")?;
        ensure!(direct.pod == "shop/near", "{direct:?}");
        apply(lab, &split(1, 1), || asks(lab, "shop/client", "http://web/").map(drop))?;
        let deny = millrace_lab::manifests::access_policy(
            "shop/guard",
            "Allow",
            "v1",
            &[millrace_lab::manifests::Rule::namespace("nobody")],
        )?;
        lab.apply(&deny)?;
        clock::until(Duration::from_secs(10), "v1 is closed to the client, v2 is not", || {
            let counted = load(lab, 100)?;
            ensure!(!counted.by_pod.contains_key("shop/near") && counted.by_status.contains_key(&403), "{counted:?}");
            ensure!(counted.by_pod.contains_key("shop/far"), "{counted:?}");
            Ok(())
        })?;
        Ok(())
    });
}
