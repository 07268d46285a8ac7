//! Requests that are sent again: which, where to, with what body, within what time, and how many at most.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock, manifests, process::Process};
use serde_json::{Value, json};

use crate::{
    filters::{posts, served, to, under},
    routes::{answers, apply, asks, load_path, route, serves},
    scene,
};

/// Two endpoints, one on either node.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v1")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v1", &[(80, 8080)])
}

fn serving(lab: &Lab) -> Result<[Process; 2]> {
    Ok([serves(lab, "shop/near")?, serves(lab, "shop/far")?])
}

/// A rule for what is below a path, with these fields.
fn rule(path: &str, more: Value) -> Value {
    let mut rule = json!({"matches": under(path), "backendRefs": to("v1")});
    if let (Some(rule), Value::Object(more)) = (rule.as_object_mut(), more) {
        rule.extend(more);
    }
    rule
}

/// What both endpoints have had of a path: requests, bytes.
fn had(lab: &Lab, path: &str) -> Result<[(u32, usize); 2]> {
    Ok([served(lab, "shop/near", path)?, served(lab, "shop/far", path)?])
}

fn counted(lab: &Lab, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(lab.admin(Part::Proxy("a")).metrics()?.sum(name, labels))
}

fn made(lab: &Lab, cause: &str) -> Result<f64> {
    counted(lab, "millrace_proxy_http_retries_total", &[("cause", cause)])
}

fn withheld(lab: &Lab, reason: &str) -> Result<f64> {
    counted(lab, "millrace_proxy_http_retries_withheld_total", &[("reason", reason)])
}

/// A policy that lets so many requests to `v1` be sent again within a time, however many come.
fn budget(count: u32, interval: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"namespace": "shop", "name": "patient"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "v1"}],
            "retryConstraint": {"budget": {"percent": 0}, "minRetryRate": {"count": count, "interval": interval}},
        },
    })
}

fn in_force(lab: &Lab, rules: &Value) -> Result<()> {
    apply(lab, &route("retries", rules), || asks(lab, "shop/client", "http://web/probe").map(drop))?;
    Ok(())
}

#[test]
fn what_fails_is_sent_again_elsewhere_as_often_as_the_rule_says() {
    scene::mesh(&plan("retries"), |lab| {
        let _serving = serving(lab)?;
        let retry = json!({"retry": {"codes": [503], "attempts": 2, "backoff": "20ms"}});
        let timed = json!({"retry": {"attempts": 2, "backoff": "20ms"}, "timeouts": {"request": "8s", "backendRequest": "300ms"}});
        let short =
            json!({"retry": {"codes": [503], "attempts": 9, "backoff": "200ms"}, "timeouts": {"request": "700ms"}});
        let rules = json!([
            {"name": "without", "matches": under("/probe"), "backendRefs": to("v1")},
            rule("/trouble/1/silence", timed), rule("/trouble/99/503", short), rule("/trouble/1/504", json!({})), rule("/", retry),
        ]);
        // More than are made here, however quick the machine is.
        lab.apply(&budget(1_000, "1s"))?;
        in_force(lab, &rules)?;
        let client = |path: &str| answers(lab, "shop/client", &[&format!("http://web{path}")]);

        // Both fail once: the first retry goes to the one that was not asked yet, the second succeeds.
        let said = client("/trouble/1/503/a")?;
        ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
        let [near, far] = had(lab, "/trouble/1/503/a")?;
        ensure!(
            near.0 >= 1 && far.0 >= 1 && near.0 + far.0 == 3,
            "each was asked before any was asked twice: {near:?} {far:?}"
        );
        ensure!(made(lab, "status")? == 2.0, "both are counted: {}", made(lab, "status")?);

        // As often as the rule says and no more: the last answer is the client's.
        let said = client("/trouble/9/503/b")?;
        ensure!(said.starts_with("HTTP/1.1 503") && !said.contains("x-millrace-reason"), "the endpoint's own: {said}");
        let [near, far] = had(lab, "/trouble/9/503/b")?;
        ensure!(near.0 + far.0 == 3, "{near:?} {far:?}");
        ensure!(withheld(lab, "attempts")? == 1.0, "it is counted");

        // A status that the rule does not name is an answer; so is every one where there is no retry.
        ensure!(client("/trouble/1/500/c")?.starts_with("HTTP/1.1 500"), "500 is not named");
        ensure!(client("/trouble/1/504/d")?.starts_with("HTTP/1.1 504"), "this rule has no retry");

        // A connection that ends, and one on which nothing comes, is always a failure.
        // By a method that no stale connection is reason enough to repeat.
        let said = answers(lab, "shop/client", &["http://web/trouble/1/reset/e", "--request", "POST"])?;
        ensure!(said.starts_with("HTTP/1.1 200"), "a reset is retried: {said}");
        ensure!(made(lab, "upstream_broken")? >= 1.0, "by its name");
        let begun = clock::now();
        ensure!(client("/trouble/1/silence/f")?.starts_with("HTTP/1.1 200"), "a time-out is retried");
        ensure!(begun.elapsed() < Duration::from_secs(4), "each attempt has its own time: {:?}", begun.elapsed());
        ensure!(made(lab, "backend_timeout")? >= 1.0, "by its name");

        // The time of the whole holds over all: no pause is begun that would end after it.
        let begun = clock::now();
        let said = client("/trouble/99/503/g")?;
        ensure!(said.starts_with("HTTP/1.1 50"), "{said}");
        ensure!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        ensure!(withheld(lab, "time")? == 1.0, "it is counted: {}", withheld(lab, "time")?);
        Ok(())
    });
}

#[test]
fn a_body_is_sent_again_whole_up_to_a_bound_and_by_either_version_of_http() {
    scene::mesh(&plan("retried-bodies"), |lab| {
        let _serving = serving(lab)?;
        let retry = json!({"retry": {"codes": [503], "attempts": 2, "backoff": "20ms"}});
        let rules = json!([rule("/probe", json!({})), rule("/", retry)]);
        // More than are made here: without it a quick machine makes more than ten within a second. Written first, it is in force with the route.
        lab.apply(&budget(1_000, "1s"))?;
        in_force(lab, &rules)?;
        for upstream in ["http1", "h2c"] {
            if upstream == "h2c" {
                let v1 = lab.topology().services.iter().find(|service| &*service.name.name == "v1");
                let mut v1 = v1.map(manifests::service).context("it is planned")?;
                v1["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/h2c");
                lab.apply(&v1)?;
                clock::until(Duration::from_secs(10), "HTTP/2 is spoken", || {
                    ensure!(asks(lab, "shop/client", "http://web/probe")?.version == "HTTP/2.0");
                    Ok(())
                })?;
            }
            for (path, bytes) in [("small", 10_000), ("large", 60_000), ("small/chunked", 10_000)] {
                let path = format!("/trouble/1/503/{upstream}/{path}");
                let said = posts(lab, &path, bytes)?;
                let why =
                    || ["attempts", "budget", "body", "time"].map(|reason| withheld(lab, reason).unwrap_or_default());
                ensure!(
                    said.contains(&format!("\"n_body\":{bytes}")),
                    "all of {path} came: {said}, withheld {:?}",
                    why()
                );
                let [near, far] = had(lab, &path)?;
                ensure!(near.1 + far.1 == 3 * bytes, "each had the whole: {near:?} {far:?}");
            }
            // What is too much to be kept is sent once, with its answer as it is.
            let n_before = withheld(lab, "body")?;
            let path = format!("/trouble/1/503/{upstream}/upload");
            let said = posts(lab, &path, 5_000_000)?;
            ensure!(said == "trouble", "{said}");
            ensure!(withheld(lab, "body")? == n_before + 1.0, "it is counted");
            // One that could not be sent is, whatever its length: nothing of it has gone.
            let said = posts(lab, &format!("/{upstream}/unhindered"), 5_000_000)?;
            ensure!(said.contains("\"n_body\":5000000"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn a_service_that_fails_all_gets_a_fifth_more_requests_and_not_a_multiple() {
    const REQUESTS: u32 = 4_000;
    scene::mesh(&plan("retry-storm"), |lab| {
        let _serving = serving(lab)?;
        let retry = json!({"retry": {"codes": [503], "attempts": 10, "backoff": "1ms"}});
        in_force(lab, &json!([rule("/probe", json!({})), rule("/", retry)]))?;
        let path = "/trouble/1000000/503/storm";
        let begun = clock::now();
        let counted = load_path(lab, path, REQUESTS)?;
        let took = begun.elapsed();
        ensure!(counted.by_status.get(&503) == Some(&REQUESTS), "each has its answer: {counted:?}");
        let [near, far] = had(lab, path)?;
        let sent = near.0 + far.0;
        // A fifth of them, and ten for each second.
        let most = f64::from(REQUESTS) * 1.2 + 10.0 * (took.as_secs_f64() + 1.0);
        ensure!(f64::from(sent) <= most, "{sent} came of {REQUESTS} in {took:?}");
        ensure!(f64::from(sent) > f64::from(REQUESTS) * 1.1, "some are sent again: {sent} of {REQUESTS}");
        let spent = withheld(lab, "budget")?;
        ensure!(spent > f64::from(REQUESTS) * 0.5, "it is told: {spent}");
        println!(
            "{REQUESTS} requests, all failing, 10 retries asked for: {sent} came in {took:?} ({:.3} each; 11 without a budget)",
            f64::from(sent) / f64::from(REQUESTS)
        );

        // A policy of the service's that lets one request an hour be sent again, and then says why none is.
        lab.apply(&budget(1, "1h"))?;
        clock::until(Duration::from_secs(10), "the policy is in force", || {
            let said = answers(lab, "shop/client", &["http://web/trouble/1000000/503/policy"])?;
            ensure!(
                said.starts_with("HTTP/1.1 503") && said.contains("x-millrace-reason: retry_budget_exhausted"),
                "{said}"
            );
            Ok(())
        })?;
        let before = had(lab, "/trouble/9/503/once")?;
        answers(lab, "shop/client", &["http://web/trouble/9/503/once"])?;
        let [near, far] = had(lab, "/trouble/9/503/once")?;
        ensure!(before == [(0, 0); 2] && near.0 + far.0 == 1, "it is sent once: {near:?} {far:?}");
        Ok(())
    });
}
