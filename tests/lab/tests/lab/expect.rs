//! Clients that wait to be asked for a body (RFC 9110, 10.1.1): their endpoint is the one to ask, in HTTP/1.1 and HTTP/2.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Plan, Pod, clock, manifests, web::expect::Asked};
use serde_json::json;

use crate::{
    protocols::{all_to, says, serves},
    scene,
};

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(10);

/// After so long an endpoint that says nothing is taken to want the body: the proxy's own second, and room for a busy machine.
const UNASKED_MS: std::ops::Range<u64> = 900..2_500;

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client")])
        .node("b", [Pod::new("shop/far").app("far")])
        .service("shop/web", &[(80, 8080), (90, 9090)])
        .service("shop/far", &[(80, 8080), (90, 9090)])
}

/// HTTP/1.1 at port 80, HTTP/2 at 90.
fn served(name: &str, test: impl FnOnce(&Lab) -> Result<()>) {
    scene::mesh(&plan(name), |lab| {
        let _one = serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?;
        let _two = serves(lab, "shop/far", "probe-http", &["asking", "[::]:9090"])?;
        let far = lab.topology().services.iter().find(|service| &*service.name.name == "far");
        let mut far = far.map(manifests::service).context("it is planned")?;
        far["spec"]["ports"][1]["appProtocol"] = json!("kubernetes.io/h2c");
        lab.apply(&far)?;
        for port in [80, 90] {
            lab.apply(&all_to("HTTPRoute", "far", port))?;
        }
        clock::until(SOON, "the routes are in force", || {
            ensure!(raw(lab, "web:80", "GET / HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n")?.contains("x-forwarded-for"));
            ensure!(two(lab, "web:90", "/")?.said.contains("12 bytes"));
            Ok(())
        })?;
        test(lab)
    });
}

fn raw(lab: &Lab, target: &str, send: &str) -> Result<String> {
    says(lab, "shop/client", "probe-http", &["raw", target, send, "--silence-ms", "1800"])
}

fn two(lab: &Lab, target: &str, path: &str) -> Result<Asked> {
    let said = says(lab, "shop/client", "probe-http", &["expect", target, path])?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

/// A head of HTTP/1.1 that waits to be asked for three bytes.
fn waits(path: &str) -> String {
    format!("POST {path} HTTP/1.1\\r\\nhost: web\\r\\nexpect: 100-continue\\r\\ncontent-length: 3\\r\\n\\r\\n")
}

#[test]
fn an_endpoint_is_asked_whether_it_wants_a_body_and_its_word_reaches_the_client() {
    served("expect", |lab| {
        // It asks when it begins to read, and by HTTP/2 at once.
        let said = raw(lab, "web:80", &waits("/"))?;
        ensure!(said.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "the endpoint asks: {said}");
        let asked = raw(lab, "web:80", &format!("{}abc", waits("/")))?;
        ensure!(
            asked.contains("HTTP/1.1 200") && asked.contains("\"expect\":\"100-continue\""),
            "it was told so: {asked}"
        );
        ensure!(asked.contains("\"n_body\":3"), "{asked}");
        let asked = raw(lab, "web:90", &waits("/"))?;
        ensure!(asked.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "by HTTP/2 too: {asked}");
        for (target, said) in [("web:80", "\"n_body\":12"), ("web:90", "12 bytes, expected true")] {
            let asked = two(lab, target, "/")?;
            ensure!(asked.is_asked && asked.status == 200 && asked.said.contains(said), "{target}: {asked:?}");
            ensure!(asked.after_ms < UNASKED_MS.start, "by the endpoint, and not for want of its word: {asked:?}");
        }
        Ok(())
    });
}

#[test]
fn an_endpoint_that_answers_first_never_gets_the_body_and_one_that_says_nothing_gets_it_in_time() {
    served("unwanted", |lab| {
        // Nothing is asked for, and the connection, in which a body was announced, ends: HTTP/2 goes on.
        for (target, path) in [("web:80", "/status/413"), ("web:90", "/refuse")] {
            let said = raw(lab, target, &format!("{}abcGET /next HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n", waits(path)))?;
            let lower = said.to_lowercase();
            ensure!(said.starts_with("HTTP/1.1 413") && lower.contains("connection: close\r\n"), "{target}: {said}");
            ensure!(!said.contains("/next") && !said.contains("100 Continue"), "{target}: {said}");
            let asked = two(lab, target, path)?;
            ensure!(!asked.is_asked && asked.status == 413, "{target}: {asked:?}");
        }
        // The next request is none the worse: no connection to an endpoint is used that waits for a body.
        for _ in 0..5 {
            ensure!(two(lab, "web:90", "/refuse")?.status == 413 && two(lab, "web:90", "/")?.status == 200);
            let said = raw(lab, "web:80", &format!("{}abc", waits("/")))?;
            ensure!(said.contains("\"n_body\":3"), "{said}");
        }
        // It reads nothing for three seconds, and never asks.
        let said = raw(lab, "web:80", &waits("/unread/3000"))?;
        ensure!(said.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "the proxy asks in its place: {said}");
        for (target, path) in [("web:80", "/unread/3000"), ("web:90", "/silent")] {
            let asked = two(lab, target, path)?;
            ensure!(
                asked.is_asked && UNASKED_MS.contains(&asked.after_ms) && asked.status == 200,
                "{target}: {asked:?}"
            );
        }
        // What was refused here never left.
        let said = raw(
            lab,
            "web:80",
            "POST / HTTP/1.0\\r\\nhost: web\\r\\nexpect: 100-continue\\r\\ncontent-length: 3\\r\\n\\r\\nabc",
        )?;
        ensure!(
            said.contains(" 200 ") && !said.contains("100 Continue") && !said.contains("\"expect\""),
            "HTTP/1.0 expects nothing: {said}"
        );
        Ok(())
    });
}
