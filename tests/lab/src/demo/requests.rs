//! The scene about routes: a canary by request, edited while it is asked, and a fault injected by percent.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Demo, shop::VISITOR, stage::human};
use crate::{clock, lab::Lab, manifests, process};

/// Requests over which shares are measured: 4 standard deviations are 4.5 points at 50 %, 2 points at 5 %.
const REQUESTS: u32 = 2_000;

/// How many of a hundred the fault falls on.
const FAULTS: u32 = 10;

/// How long an edit may take until it is in force.
const IN_FORCE: Duration = Duration::from_secs(1);

/// How long is waited for it, to say what it took if that was longer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn canary_and_fault(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    for pod in ["shop/catalogue-v1", "shop/catalogue-v2"] {
        let mut pod = lab.topology().pod(pod)?.clone();
        pod.plan.weight = Some(1);
        lab.apply(&manifests::pod(lab.number(), lab.topology(), &pod))?;
    }
    for version in ["v1", "v2"] {
        lab.apply(&service_of(version))?;
    }
    let file = lab.apply(&route("95-5", (95, 5), &json!([])))?;
    in_force(lab, "95-5")?;
    stage.say(format!("{}: 95 % of catalogue's requests to v1, 5 % to v2", file.display()));
    for (edition, weights, within) in [("95-5", (95, 5), 2.0), ("50-50", (50, 50), 4.5)] {
        if edition != "95-5" {
            lab.apply(&route(edition, weights, &json!([])))?;
            let took = in_force(lab, edition)?;
            stage.check(took < IN_FORCE, format!("edited to 50 % and 50 %: in force {} after the edit", human(took)));
        }
        let counts = ask(lab)?;
        let (v1, v2) = (counts.version("v1"), counts.version("v2"));
        let share = 100.0 * f64::from(v2) / f64::from(REQUESTS);
        stage.check(
            v1 + v2 == REQUESTS && (share - f64::from(weights.1)).abs() < within,
            format!("{REQUESTS} requests on one connection: v1 {v1}, v2 {v2} = {share:.1} %, within {within} points; {} failed", REQUESTS - v1 - v2),
        );
    }
    let fault = |percent: u32| {
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "HTTPFault", "metadata": {"namespace": "shop", "name": "shaky"},
               "spec": {"abort": {"status": 503, "percent": percent}}})
    };
    let filter = json!([{"type": "ExtensionRef", "extensionRef": {"group": "millrace.dev", "kind": "HTTPFault", "name": "shaky"}}]);
    lab.apply(&fault(FAULTS))?;
    lab.apply(&route("shaky", (50, 50), &filter))?;
    clock::until(PATIENCE, "the fault falls on somebody", || {
        ensure!(ask(lab)?.status("503") > 0, "nobody gets a 503");
        Ok(())
    })?;
    let counts = ask(lab)?;
    let n_failed = counts.status("503");
    let share = 100.0 * f64::from(n_failed) / f64::from(REQUESTS);
    stage.check(
        (share - f64::from(FAULTS)).abs() < 2.7 && n_failed + counts.status("200") == REQUESTS,
        format!(
            "HTTPFault shop/shaky, 503 for {FAULTS} %: {n_failed} of {REQUESTS} = {share:.1} %, the others answered"
        ),
    );
    explained(demo)?;
    let Demo { stage, lab, .. } = demo;
    lab.remove(&route("shaky", (50, 50), &filter))?;
    lab.remove(&fault(FAULTS))?;
    let (_, took) = clock::until(PATIENCE, "no request fails", || {
        let n = ask(lab)?.status("200");
        ensure!(n == REQUESTS, "{n} of {REQUESTS} are answered");
        Ok(())
    })?;
    stage.say(format!("route and fault removed: every request answered again, looked at for {}", human(took)));
    Ok(())
}

/// What `millrace explain` says of such a request.
fn explained(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let arguments = ["explain", VISITOR, "--http", "GET http://catalogue/items"];
    let mut command = lab.place("a")?.command(lab.binaries().path("millrace")?)?;
    command.arg("--run-dir").arg(lab.run_directory("a")).args(arguments);
    let output = process::run(command, PATIENCE)?;
    stage.say(format!("$ millrace explain {VISITOR} --http \"GET http://catalogue/items\""));
    stage.say(output.stdout.trim_end());
    stage.check(
        output.status.success() && output.stdout.contains("10 % of requests get a 503"),
        format!("it names rule, fault, backends, endpoints and policies {}", output.stderr.trim()),
    );
    Ok(())
}

/// A Service without an address of its own, for one version.
fn service_of(version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": format!("catalogue-{version}")},
        "spec": {"clusterIP": "None", "selector": {"app": "catalogue", "version": version}, "ports": [{"name": "http", "port": 80, "targetPort": 80}]},
    })
}

fn route(edition: &str, (v1, v2): (u32, u32), more: &Value) -> Value {
    let mut filters = vec![json!({
        "type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-edition", "value": edition}]},
    })];
    filters.extend(more.as_array().into_iter().flatten().cloned());
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": "catalogue"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "catalogue", "port": 80}],
            "rules": [{"name": "canary", "filters": filters, "backendRefs": [
                {"name": "catalogue-v1", "port": 80, "weight": v1}, {"name": "catalogue-v2", "port": 80, "weight": v2}]}],
        },
    })
}

/// How long it took until the visitor's requests go by this edition of the route.
fn in_force(lab: &Lab, edition: &str) -> Result<Duration> {
    let head = [
        "curl",
        "--silent",
        "--max-time",
        "3",
        "--output",
        "/dev/null",
        "--dump-header",
        "-",
        "http://catalogue/items",
    ];
    let (_, took) = clock::until(PATIENCE, "the route is in force", || {
        let said = lab.pod(VISITOR)?.run(&head)?.stdout;
        ensure!(said.contains(&format!("x-edition: {edition}\r\n")), "{said}");
        Ok(())
    })?;
    Ok(took)
}

/// What many requests on a kept connection were answered.
struct Counts(String);

impl Counts {
    fn version(&self, version: &str) -> u32 {
        u32::try_from(self.0.matches(&format!("\"version\": \"{version}\"")).count()).unwrap_or(u32::MAX)
    }

    fn status(&self, status: &str) -> u32 {
        let lines = self.0.lines().filter(|line| line.strip_prefix("status ").is_some_and(|said| said == status));
        u32::try_from(lines.count()).unwrap_or(u32::MAX)
    }
}

fn ask(lab: &Lab) -> Result<Counts> {
    let url = format!("http://catalogue/items?[1-{REQUESTS}]");
    let arguments = ["curl", "--silent", "--max-time", "60", "--write-out", "\nstatus %{http_code}\n", &url];
    let said = lab.pod(VISITOR)?.run_within(PATIENCE * 6, &arguments)?.stdout;
    ensure!(said.contains("status "), "curl said nothing: {said}");
    Ok(Counts(said))
}
