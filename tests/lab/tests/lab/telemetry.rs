//! What is told of connections is what clients really did: bytes to the last one, both ends, proxied or not, and failures by name.

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock};
use serde_json::Value;

use crate::scene;

/// More than a window, and no round numbers.
const UP: u64 = 3_000_001;
const DOWN: u64 = 1_000_003;
const CHUNK: usize = 40_000;

fn plan() -> Plan {
    Plan::new("telemetry")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near")])
        .node("b", [Pod::new("shop/far")])
        .service("shop/near", &[(80, 8080)])
        .service("shop/far", &[(80, 8080)])
        .service("shop/nowhere", &[(80, 8080)])
}

/// The ends that a node's agent has told of connections from shop/client, of this side.
fn ends(lab: &Lab, node: &str, side: &str) -> Result<Vec<Value>> {
    let kept = lab.admin(Part::Agent(node)).get("/flows?follow=false")?;
    let mut ends = Vec::new();
    for line in kept.lines() {
        let flow: Value = serde_json::from_str(line)?;
        if flow["event"] == "ended" && flow["side"] == side && flow["source"] == "shop/client" {
            ends.push(flow);
        }
    }
    Ok(ends)
}

/// The one end that fits, once it is told.
fn end(lab: &Lab, node: &str, side: &str, verdict: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let (found, _) = clock::until(scene::CALL, &format!("{node} tells the {side}'s {verdict}"), || {
        let ends = ends(lab, node, side)?;
        let found = ends.iter().find(|end| end["verdict"] == verdict && wanted(end));
        found.cloned().with_context(|| format!("there is {ends:#?}"))
    })?;
    Ok(found)
}

fn sum(lab: &Lab, node: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(lab.admin(Part::Agent(node)).metrics()?.sum(name, labels))
}

#[test]
fn every_connection_is_told_with_the_very_bytes_on_each_node_that_it_touches() {
    scene::mesh(&plan(), |lab| {
        let client = lab.pod("shop/client")?;
        // What the lab's client says before it sends.
        let command = format!("duplex {UP} {DOWN} {CHUNK}\n").len() as u64;
        for (service, node, path) in [("near", "a", "direct"), ("far", "b", "proxied")] {
            let name = format!("shop/{service}");
            let server = lab.pod(&name)?;
            let _serving = server.serves("[::]:8080", &[])?;
            client.exchanges(format!("{service}:80"), UP, DOWN, CHUNK)?;
            let own = end(lab, "a", "client", "closed", |end| end["service"] == *name)?;
            ensure!(own["path"] == path && own["target_workload"] == if node == "a" { &*name } else { "" }, "{own:#}");
            ensure!(own["connect_us"].as_u64() > Some(0), "{own:#}");
            let mut all = vec![own.clone()];
            if node == "b" {
                let other = end(lab, node, "server", "closed", |end| end["target_workload"] == *name)?;
                ensure!(other["target"] == server.at(8080).to_string(), "{other:#}");
                all.push(other);
            } else {
                ensure!(ends(lab, node, "server")?.is_empty(), "one record speaks for both ends");
            }
            for told in &all {
                ensure!(told["bytes_sent"] == UP + command, "{} bytes were sent: {told:#}", UP + command);
                ensure!(told["bytes_received"].as_u64() > Some(DOWN), "the greeting and {DOWN} bytes came: {told:#}");
                ensure!(told["bytes_received"] == own["bytes_received"], "{told:#} {own:#}");
                ensure!(told["duration_us"].as_u64() > Some(0) && told["rtt_us"].as_u64() > Some(0), "{told:#}");
                let from = told["source_address"].as_str().unwrap_or_default();
                ensure!(
                    from.starts_with(&format!("{}:", client.addresses().v4)),
                    "the client's true address: {told:#}"
                );
                ensure!(told["source_address"] == own["source_address"], "{told:#} {own:#}");
            }

            let of_client = [("reporter", "client"), ("source_workload", "client"), ("destination_service", service)];
            let of_server = [("reporter", "server"), ("source_workload", "client"), ("destination_workload", service)];
            for (node, labels) in [("a", of_client), (node, of_server)] {
                let sent = sum(lab, node, "millrace_tcp_sent_bytes_total", &labels)?;
                ensure!(sent == (UP + command) as f64, "{node} {labels:?}: {sent} bytes were sent");
                let received = sum(lab, node, "millrace_tcp_received_bytes_total", &labels)?;
                ensure!(Some(received) == own["bytes_received"].as_f64(), "{node} {labels:?}: {received} bytes came");
                ensure!(sum(lab, node, "millrace_tcp_connections_closed_total", &labels)? == 1.0, "{node} {labels:?}");
            }
            ensure!(sum(lab, "a", "millrace_tcp_connections_opened_total", &of_client)? == 1.0, "{of_client:?}");
        }
        ensure!(
            sum(lab, "a", "millrace_kernel_decisions_total", &[("reason", "flow_dropped")])? == 0.0,
            "none is lost"
        );
        Ok(())
    });
}

#[test]
fn what_fails_is_told_by_name() {
    scene::mesh(&plan(), |lab| {
        let client = lab.pod("shop/client")?;
        client.is_refused(lab.pod("shop/near")?.at(9999))?;
        end(lab, "a", "client", "connect_refused", |end| end["target_workload"] == "shop/near")?;
        client.is_refused(lab.pod("shop/far")?.at(9999))?;
        end(lab, "a", "client", "reset", |end| end["target_workload"] == "shop/far")?;
        client.is_refused("nowhere:80")?;
        clock::until(scene::CALL, "failures are counted", || {
            for outcome in ["connect_refused", "no_backend"] {
                let labels = [("source_workload", "client"), ("outcome", outcome)];
                let n = sum(lab, "a", "millrace_tcp_connections_failed_total", &labels)?;
                ensure!(n == 1.0, "{outcome}: {n}");
            }
            Ok(())
        })?;
        Ok(())
    });
}
