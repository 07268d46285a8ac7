//! Filters on live requests: copies for those who mirror, answers to other origins, faults by percent, headers by rule and backend,
//! and time-outs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock};
use serde_json::{Value, json};

use crate::{
    routes::{answers, apply, asks, load_path, route, serves},
    scene,
};

/// How long a copy may be under way.
const COPIED: Duration = Duration::from_secs(5);

/// Version 1 beside the client, version 2 and a mirror on the other node.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v2"), Pod::new("shop/shadow").app("shadow")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v1", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
        .service("shop/shadow", &[(80, 8080)])
}

pub(crate) fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

pub(crate) fn under(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

/// A mirror filter, and which requests it is for.
fn mirror(name: &str, (field, share): (&str, Value)) -> Value {
    json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}, field: share}})
}

fn rewrite(path: &str) -> Value {
    json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}}})
}

fn mirrored(lab: &Lab, outcome: &str) -> Result<f64> {
    let metrics = lab.admin(Part::Proxy("a")).metrics()?;
    Ok(metrics.sum("millrace_proxy_http_mirrors_total", &[("outcome", outcome)]))
}

/// How many requests for a path a server has had whole, and the bytes of their bodies.
pub(crate) fn served(lab: &Lab, pod: &str, path: &str) -> Result<(u32, usize)> {
    let said = lab.pod(pod)?.get(&format!("http://127.0.0.1:8080/counts{path}"))?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

fn gets_copies(lab: &Lab, pod: &str, path: &str, wanted: (u32, usize)) -> Result<()> {
    clock::until(COPIED, "copies came", || {
        let found = served(lab, pod, path)?;
        ensure!(found == wanted, "{pod} has had {found:?} of {path}, not {wanted:?}");
        Ok(())
    })?;
    Ok(())
}

/// Sends a body of so many bytes.
pub(crate) fn posts(lab: &Lab, path: &str, bytes: usize) -> Result<String> {
    let chunked = if path.ends_with("/chunked") { "-H 'Transfer-Encoding: chunked'" } else { "" };
    let command = format!(
        "f=$(mktemp) && head -c {bytes} /dev/zero > $f && curl -sS --max-time 30 {chunked} --data-binary @$f http://web{path}; \
         s=$?; rm $f; exit $s"
    );
    lab.pod("shop/client")?.run_within(Duration::from_secs(40), &["sh", "-c", &command])?.ok()
}

/// 4 standard deviations of so many draws at a percent, in percent.
fn deviation(percent: f64, draws: u32) -> f64 {
    4.0 * (percent * (100.0 - percent) / f64::from(draws)).sqrt()
}

#[test]
fn who_mirrors_gets_copies_by_percent_and_fraction_with_their_bodies() {
    const BODY: usize = 900_000;
    const REQUESTS: u32 = 2_000;
    scene::mesh(&plan("mirror"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?, serves(lab, "shop/shadow")?];
        let all = ("percent", json!(100));
        let rules = json!([
            {"matches": under("/all"), "backendRefs": to("v1"), "filters": [mirror("shadow", all.clone()), mirror("v2", all.clone())]},
            {"matches": under("/some"), "backendRefs": to("v1"), "filters": [mirror("shadow", ("percent", json!(20)))]},
            {"matches": under("/few"), "backendRefs": to("v1"),
             "filters": [mirror("shadow", ("fraction", json!({"numerator": 1, "denominator": 1000})))]},
            {"matches": under("/none"), "backendRefs": to("v1"), "filters": [mirror("nobody", all)]},
        ]);
        apply(lab, &route("mirrors", &rules), || asks(lab, "shop/client", "http://web/all/first").map(drop))?;
        let seen = asks(lab, "shop/client", "http://web/all/one?a=b")?;
        ensure!(seen.pod == "shop/near", "the answer is the backend's own: {seen:?}");
        gets_copies(lab, "shop/shadow", "/all/one", (1, 0))?;
        gets_copies(lab, "shop/far", "/all/one", (1, 0))?;

        for path in ["/all/body", "/all/chunked"] {
            let said = posts(lab, path, BODY)?;
            ensure!(said.contains(&format!("\"n_body\":{BODY}")), "{said}");
            gets_copies(lab, "shop/shadow", path, (1, BODY))?;
            gets_copies(lab, "shop/far", path, (1, BODY))?;
        }

        let counted = load_path(lab, "/some/x", REQUESTS)?;
        ensure!(counted.n_failed() == 0 && counted.by_pod.len() == 1, "{counted:?}");
        let share = || {
            Ok::<_, anyhow::Error>(100.0 * f64::from(served(lab, "shop/shadow", "/some/x")?.0) / f64::from(REQUESTS))
        };
        clock::until(COPIED, "a fifth is mirrored", || {
            let share = share()?;
            ensure!((share - 20.0).abs() <= deviation(20.0, REQUESTS), "{share} % of {REQUESTS} were mirrored");
            Ok(())
        })?;
        load_path(lab, "/few/x", REQUESTS)?;
        let (n_few, _) = served(lab, "shop/shadow", "/few/x")?;
        ensure!(n_few < 12, "{n_few} of {REQUESTS} were mirrored, where 1 of 1,000 is meant");

        ensure!(
            asks(lab, "shop/client", "http://web/none")?.pod == "shop/near",
            "a mirror that is not there harms nobody"
        );
        ensure!(mirrored(lab, "unresolved")? == 1.0, "it is counted");
        println!(
            "of {REQUESTS}: {:.2} % at 20 %, {n_few} at 1 of 1,000; outcomes: answered {}",
            share()?,
            mirrored(lab, "answered")?
        );
        Ok(())
    });
}

#[test]
fn a_mirror_that_reads_nothing_slows_nobody_and_is_cut_and_counted() {
    const BODY: usize = 64 * 1024 * 1024;
    scene::mesh(&plan("slow-mirror"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/shadow")?];
        // The copy has the path as it is where the filter stands.
        let backend = json!([{"name": "v1", "port": 80, "filters": [rewrite("/quick")]}]);
        let filters = |with: bool| {
            let all = [rewrite("/unread/60000"), mirror("shadow", ("percent", json!(100)))];
            json!(all.get(..if with { 2 } else { 1 }))
        };
        let rules = json!([
            {"name": "mirrored", "matches": under("/mirrored"), "filters": filters(true), "backendRefs": backend},
            {"name": "alone", "matches": under("/alone"), "filters": filters(false), "backendRefs": backend},
        ]);
        apply(lab, &route("mirrors", &rules), || asks(lab, "shop/client", "http://web/alone").map(drop))?;
        let time = |path: &str| {
            let begun = clock::now();
            let said = posts(lab, path, BODY)?;
            ensure!(said.contains(&format!("\"n_body\":{BODY}")) && said.contains("\"/quick\""), "{said}");
            Ok(begun.elapsed())
        };
        let (alone, mirrored_took) = (time("/alone")?, time("/mirrored")?);
        ensure!(
            mirrored_took < alone * 4 + Duration::from_secs(1),
            "{mirrored_took:?} with the mirror, {alone:?} without"
        );
        clock::until(COPIED, "the copy is cut", || {
            ensure!(mirrored(lab, "slow")? == 1.0, "slow: {}", mirrored(lab, "slow")?);
            Ok(())
        })?;
        // Requests without a body wait for nobody either, however many copies hang.
        let begun = clock::now();
        let counted = load_path(lab, "/mirrored", 2_000)?;
        let took = begun.elapsed();
        ensure!(counted.n_failed() == 0, "{counted:?}");
        ensure!(took < Duration::from_secs(8), "2,000 requests took {took:?}");
        ensure!(mirrored(lab, "busy")? > 1_000.0, "what is too many at once is not begun: {}", mirrored(lab, "busy")?);
        println!(
            "64 MiB in {alone:?} alone, in {mirrored_took:?} with a mirror that reads nothing; then 2,000 requests in {took:?}"
        );
        Ok(())
    });
}

#[test]
fn other_origins_are_answered_as_the_route_says() {
    scene::mesh(&plan("cors"), |lab| {
        let _serving = [serves(lab, "shop/near")?];
        let cors = json!([{"type": "CORS", "cors": {
            "allowOrigins": ["https://www.foo.com", "https://*.bar.com"], "allowMethods": ["GET", "PUT"],
            "allowHeaders": ["x-a"], "exposeHeaders": ["x-pod"], "allowCredentials": true, "maxAge": 600,
        }}]);
        let rules = json!([
            {"matches": under("/cors"), "filters": cors, "backendRefs": to("v1")},
            {"matches": under("/gone"), "filters": cors, "backendRefs": to("nobody")},
        ]);
        apply(lab, &route("cors", &rules), || asks(lab, "shop/client", "http://web/cors").map(drop))?;
        let says = |wanted: &[&str], absent: &[&str], arguments: &[&str]| {
            let said = answers(lab, "shop/client", arguments)?.to_ascii_lowercase();
            ensure!(wanted.iter().all(|wanted| said.contains(wanted)), "{arguments:?} gets {wanted:?}: {said}");
            ensure!(!absent.iter().any(|absent| said.contains(absent)), "{arguments:?} gets no {absent:?}: {said}");
            Ok(())
        };
        let url = "http://web/cors";
        let preflight = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT", "-H"];
        let asked = |origin: &'static str| [preflight.as_slice(), &[origin, url]].concat();
        let good = [
            "200 ok",
            "access-control-allow-origin: https://a.b.bar.com\r\n",
            "access-control-allow-methods: get, put\r\n",
            "access-control-allow-headers: x-a\r\n",
            "access-control-max-age: 600\r\n",
            "access-control-allow-credentials: true\r\n",
        ];
        says(&good, &["x-pod: "], &asked("Origin: https://a.b.bar.com"))?;
        let unwelcome = ["403 forbidden", "x-millrace-reason: origin_not_welcome"];
        says(&unwelcome, &["access-control-"], &asked("Origin: https://evil.com"))?;
        let actual = [
            "200 ok",
            "access-control-allow-origin: https://www.foo.com\r\n",
            "access-control-expose-headers: x-pod\r\n",
            "vary: origin",
            "x-pod: ",
        ];
        says(&actual, &["access-control-max-age"], &["-H", "Origin: https://www.foo.com", url])?;
        says(&["200 ok", "x-pod: "], &["access-control-"], &["-H", "Origin: https://evil.com", url])?;
        says(&["200 ok", "x-pod: "], &["access-control-"], &["-X", "OPTIONS", url])?;
        // A page may read why it was refused.
        let gone = ["500 internal", "access-control-allow-origin: https://www.foo.com\r\n"];
        says(&gone, &[], &["-H", "Origin: https://www.foo.com", "http://web/gone"])
    });
}

fn fault(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "HTTPFault", "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn injected(name: &str) -> Value {
    json!([{"type": "ExtensionRef", "extensionRef": {"group": "millrace.dev", "kind": "HTTPFault", "name": name}}])
}

#[test]
fn faults_are_injected_by_percent_and_end_when_their_object_says_so() {
    const REQUESTS: u32 = 2_000;
    scene::mesh(&plan("faults"), |lab| {
        let _serving = [serves(lab, "shop/near")?];
        let rules = json!([
            {"matches": under("/abort"), "filters": injected("abort"), "backendRefs": to("v1")},
            {"matches": under("/delay"), "filters": injected("delay"), "backendRefs": to("v1")},
            {"matches": under("/late"), "filters": injected("delay"), "backendRefs": to("v1"), "timeouts": {"request": "100ms"}},
            {"matches": under("/lost"), "filters": injected("lost"), "backendRefs": to("v1")},
        ]);
        lab.apply(&fault("abort", &json!({"abort": {"status": 503, "percent": 25}})))?;
        lab.apply(&fault("delay", &json!({"delay": {"duration": "400ms", "percent": 100}})))?;
        apply(lab, &route("faults", &rules), || asks(lab, "shop/client", "http://web/delay").map(drop))?;
        let counted = load_path(lab, "/abort", REQUESTS)?;
        let n_aborted = counted.by_status.get(&503).copied().unwrap_or_default();
        let share = 100.0 * f64::from(n_aborted) / f64::from(REQUESTS);
        ensure!((share - 25.0).abs() <= deviation(25.0, REQUESTS), "{share} % were aborted: {counted:?}");
        ensure!(counted.n_failed() == n_aborted, "and nothing else fails: {counted:?}");
        let begun = clock::now();
        asks(lab, "shop/client", "http://web/delay")?;
        let took = begun.elapsed();
        ensure!(took >= Duration::from_millis(400), "a delayed request took {took:?}");
        let said = answers(lab, "shop/client", &["http://web/late"])?;
        ensure!(
            said.contains("504") && said.contains("request_timeout"),
            "the delay counts towards the time-out: {said}"
        );
        let said = answers(lab, "shop/client", &["http://web/lost"])?;
        ensure!(
            said.contains("500") && said.contains("filter_not_done"),
            "a fault that is not there is not skipped: {said}"
        );
        let grpc = ["-H", "content-type: application/grpc", "http://web/abort"];
        lab.apply(&fault("abort", &json!({"abort": {"status": 503, "percent": 100}})))?;
        clock::until(Duration::from_secs(5), "every request is aborted", || {
            let said = answers(lab, "shop/client", &grpc)?;
            ensure!(said.contains("200 OK") && said.contains("grpc-status: 14"), "{said}");
            Ok(())
        })?;
        lab.apply(&fault("abort", &json!({"abort": {"status": 503, "percent": 0}})))?;
        clock::until(Duration::from_secs(5), "no request is aborted", || {
            let counted = load_path(lab, "/abort", 100)?;
            ensure!(counted.n_failed() == 0, "{counted:?}");
            Ok(())
        })?;
        println!("at 25 %: {share:.2} % of {REQUESTS} aborted; delayed by 400 ms: answered after {took:?}");
        Ok(())
    });
}

#[test]
fn headers_are_changed_by_rule_and_by_backend_and_time_outs_hold_to_the_last_byte() {
    scene::mesh(&plan("by-backend"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        let set = |kind: &str, field: &str, name: &str, value: &str| json!({"type": kind, field: {"set": [{"name": name, "value": value}]}});
        let request = |value: &str| set("RequestHeaderModifier", "requestHeaderModifier", "x-who", value);
        let response = |value: &str| set("ResponseHeaderModifier", "responseHeaderModifier", "x-by", value);
        let backend = |name: &str| json!({"name": name, "port": 80, "filters": [request(name), response(name)]});
        let rules = json!([
            {"name": "both", "matches": under("/both"), "filters": [request("rule"), response("rule")],
             "backendRefs": [backend("v1"), backend("v2")]},
            {"name": "slow-backend", "matches": under("/wait"), "backendRefs": to("v1"), "timeouts": {"request": "5s", "backendRequest": "200ms"}},
            {"name": "slow-body", "matches": under("/drip"), "backendRefs": to("v1"), "timeouts": {"backendRequest": "300ms"}},
        ]);
        apply(lab, &route("by-backend", &rules), || asks(lab, "shop/client", "http://web/both").map(drop))?;
        let mut seen_from = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let said = lab
                .pod("shop/client")?
                .run(&["curl", "--silent", "--include", "--max-time", "8", "http://web/both"])?
                .ok()?;
            let version = if said.contains("\"pod\":\"shop/near\"") { "v1" } else { "v2" };
            ensure!(
                said.contains(&format!("\"x-who\":\"{version}\"")),
                "the backend's word comes after the rule's: {said}"
            );
            ensure!(said.contains(&format!("x-by: {version}\r\n")), "{said}");
            seen_from.insert(version);
        }
        ensure!(seen_from.len() == 2, "both were asked");
        let said = answers(lab, "shop/client", &["http://web/wait/3000"])?;
        ensure!(said.contains("504") && said.contains("backend_timeout"), "{said}");
        let url = "http://web/drip/3000";
        let begun = clock::now();
        let dripped = lab.pod("shop/client")?.run(&["curl", "--silent", "--max-time", "8", url])?;
        ensure!(
            !dripped.status.success() && begun.elapsed() < Duration::from_secs(2),
            "an answer that takes too long is broken off: {dripped:?}"
        );
        Ok(())
    });
}
