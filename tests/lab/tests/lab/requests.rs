//! What is recorded of requests: metrics that say who called whom and how that ended, and access logs that a TelemetryPolicy asks
//! for, turned on and off while requests pass.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Plan, Pod, clock, manifests, mesh::Part, metrics::Metrics};
use serde_json::{Value, json};

use crate::{
    routes::{answers, apply, asks, load_path, route, serves},
    scene,
};

/// How long a count or a line may lag behind its request.
const LAG: Duration = Duration::from_secs(5);

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v2")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v1", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
}

/// Paths below /v1 and /v2 to these, /closed to a port that nobody serves, and /wait for no longer than 300 ms.
fn routed(lab: &Lab) -> Result<()> {
    let to = |name: &str| json!([{"name": name, "port": 80}]);
    let under = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let rules = json!([
        {"name": "one", "matches": under("/v1"), "backendRefs": to("v1")},
        {"name": "two", "matches": under("/v2"), "backendRefs": to("v2")},
        {"name": "slow", "matches": under("/wait"), "backendRefs": to("v1"), "timeouts": {"request": "300ms"}},
        {"name": "gone", "matches": under("/gone"), "backendRefs": to("nobody")},
    ]);
    apply(lab, &route("recorded", &rules), || asks(lab, "shop/client", "http://web/v2").map(drop))?;
    Ok(())
}

fn metrics(lab: &Lab) -> Result<Metrics> {
    lab.admin(Part::Proxy("a")).metrics()
}

/// Waits until requests from the client with these labels are so many.
fn counted(lab: &Lab, labels: &[(&str, &str)], wanted: f64) -> Result<()> {
    let name = "millrace_http_requests_total";
    clock::until(LAG, &format!("{wanted} requests are counted with {labels:?}"), || {
        let metrics = metrics(lab)?;
        let all: Vec<_> = metrics.select(name, &[]).map(|one| format!("{:?} {}", one.labels, one.value)).collect();
        ensure!(metrics.sum(name, labels) == wanted, "there are {all:#?}");
        Ok(())
    })
    .map(drop)
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TelemetryPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
}

#[test]
fn requests_are_counted_by_who_called_whom_and_how_that_ended() {
    scene::mesh(&plan("counted"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        routed(lab)?;
        let asked = |times: u32, arguments: &[&str]| {
            (0..times).try_for_each(|_| answers(lab, "shop/client", arguments).map(drop))
        };
        asked(3, &["http://web/v1"])?;
        asked(2, &["http://web/v2", "--data", "twelve bytes"])?;
        asked(1, &["http://web/wait/9000"])?;
        asked(2, &["http://web/else"])?;
        asked(1, &["http://web/gone"])?;
        asked(1, &["-H", "Content-Length: 1, 1", "-d", "x", "http://web/v1"])?;
        let from = [("reporter", "client"), ("source_workload", "client"), ("source_namespace", "shop")];
        let with = |more: &[(&'static str, &'static str)]| [from.as_slice(), more].concat();
        counted(
            lab,
            &with(&[("destination_workload", "near"), ("destination_service", "v1"), ("response_code", "200")]),
            3.0,
        )?;
        let far =
            with(&[("destination_workload", "far"), ("destination_service", "v2"), ("request_protocol", "http1")]);
        // One or more were asked until the route was in force.
        let metrics_now = metrics(lab)?;
        ensure!(metrics_now.sum("millrace_http_requests_total", &far) >= 3.0, "{metrics_now:?}");
        let sent = metrics_now.sum("millrace_http_request_size_bytes_sum", &far);
        ensure!(sent == 24.0, "two bodies of twelve bytes were sent, not {sent}");
        let got = metrics_now.sum("millrace_http_response_size_bytes_sum", &far);
        ensure!(got > 300.0, "answers have bodies, of {got} bytes");
        let slow =
            metrics_now.sum("millrace_http_request_duration_seconds_sum", &with(&[("destination_workload", "near")]));
        ensure!((0.3..3.0).contains(&slow), "the one that was cut off took its 300 ms: {slow} s in all");
        let failed = |code: &'static str, flag: &'static str, side: &'static str| {
            with(&[("response_code", code), ("response_flags", flag), ("fault_side", side)])
        };
        counted(lab, &failed("504", "request_timeout", "upstream"), 1.0)?;
        counted(lab, &failed("500", "backend_unresolved", "mesh"), 1.0)?;
        counted(lab, &failed("400", "bad_content_length", "client"), 1.0)?;
        counted(lab, &failed("404", "no_route", "mesh"), 2.0)?;
        let deny = manifests::access_policy("shop/guard", "Allow", "v1", &[manifests::Rule::namespace("nobody")])?;
        apply(lab, &deny, || {
            let said = answers(lab, "shop/client", &["http://web/v1"])?;
            ensure!(said.contains("403"), "{said}");
            Ok(())
        })?;
        let denied = failed("403", "denied", "client");
        clock::until(LAG, "a denial is counted", || {
            let metrics = metrics(lab)?;
            ensure!(metrics.sum("millrace_http_requests_total", &denied) >= 1.0, "{metrics:?}");
            Ok(())
        })?;
        let mut own = route("own", &json!([{"backendRefs": [{"name": "v1", "port": 80}]}]));
        own["spec"]["parentRefs"][0]["name"] = "v1".into();
        apply(lab, &own, || {
            let mut explain = std::process::Command::new(lab.binaries().path("millrace")?);
            explain.arg("--run-dir").arg(lab.run_directory("a")).args(["explain", "shop/client", "v1.shop:80"]);
            let said = millrace_lab::process::run(explain, LAG)?.stdout;
            let wanted = "recorded with flag denied, the fault of the client, policy shop/guard";
            ensure!(said.contains(wanted), "it says what the metric says: {said}");
            Ok(())
        })?;
        let quiet = policy("quiet", &json!({"metrics": "Disabled"}));
        let all = || Ok::<_, anyhow::Error>(metrics(lab)?.sum("millrace_http_requests_total", &from));
        apply(lab, &quiet, || {
            let before = all()?;
            answers(lab, "shop/client", &["http://web/v2"])?;
            ensure!(all()? == before, "requests are counted still");
            Ok(())
        })?;
        Ok(())
    });
}

/// A file of the lab's that the proxies append to.
fn access_log(lab: &Lab) -> PathBuf {
    lab.directory().join("access.log")
}

fn lines(lab: &Lab) -> Result<Vec<String>> {
    let text = fs::read_to_string(access_log(lab)).context("the access log is there")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The first line from `from` on of which this holds, waited for.
fn line(lab: &Lab, from: usize, holds: impl Fn(&str) -> bool) -> Result<String> {
    let mut found = None;
    clock::until(LAG, "the line is written", || {
        let lines = lines(lab)?;
        found = lines.iter().skip(from).find(|line| holds(line)).cloned();
        ensure!(found.is_some(), "there are {lines:#?}");
        Ok(())
    })?;
    found.context("it was found")
}

/// Applies a policy, and asks until a line of its form is written.
fn logs(lab: &Lab, spec: &Value, holds: impl Fn(&str) -> bool) -> Result<()> {
    apply(lab, &policy("log", spec), || {
        answers(lab, "shop/client", &["http://web/v2/probe"])?;
        clock::until(Duration::from_millis(400), "a line of the new form", || {
            let lines = lines(lab)?;
            ensure!(lines.last().is_some_and(|line| holds(line)), "there are {lines:#?}");
            Ok(())
        })
        .map(drop)
    })?;
    Ok(())
}

#[test]
fn an_access_log_is_turned_on_shaped_filtered_and_turned_off_while_requests_pass() {
    let plan = plan("written");
    scene::plain(&plan, |lab| {
        let path = access_log(lab).display().to_string();
        lab.proxy_flags(&["--access-log", &path]);
        lab.start_mesh()?;
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        routed(lab)?;
        ensure!(lines(lab)?.is_empty(), "nobody asked for a line");

        logs(lab, &json!({"selector": {"matchLabels": {"app": "client"}}, "accessLogs": {}}), |line| {
            line.starts_with('{')
        })?;
        let before = lines(lab)?.len();
        answers(lab, "shop/client", &["http://web/v2/x?secret=1", "--data", "twelve bytes"])?;
        let said: Value = serde_json::from_str(&line(lab, before, |line| line.contains("/v2/x"))?)?;
        let wanted = json!({
            "source_workload": "shop/client", "source_service_account": "client", "service": "shop/web",
            "rule": "HTTPRoute shop/recorded rule 1 \"two\"", "backend": "shop/v2", "destination_workload": "shop/far",
            "protocol": "http1", "method": "POST", "host": "web", "path": "/v2/x", "code": 200, "flags": "-",
            "side": null, "policy": null, "request_bytes": 12, "attempts": 1, "telemetry": "shop/log",
        });
        for (field, value) in wanted.as_object().context("an object")? {
            ensure!(&said[field] == value, "{field} is {value}: {said}");
        }
        ensure!(
            said["response_bytes"].as_u64() > Some(100) && said["duration_us"].as_u64() >= said["head_us"].as_u64(),
            "{said}"
        );
        let own = lab.pod("shop/client")?.addresses().both();
        let from: std::net::SocketAddr = said["source_address"].as_str().context("a text")?.parse()?;
        ensure!(own.contains(&from.ip()), "the pod's own address: {said}");
        ensure!(!said.to_string().contains("secret"), "a query is not written: {said}");

        // Faults name whose they are, and filters choose.
        let template = "{code} {flags} {side} {policy} {path} {header.x-tenant}";
        let faults = json!({"accessLogs": {"format": "Text", "template": template, "only": [{"faults": ["Mesh"]}, {"slowerThan": "250ms"}]}});
        apply(lab, &policy("log", &faults), || {
            answers(lab, "shop/client", &["http://web/gone/probe", "-H", "x-tenant: gold"])?;
            clock::until(Duration::from_millis(400), "a line of the new form", || {
                let lines = lines(lab)?;
                let wanted = "500 backend_unresolved mesh - /gone/probe gold";
                ensure!(lines.last().is_some_and(|line| line == wanted), "there are {lines:#?}");
                Ok(())
            })
            .map(drop)
        })?;
        let before = lines(lab)?.len();
        answers(lab, "shop/client", &["http://web/v2/quick"])?;
        answers(lab, "shop/client", &["http://web/wait/9000"])?;
        let said = line(lab, before, |line| line.contains("/wait"))?;
        ensure!(said == "504 request_timeout upstream - /wait/9000 -", "{said}");
        ensure!(!lines(lab)?.iter().any(|line| line.contains("/quick")), "what fits no condition is not written");
        // None of a hundred, then no policy at all.
        let none = json!({"accessLogs": {"sampling": {"percent": 0}}});
        for object in [Some(none), None] {
            match &object {
                Some(spec) => drop(lab.apply(&policy("log", spec))?),
                None => lab.remove(&policy("log", &json!({})))?,
            }
            clock::until(Duration::from_secs(10), "requests are not written any more", || {
                let before = lines(lab)?.len();
                answers(lab, "shop/client", &["http://web/gone"])?;
                std::thread::sleep(Duration::from_millis(300));
                ensure!(lines(lab)?.len() == before, "a line was written");
                Ok(())
            })?;
        }
        let metrics = metrics(lab)?;
        let (written, n) =
            (metrics.sum("millrace_proxy_access_log_lines_total", &[("outcome", "written")]), lines(lab)?.len());
        ensure!(written == f64::from(u32::try_from(n)?), "{written} lines of {n} are counted");
        Ok(())
    });
}

#[test]
fn requests_are_watched_only_where_a_policy_lets_them_be() {
    scene::mesh(&plan("watched"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        routed(lab)?;
        let run = lab.run_directory("a").display().to_string();
        let program = lab.binaries().path("millrace")?.display().to_string();
        let asks_for = |workload: &str| {
            let mut command = std::process::Command::new(&program);
            command.args(["--run-dir", &run, "tap", workload, "--count", "2", "-o", "json"]);
            command
        };
        let refused = |workload: &str, why: &str| {
            let output = millrace_lab::process::run(asks_for(workload), LAG)?;
            let said = output.stdout + &output.stderr;
            ensure!(!output.status.success() && said.contains(why), "{workload}: {said}");
            Ok(())
        };
        refused("shop/client", "no TelemetryPolicy selects it")?;
        lab.apply(&policy("tapped", &json!({"selector": {"matchLabels": {"app": "client"}}})))?;
        clock::until(LAG, "the policy is told", || {
            refused("shop/client", "TelemetryPolicy shop/tapped does not say so")
        })?;
        refused("shop/far", "ask there")?;
        refused("shop/nobody", "there is no pod")?;
        lab.apply(&policy("tapped", &json!({"selector": {"matchLabels": {"app": "client"}}, "tap": "Enabled"})))?;
        clock::until(LAG, "it may be watched", || {
            lab.admin(Part::Proxy("a")).follow("/tap?workload=shop/client").map(drop)
        })?;
        let mut watching = millrace_lab::process::Process::start(asks_for("shop/client"), "tap", &lab.logs())?;
        clock::until(LAG, "both of two requests are shown", || {
            answers(lab, "shop/client", &["http://web/v1/seen"])?;
            let lines: Vec<Value> =
                watching.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            ensure!(lines.len() == 2, "there are {lines:?}");
            let is_it = |line: &Value| {
                line["path"] == "/v1/seen" && line["code"] == 200 && line["destination_workload"] == "shop/near"
            };
            ensure!(lines.iter().all(is_it), "{lines:?}");
            Ok(())
        })?;
        ensure!(watching.wait(LAG)?.success(), "it ends after two: {}", watching.errors());
        Ok(())
    });
}

#[test]
fn without_a_file_lines_go_to_standard_output_and_of_requests_only_the_share_that_is_asked_for() {
    const REQUESTS: u32 = 2_000;
    const PERCENT: u32 = 25;
    // 4 standard deviations of so many draws.
    const APART: f64 = 3.9;
    scene::mesh(&plan("shared"), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        routed(lab)?;
        let said = || fs::read_to_string(lab.logs().join("a-proxy.out")).context("what the proxy says");
        let count = |path: &str| Ok::<_, anyhow::Error>(said()?.lines().filter(|line| *line == path).count());
        let spec = |percent: u32| json!({"accessLogs": {"format": "Text", "template": "{path} {code}", "sampling": {"percent": percent}}});
        apply(lab, &policy("log", &spec(100)), || {
            answers(lab, "shop/client", &["http://web/v2/all"])?;
            clock::until(Duration::from_millis(400), "a line", || {
                ensure!(count("/v2/all 200")? > 0);
                Ok(())
            })
            .map(drop)
        })?;
        lab.apply(&policy("log", &spec(PERCENT)))?;
        lab.settle()?;
        let mut number = 0;
        // In force with the next request once the node has it: of 100 in one go not all are written.
        clock::until(LAG, "a share is written", || {
            number += 1;
            let path = format!("/v2/probe/{number}");
            load_path(lab, &path, 100)?;
            std::thread::sleep(Duration::from_millis(300));
            let n = count(&format!("{path} 200"))?;
            ensure!(n < 60, "{n} of 100 are written");
            Ok(())
        })?;
        load_path(lab, "/v2/shared", REQUESTS)?;
        std::thread::sleep(Duration::from_millis(500));
        let share = 100.0 * f64::from(u32::try_from(count("/v2/shared 200")?)?) / f64::from(REQUESTS);
        ensure!((share - f64::from(PERCENT)).abs() < APART, "{share} % of {REQUESTS} are written");
        println!("{share:.2} % of {REQUESTS} requests written, where {PERCENT} % are asked for");
        Ok(())
    });
}
