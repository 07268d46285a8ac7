//! What is told of connections is what clients really did: bytes to the last one, both ends, proxied or not, and failures by name.

mod measured;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, Plan, Pod, clock};
use serde_json::Value;

use crate::scene;

/// More than a window, and no round numbers.
const UP: u64 = 3_000_001;
const DOWN: u64 = 1_000_003;
const CHUNK: usize = 40_000;
/// With the line that the lab's client says before it sends.
const SENT: u64 = UP + "duplex 3000001 1000003 40000\n".len() as u64;

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

/// Calls the service at this address, and looks at what each end tells of it. Returns the bytes that came back.
fn is_told(lab: &Lab, name: &str, (asked, from, target): (SocketAddr, IpAddr, SocketAddr)) -> Result<u64> {
    let (client, server) = (lab.pod("shop/client")?, lab.pod(name)?);
    let (is_near, node) = (server.node() == "a", server.node());
    let _serving = server.serves("[::]:8080", &[])?;
    client.exchanges(asked, UP, DOWN, CHUNK)?;

    let own = end(lab, "a", "client", "closed", |end| end["asked"] == asked.to_string())?;
    let (path, target_workload) = if is_near { ("direct", name) } else { ("proxied", "") };
    ensure!(own["service"] == name && own["path"] == path, "{own:#}");
    ensure!(own["target_workload"] == target_workload, "{own:#}");
    ensure!(own["connect_us"].as_u64() > Some(0), "{own:#}");
    let mut all = vec![own.clone()];
    if is_near {
        ensure!(own["target"] == target.to_string(), "{own:#}");
        ensure!(ends(lab, node, "server")?.is_empty(), "one record speaks for both ends");
    } else {
        let is_it = |end: &Value| end["target"] == target.to_string() && end["target_workload"] == name;
        all.push(end(lab, node, "server", "closed", is_it)?);
    }
    for told in &all {
        ensure!(told["bytes_sent"] == SENT, "{SENT} bytes were sent: {told:#}");
        ensure!(told["bytes_received"].as_u64() > Some(DOWN), "the greeting and {DOWN} bytes came: {told:#}");
        ensure!(told["bytes_received"] == own["bytes_received"], "{told:#} {own:#}");
        ensure!(told["duration_us"].as_u64() > Some(0) && told["rtt_us"].as_u64() > Some(0), "{told:#}");
        let source: SocketAddr = told["source_address"].as_str().unwrap_or_default().parse()?;
        ensure!(source.ip() == from, "the client's true address, {from}: {told:#}");
        ensure!(told["source_address"] == own["source_address"], "{told:#} {own:#}");
    }
    own["bytes_received"].as_u64().context("a number")
}

#[test]
fn every_connection_is_told_with_the_very_bytes_on_each_node_that_it_touches() {
    scene::mesh(&plan(), |lab| {
        let client = lab.pod("shop/client")?.addresses();
        for name in ["shop/near", "shop/far"] {
            let (server, vip) = (lab.pod(name)?, lab.topology().service(name)?.addresses);
            let families: [[IpAddr; 3]; 2] = [
                [vip.v4, client.v4, server.addresses().v4].map(IpAddr::V4),
                [vip.v6, client.v6, server.addresses().v6].map(IpAddr::V6),
            ];
            let mut came = 0;
            for [vip, from, to] in families {
                came += is_told(lab, name, (SocketAddr::new(vip, 80), from, SocketAddr::new(to, 8080)))?;
            }

            let (node, service) = (server.node(), name.trim_start_matches("shop/"));
            let of_client = [("reporter", "client"), ("source_workload", "client"), ("destination_service", service)];
            let of_server = [("reporter", "server"), ("source_workload", "client"), ("destination_workload", service)];
            for (node, labels) in [("a", of_client), (node, of_server)] {
                let sent = sum(lab, node, "millrace_tcp_sent_bytes_total", &labels)?;
                ensure!(sent == (2 * SENT) as f64, "{node} {labels:?}: {sent} bytes were sent");
                let received = sum(lab, node, "millrace_tcp_received_bytes_total", &labels)?;
                ensure!(received == came as f64, "{node} {labels:?}: {received} bytes came, not {came}");
                ensure!(sum(lab, node, "millrace_tcp_connections_closed_total", &labels)? == 2.0, "{node} {labels:?}");
            }
            ensure!(sum(lab, "a", "millrace_tcp_connections_opened_total", &of_client)? == 2.0, "{of_client:?}");
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
