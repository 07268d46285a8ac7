//! What is outside Kubernetes: a machine that is called by tunnel, and a service that is called by its own addresses.
//!
//! The machine's namespace plays one: its mesh is another one, started there by `millrace run` of manifests of its own. The two share the root and
//! nothing else, so the caller's proxy has nothing but the ExternalWorkload to go by, and the machine nothing but the caller's certificate.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod,
    admin::Admin,
    clock,
    demo::wire,
    manifests::{self, Manifests, Rule, access_policy},
    plan::WIRE,
    process::Process,
};
use serde_json::{Value, json};

use crate::scene::{self, CALL};

/// A whole mesh starts on one host within this time.
const START: Duration = Duration::from_secs(30);

/// Machines and services outside have addresses of nobody's range here.
const PAYMENTS: &str = "192.0.2.7";

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/stranger")])
        .node("b", [Pod::new("shop/machine").app("orders")])
        .service("shop/orders", &[(80, 8080)])
}

fn machine(lab: &Lab, account: &str, tunnel: &str) -> Result<Value> {
    let addresses = lab.pod("shop/machine")?.addresses().both();
    Ok(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ExternalWorkload",
        "metadata": {"namespace": "shop", "name": "machine", "labels": {"app": "orders"}},
        "spec": {"addresses": addresses, "serviceAccount": account, "tunnel": tunnel},
    }))
}

fn payments(endpoints: &[String]) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|address| json!({ "address": address })).collect();
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ExternalService",
        "metadata": {"namespace": "shop", "name": "payments"},
        "spec": {"addresses": [PAYMENTS], "ports": [{"port": 443, "targetPort": 8080}], "endpoints": endpoints},
    })
}

/// The mesh of node a: the machine's node and pod are unknown to it.
fn start_mesh(lab: &mut Lab) -> Result<()> {
    lab.remove(&json!({"kind": "Node", "metadata": {"name": "b"}}))?;
    lab.remove(&json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": "machine"}}))?;
    lab.start(Part::Control)?;
    lab.wait_ready(Part::Control)?;
    for part in [Part::Agent("a"), Part::Proxy("a")] {
        lab.start(part)?;
    }
    lab.wait_ready(Part::Agent("a"))?;
    lab.wait_ready(Part::Proxy("a"))
}

/// The machine's own mesh, under the first's root, of these manifests.
fn start_machine(lab: &Lab, own: &Manifests) -> Result<Process> {
    let directory = lab.directory().join("machine");
    let pod = lab.topology().pod("shop/machine")?;
    for object in [
        manifests::namespace("shop"),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}}),
        manifests::pod(lab.number(), lab.topology(), pod),
    ] {
        own.apply(&object)?;
    }
    let state = directory.join("state/control");
    fs::create_dir_all(&state)?;
    for file in ["root.pem", "root.key"] {
        fs::copy(lab.directory().join("wire/state").join(file), state.join(file))?;
    }
    let place = lab.place("b")?;
    let mut command = place.command(lab.binaries().path("millrace")?)?;
    command.arg("run").arg(&own.directory).args(["--node", "b", "--run-dir"]).arg(directory.join("run"));
    command.arg("--state-dir").arg(directory.join("state")).arg("--bpffs").arg(lab.bpffs("b")?);
    command.arg("--cgroup").arg(place.cgroup);
    let mut whole = Process::start(command, "machine", &lab.logs())?;
    for process in ["control", "agent", "proxy"] {
        let admin = Admin { socket: directory.join(format!("run/{process}-admin.sock")) };
        clock::until(START, &format!("the machine's {process} is ready"), || {
            whole.still_runs()?;
            admin.ready()
        })?;
    }
    Ok(whole)
}

#[test]
fn a_machine_outside_is_called_by_tunnel_and_knows_who_calls() {
    scene::plain(&plan("outside"), |lab| {
        start_mesh(lab)?;
        let directory = lab.directory().join("machine");
        let own = Manifests::new(directory.join("manifests"), directory.join("aside"))?;
        let _machine = start_machine(lab, &own)?;
        let _serving = lab.pod("shop/machine")?.serves("[::]:8080", &[])?;
        let (client, stranger) = (lab.pod("shop/client")?, lab.pod("shop/stranger")?);
        own.apply(&access_policy("shop/guard", "Allow", "orders", &[Rule::identity("shop/client")])?)?;
        lab.apply(&machine(lab, "orders", "Enabled")?)?;

        let capture = lab.capture("a", "wire")?;
        let (called, _) = clock::until(CALL, "the machine answers", || client.connects("orders:80"))?;
        let greeting = called.greeting.as_ref();
        ensure!(greeting.is_some_and(|one| one.name == "shop/machine"), "{called:?}");
        for address in lab.pod("shop/machine")?.addresses().both() {
            client.connects(std::net::SocketAddr::new(address, 8080))?;
        }
        client.exchanges("orders:80", 100_000, 100_000, 10_000)?;
        // Whom its policy does not name has another certificate, and is refused by it.
        stranger.is_refused("orders:80")?;
        capture.shows(CALL, "tunnels are on the wire", |flows| {
            let encrypted: usize = wire::sessions(flows)?.iter().map(|(_, session)| session.encrypted_bytes).sum();
            ensure!(encrypted > 200_000, "{encrypted} bytes so far");
            Ok(())
        })?;
        let flows = capture.flows()?;
        ensure!(wire::clear_line(&flows, "shop/machine").is_none(), "nothing of it is in the clear");
        drop(capture);

        // A service outside whose endpoint is the machine: whoever has the address is called as that one is.
        let address = lab.pod("shop/machine")?.addresses().v4.to_string();
        lab.apply(&payments(&[address]))?;
        let (called, _) =
            clock::until(CALL, "the service's address leads there", || client.connects(format!("{PAYMENTS}:443")))?;
        ensure!(called.greeting.is_some_and(|one| one.name == "shop/machine"), "by tunnel, or it would not take it");
        stranger.is_refused(format!("{PAYMENTS}:443"))?;

        // Another identity than it proves: it is not called, and never plainly.
        lab.apply(&machine(lab, "somebody", "Enabled")?)?;
        clock::until(CALL, "one that is somebody else is not called", || client.is_refused("orders:80"))?;
        lab.apply(&machine(lab, "orders", "Enabled")?)?;
        clock::until(CALL, "the machine answers again", || client.connects("orders:80"))?;
        Ok(())
    });
}

#[test]
fn a_service_outside_is_called_by_its_addresses_and_spread_over_its_endpoints() {
    scene::plain(&plan("payments"), |lab| {
        start_mesh(lab)?;
        // Two who know nothing of a mesh: one on the wire, one where the machine is.
        let program = lab.binaries().path("probe-peer")?;
        let mut command = lab.place("wire")?.command(&program)?;
        command.args(["serve", "[::]:8080", "--name", "wire"]);
        let mut on_the_wire = Process::start(command, "serve-wire", &lab.logs())?;
        on_the_wire.says("listening", CALL)?;
        let _serving = lab.pod("shop/machine")?.serves("[::]:8080", &[])?;
        let client = lab.pod("shop/client")?;
        client.connects(lab.pod("shop/machine")?.at(8080))?;
        let other = lab.pod("shop/machine")?.addresses().v4.to_string();
        lab.apply(&payments(&[WIRE.v4.to_string(), other]))?;
        let target = format!("{PAYMENTS}:443");
        clock::until(CALL, "its address leads somewhere", || client.connects(&target))?;
        let done = client.connects_often(&target, 60)?;
        ensure!(done.errors.is_empty(), "every call succeeds: {done:?}");
        // 60 draws of two: that one is never drawn is 2^-59.
        ensure!(done.by_name.len() == 2, "both are called: {done:?}");
        lab.apply(&payments(&[WIRE.v4.to_string()]))?;
        clock::until(CALL, "one that left is not called", || {
            let done = client.connects_often(&target, 30)?;
            ensure!(done.errors.is_empty(), "every call succeeds: {done:?}");
            ensure!(done.by_name.keys().eq(["wire"]), "{done:?}");
            Ok(())
        })?;
        lab.remove(&payments(&[]))?;
        clock::until(CALL, "without it nobody has the address", || {
            let called = client.calls(&target)?;
            ensure!(called.error.is_some(), "{called:?}");
            Ok(())
        })?;
        Ok(())
    });
}
