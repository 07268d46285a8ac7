//! Ten thousand services with a route each: what loading them takes and costs, how soon one change is in force, and that a request
//! costs the same as among ten.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock};
use serde_json::json;

use crate::{
    routes::{answers, serves},
    scene,
};

/// Services in one file: a change of one rewrites its file alone.
const IN_A_FILE: usize = 100;

/// How soon one change must be in force in the long form.
const CHANGE: Duration = Duration::from_millis(200);

/// Changes measured, one after the other.
const CHANGES: usize = 11;

/// Requests over which the time of one is measured.
const REQUESTS: usize = 500;

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v1")])
        .service("shop/v1", &[(80, 8080)])
}

/// The address of a service: 10.120.0.0/16 is nobody's in a lab.
fn address(index: usize) -> String {
    format!("10.120.{}.{}", index / 250, index % 250 + 1)
}

/// A service and its route, which marks answers with an edition.
fn pair(index: usize, edition: usize) -> String {
    let name = format!("s{index}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIPs": [address(index)], "selector": {"app": "v1"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    let mark = json!([{"name": "x-edition", "value": edition.to_string()}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}],
            "hostnames": [format!("{name}.example.com")],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}],
                "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": mark}}],
                "backendRefs": [{"name": "v1", "port": 80}]}],
        },
    });
    format!("---\n{service}\n---\n{route}\n")
}

fn write(lab: &Lab, file: usize, (count, edition): (usize, usize)) -> Result<()> {
    let all = (file * IN_A_FILE..count.min((file + 1) * IN_A_FILE)).map(|index| pair(index, edition));
    lab.manifests().write(&format!("scale-{file}.yaml"), &all.collect::<String>())?;
    Ok(())
}

/// Waits until a service's requests go by this edition of its route.
fn in_force(lab: &Lab, index: usize, edition: usize, patience: Duration) -> Result<Duration> {
    let (url, host) = (format!("http://{}/shop/x", address(index)), format!("host: s{index}.example.com"));
    let wanted = format!("x-edition: {edition}\r\n");
    let (_, took) = clock::until(patience, "the route is in force", || {
        let said = answers(lab, "shop/client", &["-H", &host, &url])?;
        ensure!(said.contains(&wanted), "s{index} is asked by edition {edition}: {said}");
        Ok(())
    })?;
    Ok(took)
}

/// Resident memory, in MiB.
fn resident(lab: &Lab, part: Part<'_>) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.pid(part)?))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? / 1024.0)
}

fn memory(lab: &Lab) -> Result<[f64; 3]> {
    Ok([resident(lab, Part::Control)?, resident(lab, Part::Agent("a"))?, resident(lab, Part::Proxy("a"))?])
}

/// The time of one request on a kept connection.
fn request_time(lab: &Lab, index: usize) -> Result<Duration> {
    let url = format!("http://{}/shop/x?[1-{REQUESTS}]", address(index));
    let host = format!("host: s{index}.example.com");
    let begun = clock::now();
    let said = lab.pod("shop/client")?.run_within(
        Duration::from_secs(60),
        &["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}\n", "-H", &host, &url],
    )?;
    let n_ok = said.stdout.lines().filter(|code| *code == "200").count();
    ensure!(n_ok == REQUESTS, "{n_ok} of {REQUESTS} were answered");
    Ok(begun.elapsed() / u32::try_from(REQUESTS)?)
}

fn scale(name: &str, count: usize, change: Duration) {
    scene::mesh(&plan(name), |lab| {
        let _serving = [serves(lab, "shop/near")?, serves(lab, "shop/far")?];
        write(lab, 0, (10, 0))?;
        in_force(lab, 9, 0, Duration::from_secs(20))?;
        let (few, alone) = (memory(lab)?, request_time(lab, 9)?);
        let n_files = count.div_ceil(IN_A_FILE);
        let begun = clock::now();
        for file in 0..n_files {
            write(lab, file, (count, 1))?;
        }
        let written = begun.elapsed();
        in_force(lab, count - 1, 1, Duration::from_secs(120))?;
        lab.settle()?;
        let loaded = begun.elapsed();
        in_force(lab, 0, 1, Duration::from_secs(10))?;
        let many = memory(lab)?;
        let among = request_time(lab, count - 1)?;
        let mut changes = Vec::new();
        for edition in 2..2 + CHANGES {
            let index = (edition * 7919) % count;
            let file = index / IN_A_FILE;
            let begun = clock::now();
            write(lab, file, (count, edition))?;
            in_force(lab, index, edition, Duration::from_secs(20))?;
            changes.push(begun.elapsed());
        }
        changes.sort();
        let median = changes.get(CHANGES / 2).copied().unwrap_or_default();
        let names = ["control", "agent", "proxy"];
        println!("{count} services with a route each: written in {written:?}, in force everywhere after {loaded:?}");
        for (name, (before, after)) in names.iter().zip(few.iter().zip(&many)) {
            println!("  {name}: {before:.1} MiB with 10, {after:.1} MiB with {count}");
        }
        println!("  one change: in force after {median:?} (median of {CHANGES}), at most {:?}", changes.last());
        println!("  one request by curl on a kept connection: {alone:?} among 10, {among:?} among {count}");
        ensure!(median < change, "one change takes {median:?}: {changes:?}");
        ensure!(among < alone * 2, "a request among {count} takes {among:?}, among 10 {alone:?}");
        Ok(())
    });
}

#[test]
#[ignore = "long: 10,000 services with a route each, about a minute"]
fn ten_thousand_routes_are_loaded_and_one_change_is_in_force_within_200_ms() {
    scale("routes-many", 10_000, CHANGE);
}

#[test]
fn five_hundred_routes_are_loaded_and_a_request_costs_the_same_as_among_ten() {
    scale("routes-some", 500, Duration::from_secs(1));
}
