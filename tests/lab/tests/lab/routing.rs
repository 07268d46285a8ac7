//! Every kind of match, redirect and reference on live requests, over HTTP/1.1 and HTTP/2; `millrace routes` and `millrace explain` name
//! the rule by which each went.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Plan, Pod, clock, process};
use serde_json::{Value, json};

use crate::{
    routes::{answers, apply, asks, load_path, serves},
    scene,
};

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(10);

/// Requests by which shares are measured.
const REQUESTS: u32 = 2_000;

/// 4 standard deviations of so many at a half, in percent.
const HALF: f64 = 4.5;

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1"), Pod::new("other/stranger")])
        .node(
            "b",
            [Pod::new("shop/far").app("v2"), Pod::new("other/keeper").app("store"), Pod::new("shop/mail").app("web")],
        )
        .service("shop/web", &[(80, 8080), (25, 9025)])
        .service("shop/v1", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
        .service("other/store", &[(80, 8080)])
}

/// A route of service `shop/web` in a namespace, for these hosts.
fn route((namespace, name): (&str, &str), hosts: &[&str], rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "namespace": "shop", "name": "web", "port": 80}],
            "hostnames": hosts, "rules": rules,
        },
    })
}

/// A rule that marks its answers with its name.
fn rule(name: &str, one: &Value, backends: &Value) -> Value {
    let mark = json!([{"name": "x-rule", "value": name}]);
    let filters = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": mark}}]);
    json!({"name": name, "matches": [one], "filters": filters, "backendRefs": backends})
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

fn path(kind: &str, value: &str) -> Value {
    json!({"type": kind, "value": value})
}

fn redirect(status: u16, more: &Value) -> Value {
    let mut to = json!({"statusCode": status});
    more.as_object().into_iter().flatten().for_each(|(field, value)| to[field.as_str()] = value.clone());
    json!({
        "name": format!("redirect-{status}"), "matches": [{"path": path("PathPrefix", &format!("/redirect/{status}"))}],
        "filters": [{"type": "RequestRedirect", "requestRedirect": to}],
    })
}

/// What a request of these arguments of curl's must come to: a rule's name, or a status and a location.
type Case<'a> = (&'a [&'a str], &'a str);

/// How `millrace` answers about a request.
fn millrace(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let mut command = lab.place("a")?.command(lab.binaries().path("millrace")?)?;
    command.arg("--run-dir").arg(lab.run_directory("a")).args(arguments);
    let output = process::run(command, SOON)?;
    Ok(output.stdout + &output.stderr)
}

/// Asks in both versions, and both commands what they say of it.
fn comes_to(lab: &Lab, (arguments, rule): Case<'_>) -> Result<()> {
    let wanted = if rule == "none" { "x-millrace-reason: no_route".to_owned() } else { format!("x-rule: {rule}\r\n") };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let said = answers(lab, "shop/client", &[&[version], arguments].concat())?;
        ensure!(said.contains(&wanted), "{arguments:?} in {version} comes to {rule}: {said}");
    }
    let mut method = "GET";
    let mut more = Vec::new();
    let mut url = "";
    let mut all = arguments.iter();
    while let Some(argument) = all.next() {
        match *argument {
            "-X" => method = all.next().copied().unwrap_or_default(),
            "-H" => more.extend(["-H", all.next().copied().unwrap_or_default()]),
            other => url = other,
        }
    }
    let http = format!("{method} {url}");
    let named = if rule == "none" { "No".to_owned() } else { format!("\"{rule}\"") };
    let said = millrace(lab, &[&["routes", "shop/web", "--http", &http], more.as_slice()].concat())?;
    ensure!(said.contains(&named), "`millrace routes` of {arguments:?} names {rule}: {said}");
    let said = millrace(lab, &[&["explain", "shop/client", "--http", &http], more.as_slice()].concat())?;
    ensure!(said.contains(&named), "`millrace explain` of {arguments:?} names {rule}: {said}");
    Ok(())
}

/// Of two routes that ask for the same the older has it.
fn older_has_it(lab: &Lab) -> Result<()> {
    let mut older =
        route(("shop", "clash-b"), &[], &json!([rule("second", &json!({"path": path("Exact", "/clash")}), &to("v1"))]));
    older["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    apply(lab, &older, || comes_to(lab, (&["http://web/clash"], "second")))?;
    Ok(())
}

/// Another port of the same service is nobody's to parse.
fn server_speaks_first(lab: &Lab) -> Result<()> {
    let _mail = lab.pod("shop/mail")?.serves("[::]:9025", &[])?;
    for address in lab.topology().service("shop/web")?.addresses.both() {
        let called = lab.pod("shop/client")?.connects(std::net::SocketAddr::new(address, 25))?;
        ensure!(called.greeting.is_some(), "{called:?}");
    }
    Ok(())
}

#[test]
fn each_kind_of_match_chooses_on_the_wire_what_the_commands_say() {
    scene::mesh(&plan("kinds"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        let header = |kind: &str, value: &str| json!([{"type": kind, "name": "x-user", "value": value}]);
        let query = |kind: &str, value: &str| json!([{"type": kind, "name": "q", "value": value}]);
        let v1 = to("v1");
        let rules = json!([
            rule("regex", &json!({"path": path("RegularExpression", "/r/[0-9]+")}), &v1),
            rule("header", &json!({"path": path("PathPrefix", "/h"), "headers": header("Exact", "ann")}), &v1),
            rule(
                "header-regex",
                &json!({"path": path("PathPrefix", "/h"), "headers": header("RegularExpression", "b.*")}),
                &v1
            ),
            rule("query", &json!({"path": path("PathPrefix", "/q"), "queryParams": query("Exact", "1")}), &v1),
            rule(
                "query-regex",
                &json!({"path": path("PathPrefix", "/q"), "queryParams": query("RegularExpression", "[a-c]+")}),
                &v1
            ),
            rule("method", &json!({"path": path("PathPrefix", "/m"), "method": "DELETE"}), &v1),
            rule("exact", &json!({"path": path("Exact", "/p")}), &v1),
            rule("prefix", &json!({"path": path("PathPrefix", "/p")}), &v1),
            rule("longer", &json!({"path": path("PathPrefix", "/p/long")}), &v1),
        ]);
        let all = json!({"path": path("PathPrefix", "/")});
        lab.apply(&route(("shop", "hosts"), &["a.example.com"], &json!([rule("host", &all, &v1)])))?;
        lab.apply(&route(("shop", "wild"), &["*.example.com"], &json!([rule("wildcard", &all, &v1)])))?;
        // Of equals without an age the first by file has it, whichever came first; then the older.
        lab.apply(&route(
            ("shop", "clash-b"),
            &[],
            &json!([rule("second", &json!({"path": path("Exact", "/clash")}), &v1)]),
        ))?;
        lab.apply(&route(
            ("shop", "clash-a"),
            &[],
            &json!([rule("first", &json!({"path": path("Exact", "/clash")}), &v1)]),
        ))?;
        apply(lab, &route(("shop", "rules"), &[], &rules), || comes_to(lab, (&["http://web/p"], "exact")))?;
        let cases: [Case<'_>; 24] = [
            (&["http://web/r/123"], "regex"),
            (&["http://web/r/123/4"], "none"),
            (&["http://web/r/x"], "none"),
            (&["-H", "x-user: ann", "http://web/h"], "header"),
            (&["-H", "x-user: bob", "http://web/h/deep"], "header-regex"),
            (&["-H", "x-user: Ann", "http://web/h"], "none"),
            (&["http://web/q?q=1"], "query"),
            (&["http://web/q?a=2&q=cab"], "query-regex"),
            (&["http://web/q?q=d"], "none"),
            (&["http://web/q?q=2&q=1"], "none"),
            (&["-X", "DELETE", "http://web/m/1"], "method"),
            (&["-X", "PUT", "http://web/m/1"], "none"),
            (&["http://web/p/"], "prefix"),
            (&["http://web/p/x?q=1"], "prefix"),
            (&["http://web/pp"], "none"),
            (&["http://web/p/long/x"], "longer"),
            (&["http://web/p/longer"], "prefix"),
            (&["http://web/P"], "none"),
            (&["-H", "host: a.example.com", "http://web/p"], "host"),
            (&["-H", "host: A.Example.com:80", "http://web/r/1"], "host"),
            (&["-H", "host: b.example.com", "http://web/p"], "wildcard"),
            (&["-H", "host: c.b.example.com", "http://web/p"], "wildcard"),
            (&["-H", "host: example.com", "http://web/p/x"], "prefix"),
            (&["http://web/clash"], "first"),
        ];
        for case in cases {
            comes_to(lab, case)?;
        }
        server_speaks_first(lab)?;
        older_has_it(lab)
    });
}

/// Each code, with what it names and with what it leaves.
fn redirected(lab: &Lab) -> Result<()> {
    let redirects = [
        ("301", "https://web/redirect/301/x?q=1"),
        ("302", "http://new.example.com/redirect/302/x?q=1"),
        ("303", "http://web:8443/redirect/303/x?q=1"),
        ("307", "http://web/whole?q=1"),
        ("308", "https://new.example.com:8443/moved/x?q=1"),
    ];
    for (status, location) in redirects {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let url = format!("http://web/redirect/{status}/x?q=1");
            let said = answers(lab, "shop/client", &[version, &url])?;
            let first = said.lines().next().unwrap_or_default();
            ensure!(first.contains(status), "{url} in {version}: {said}");
            ensure!(said.to_lowercase().contains(&format!("location: {location}\r\n")), "{location}: {said}");
        }
    }
    Ok(())
}

/// A consumer's route is for its own namespace's pods, in place of the producer's.
fn consumed(lab: &Lab) -> Result<()> {
    let own =
        route(("other", "own"), &[], &json!([rule("own", &json!({"path": path("PathPrefix", "/own")}), &to("store"))]));
    let stranger = |path: &str| answers(lab, "other/stranger", &[&format!("http://web.shop{path}")]);
    apply(lab, &own, || {
        let said = stranger("/own")?;
        ensure!(said.contains("x-rule: own\r\n") && said.contains("x-pod: other/keeper\r\n"), "{said}");
        Ok(())
    })?;
    let said = stranger("/zero")?;
    ensure!(said.contains("404") && said.contains("no_route"), "the two are not merged: {said}");
    let said = answers(lab, "shop/client", &["http://web/own"])?;
    ensure!(said.contains("404") && said.contains("no_route"), "it is nobody else's: {said}");
    lab.remove(&own)?;
    clock::until(SOON, "the producer's counts again", || {
        let said = stranger("/zero")?;
        ensure!(said.contains("x-rule: zero\r\n"), "{said}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn redirects_have_every_code_and_part_and_references_hold_across_namespaces_by_grant_alone() {
    scene::mesh(&plan("references"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?, serves(lab, "other/keeper")?];
        let weighted = json!([{"name": "v1", "port": 80, "weight": 0}, {"name": "v2", "port": 80, "weight": 1}]);
        let shared = json!([{"name": "v1", "port": 80}, {"name": "store", "namespace": "other", "port": 80}]);
        let rules = json!([
            redirect(301, &json!({"scheme": "https"})),
            redirect(302, &json!({"hostname": "new.example.com"})),
            redirect(303, &json!({"port": 8443})),
            redirect(307, &json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/whole"}})),
            redirect(
                308,
                &json!({"scheme": "https", "hostname": "new.example.com", "port": 8443,
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/moved"}})
            ),
            rule("zero", &json!({"path": path("PathPrefix", "/zero")}), &weighted),
            rule("shared", &json!({"path": path("PathPrefix", "/shared")}), &shared),
        ]);
        apply(lab, &route(("shop", "rules"), &[], &rules), || {
            let seen = asks(lab, "shop/client", "http://web/zero")?;
            ensure!(seen.pod == "shop/far");
            Ok(())
        })?;
        redirected(lab)?;
        let zero = load_path(lab, "/zero", 200)?;
        ensure!(zero.n_failed() == 0 && zero.by_pod.len() == 1 && zero.by_pod.contains_key("shop/far"), "{zero:?}");

        // The share of what leads to nobody fails, and no more.
        let shared = load_path(lab, "/shared", REQUESTS)?;
        let failed = 100.0 * f64::from(shared.by_status.get(&500).copied().unwrap_or_default()) / f64::from(REQUESTS);
        ensure!((failed - 50.0).abs() < HALF && shared.failures.is_empty(), "{failed} %: {shared:?}");
        let grant = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"namespace": "other", "name": "shop"},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}],
                     "to": [{"group": "", "kind": "Service", "name": "store"}]},
        });
        apply(lab, &grant, || {
            let counted = load_path(lab, "/shared", 100)?;
            ensure!(counted.n_failed() == 0, "{counted:?}");
            Ok(())
        })?;
        let granted = load_path(lab, "/shared", REQUESTS)?;
        let share = granted.share_of("other/keeper");
        ensure!(granted.n_failed() == 0 && (share - 50.0).abs() < HALF, "{share} %: {granted:?}");
        lab.remove(&grant)?;
        clock::until(SOON, "the grant is taken back", || {
            ensure!(load_path(lab, "/shared", 100)?.by_status.contains_key(&500));
            Ok(())
        })?;

        consumed(lab)?;
        println!(
            "without a grant {failed:.2} % of {REQUESTS} failed; with it the other namespace's service got {share:.2} %"
        );
        Ok(())
    });
}
