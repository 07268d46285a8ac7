//! Sessions: a client's requests stay with one endpoint, from any node, whatever the shares; and no token leads anywhere else.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock};
use serde_json::{Value, json};

use crate::{
    filters::{to, under},
    routes::{apply, asks, route, serves},
    scene,
};

/// Two endpoints of version 1, one of version 2, and a client on either node.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v1"), Pod::new("shop/new").app("v2"), Pod::new("shop/caller")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v1", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
}

/// What curl gets for `url`, head and body, and who answered.
fn ask(lab: &Lab, pod: &str, url: &str, more: &[&str]) -> Result<(String, String)> {
    let mut all = vec!["curl", "--silent", "--include", "--max-time", "8", url];
    all.extend(more);
    let said = lab.pod(pod)?.run(&all)?.ok()?;
    let who = said.lines().find_map(|line| line.strip_prefix("x-pod: ")).context("a pod answers")?.trim().to_owned();
    Ok((said, who))
}

/// Who answers so many requests of a cookie jar's owner.
fn answered(lab: &Lab, pod: &str, url: &str, (jar, count): (&str, usize)) -> Result<BTreeSet<String>> {
    (0..count).map(|_| Ok(ask(lab, pod, url, &["--cookie", jar, "--cookie-jar", jar])?.1)).collect()
}

/// The one pod of a set.
fn only(pods: &BTreeSet<String>) -> Result<&str> {
    ensure!(pods.len() == 1, "one endpoint answers all: {pods:?}");
    Ok(pods.first().context("one")?)
}

fn split(v1: u32, v2: u32, session: &Value) -> Value {
    let backends = json!([{"name": "v1", "port": 80, "weight": v1}, {"name": "v2", "port": 80, "weight": v2}]);
    let mark = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-split", "value": format!("{v1}-{v2}")}]}}]);
    route(
        "sessions",
        &json!([{"name": "split", "filters": mark, "backendRefs": backends, "sessionPersistence": session}]),
    )
}

fn in_force(lab: &Lab, (v1, v2): (u32, u32), session: &Value) -> Result<()> {
    let mark = format!("x-split: {v1}-{v2}");
    apply(lab, &split(v1, v2, session), || {
        for pod in ["shop/client", "shop/caller"] {
            ensure!(ask(lab, pod, "http://web/", &[])?.0.contains(&mark), "{pod} is answered by the new rule");
        }
        Ok(())
    })?;
    Ok(())
}

fn outcomes(lab: &Lab, outcome: &str) -> Result<f64> {
    Ok(lab.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_http_sessions_total", &[("outcome", outcome)]))
}

#[test]
fn a_session_keeps_its_endpoint_from_any_node_and_through_a_weight_of_none() {
    const ASKED: usize = 12;
    scene::mesh(&plan("sessions"), |lab| {
        let [near, far, new] = [serves(lab, "shop/near")?, serves(lab, "shop/far")?, serves(lab, "shop/new")?];
        let session = json!({"sessionName": "cart", "absoluteTimeout": "1h", "idleTimeout": "10m"});
        in_force(lab, (1, 1), &session)?;
        let strangers: BTreeSet<String> =
            (0..40).map(|_| Ok(ask(lab, "shop/client", "http://web/", &[])?.1)).collect::<Result<_>>()?;
        ensure!(strangers.len() == 3, "without a token requests are shared out: {strangers:?}");

        // Until a session is with version 1, so that its weight can go.
        let jar = lab.directory().join("jar").display().to_string();
        let mut first = String::new();
        for _ in 0..40 {
            first = ask(lab, "shop/client", "http://web/", &["--cookie-jar", &jar])?.1;
            if first != "shop/new" {
                break;
            }
        }
        let text = std::fs::read_to_string(&jar)?;
        ensure!(text.contains("#HttpOnly_web") && text.contains("cart"), "the jar has the cookie: {text}");
        let addresses = ["shop/near", "shop/far"].map(|pod| lab.pod(pod).map(|pod| pod.addresses().both()));
        for address in addresses.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            ensure!(!text.contains(&address.to_string()), "no address is in it: {text}");
        }
        let url = "http://web/";
        ensure!(only(&answered(lab, "shop/client", url, (&jar, ASKED))?)? == first, "it stays");
        ensure!(only(&answered(lab, "shop/caller", url, (&jar, ASKED))?)? == first, "the other node's proxy knows it");
        ensure!(outcomes(lab, "kept")? >= ASKED as f64, "it is counted");

        in_force(lab, (0, 1), &session)?;
        ensure!(
            only(&answered(lab, "shop/client", url, (&jar, ASKED))?)? == first,
            "a weight of 0 takes no session away"
        );
        let (_, who) = ask(lab, "shop/client", url, &[])?;
        ensure!(who == "shop/new", "but gets no new one: {who}");

        // What is no token of this rule's is none, and harms nobody.
        let word = text.lines().find_map(|line| line.rsplit_once('\t').filter(|(head, _)| head.ends_with("cart")));
        let token = word.context("a token")?.1.to_owned();
        for forged in [token.replace(|c: char| c.is_ascii_digit(), "0"), "10.10.2.1:8080".to_owned(), "x".repeat(4_000)]
        {
            let (said, who) = ask(lab, "shop/client", url, &["--cookie", &format!("cart={forged}")])?;
            ensure!(said.contains("set-cookie: cart=") && who == "shop/new", "{forged:?} leads nowhere: {said}");
        }

        // The endpoint is gone: another takes the request, and the client gets a new token.
        let (gone, _stays) = if first == "shop/near" { (near, far) } else { (far, near) };
        drop(gone);
        let moved = outcomes(lab, "moved")? + outcomes(lab, "begun")?;
        clock::until(Duration::from_secs(10), "another endpoint has it", || {
            let (said, who) = ask(lab, "shop/client", url, &["--cookie", &jar, "--cookie-jar", &jar])?;
            ensure!(who != first && said.contains("set-cookie: cart="), "{said}");
            Ok(())
        })?;
        ensure!(outcomes(lab, "moved")? + outcomes(lab, "begun")? > moved, "it is counted");
        let second = answered(lab, "shop/client", url, (&jar, ASKED))?;
        ensure!(only(&second)? != first, "it stays there");
        drop(new);
        Ok(())
    });
}

#[test]
fn sessions_are_carried_by_headers_too_and_by_policies_and_shared_by_no_two_rules() {
    scene::mesh(&plan("session-rules"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?, serves(lab, "shop/new")?];
        let session = json!({"type": "Header", "sessionName": "x-cart"});
        let policy = json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
            "metadata": {"namespace": "shop", "name": "stay"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "v2"}],
                "sessionPersistence": {"absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}},
            },
        });
        lab.apply(&policy)?;
        let rules = json!([
            {"matches": under("/a"), "backendRefs": to("v1"), "sessionPersistence": session},
            {"matches": under("/b"), "backendRefs": to("v1"), "sessionPersistence": session},
            {"matches": under("/policy"), "backendRefs": to("v2")},
        ]);
        apply(lab, &route("sessions", &rules), || asks(lab, "shop/client", "http://web/a").map(drop))?;
        let (said, first) = ask(lab, "shop/client", "http://web/a", &[])?;
        let token = said.lines().find_map(|line| line.strip_prefix("x-cart: ")).context("a token")?.trim().to_owned();
        let header = format!("x-cart: {token}");
        for _ in 0..12 {
            let (said, who) = ask(lab, "shop/client", "http://web/a", &["--header", &header])?;
            ensure!(who == first && !said.contains("\nx-cart:"), "it stays, and the token with it: {said}");
        }
        let (said, _) = ask(lab, "shop/client", "http://web/b", &["--header", &header])?;
        let other = said.lines().find_map(|line| line.strip_prefix("x-cart: ")).context("a token of its own")?.trim();
        ensure!(other != token, "the other rule's sessions are its own");

        let (said, _) = ask(lab, "shop/client", "http://web/policy", &[])?;
        let cookie = said.lines().find_map(|line| line.strip_prefix("set-cookie: ")).context("a cookie")?;
        ensure!(
            cookie.starts_with("millrace-") && cookie.contains("; Max-Age=3600") && !cookie.contains("Path"),
            "{cookie}"
        );
        Ok(())
    });
}
