//! ExternalWorkload and ExternalService on a real API server: their status, what its schema refuses, and what they make of the mesh.

use std::time::Duration;

use kube::core::DynamicObject;
use millrace_control::diagnostic::Kind;
use millrace_model::ObjectName;
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, kubernetes},
    node::Node,
    server::{Writer, server},
    world::{pod, service},
};

fn own(shop: &str, kind: &str, name: &str, spec: &Value) -> Value {
    let meta = json!({"name": name, "namespace": shop, "labels": {"app": "orders"}});
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec})
}

/// Waits for a condition; the object as it is then.
async fn until(
    writer: &Writer,
    kind: Kind,
    (shop, name): (&str, &str),
    (condition, holds, reason): (&str, &str, &str),
) -> DynamicObject {
    let began = millrace_control::clock::now();
    loop {
        let object = writer.get(kind, shop, name).await;
        let generation = object.metadata.generation.unwrap_or_default();
        let list = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let is_it = |one: &Value| {
            one["type"] == condition
                && one["status"] == holds
                && one["reason"] == reason
                && one["observedGeneration"] == generation
        };
        if list.iter().flatten().any(is_it) {
            return object;
        }
        assert!(began.elapsed() < PATIENCE, "{name}: {condition} is not {holds} {reason} of {generation}: {list:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_outside_says_on_its_status_what_became_of_it() {
    let server = server();
    let shop = server.namespace("outside");
    let writer = Writer { client: server.client().await };
    let node = format!("{shop}-a");
    writer.create(&pod(&shop, "client", "client", (&node, "10.15.0.1"))).await;
    writer.create(&service(&shop, "orders", None)).await;
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let _following = Node::named(&mesh, &node).await.follow(&mesh).await;
    let machine = json!({"addresses": ["192.0.2.7"], "ports": [{"name": "http", "port": 8080}], "tunnel": "Enabled"});
    writer.create(&own(&shop, "ExternalWorkload", "rack", &machine)).await;
    let outside =
        json!({"addresses": ["192.0.2.100"], "ports": [{"port": 443}], "endpoints": [{"address": "198.51.100.1"}]});
    writer.create(&own(&shop, "ExternalService", "payments", &outside)).await;
    for (kind, name) in [(Kind::ExternalWorkload, "rack"), (Kind::ExternalService, "payments")] {
        until(&writer, kind, (&shop, name), ("Accepted", "True", "Accepted")).await;
        until(&writer, kind, (&shop, name), ("Enforced", "True", "Enforced")).await;
    }
    let machine = ObjectName::new(&shop, "externalworkload:rack");
    let payments = ObjectName::new(&shop, "externalservice:payments");
    let snapshot = mesh
        .until("both are published", |snapshot| {
            snapshot.workloads.contains_key(&machine) && snapshot.services.contains_key(&payments)
        })
        .await;
    let behind = &snapshot.endpoints[&ObjectName::new(&shop, "orders")];
    assert_eq!(behind.endpoints.len(), 1, "the Service selects the machine: {behind:?}");

    // What only the reader can refuse is told with field and mend, and what was in force stays.
    let spec = json!({"spec": {"endpoints": [{"address": "127.0.0.1"}]}});
    writer.merge(Kind::ExternalService, &shop, "payments", &spec).await;
    let object = until(&writer, Kind::ExternalService, (&shop, "payments"), ("Accepted", "False", "Invalid")).await;
    assert!(
        object.data["status"].to_string().contains("spec.endpoints[0].address: 127.0.0.1 is a loopback"),
        "{object:?}"
    );
    until(&writer, Kind::ExternalService, (&shop, "payments"), ("Enforced", "False", "NotAccepted")).await;
    let spec = json!({"spec": {"endpoints": [{"address": "198.51.100.2"}]}});
    writer.merge(Kind::ExternalService, &shop, "payments", &spec).await;
    until(&writer, Kind::ExternalService, (&shop, "payments"), ("Enforced", "True", "Enforced")).await;
    writer.delete(Kind::ExternalWorkload, &shop, "rack").await;
    mesh.until("the machine is gone", |snapshot| !snapshot.workloads.contains_key(&machine)).await;
    mesh.stop().await;
}

#[test]
fn the_schema_refuses_what_is_outside_in_no_shape_and_fills_in_what_is_left_out() {
    let server = server();
    let shop = server.namespace("outside");
    for (kind, spec, field) in [
        ("ExternalWorkload", json!({}), "spec.addresses"),
        ("ExternalWorkload", json!({"addresses": []}), "spec.addresses"),
        ("ExternalWorkload", json!({"addresses": ["192.0.2.7"], "tunnel": "Maybe"}), "spec.tunnel"),
        ("ExternalWorkload", json!({"addresses": ["192.0.2.7"], "weight": 70_000}), "spec.weight"),
        (
            "ExternalWorkload",
            json!({"addresses": ["192.0.2.7"], "ports": [{"name": "http", "port": 0}]}),
            "spec.ports[0].port",
        ),
        (
            "ExternalService",
            json!({"ports": [{"port": 443}], "endpoints": [{"address": "198.51.100.1"}]}),
            "spec.addresses",
        ),
        (
            "ExternalService",
            json!({"addresses": ["192.0.2.9"], "ports": [{"port": 443}], "endpoints": []}),
            "spec.endpoints",
        ),
        (
            "ExternalService",
            json!({"addresses": ["192.0.2.9"], "ports": [{"port": 443, "protocol": "SCTP"}], "endpoints": [{"address": "198.51.100.1"}]}),
            "spec.ports[0].protocol",
        ),
    ] {
        let said = server.kubectl(&["create", "-f", "-"], &own(&shop, kind, "wrong", &spec).to_string());
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && text.contains(field), "{kind} {spec}: {text}");
    }
    server.apply(&own(&shop, "ExternalWorkload", "rack", &json!({"addresses": ["192.0.2.7"]})).to_string());
    // By its short name, as a person would; with the columns that a person looks for.
    let said = server.kubectl(&["get", "mrew", "rack", "-n", &shop, "-o", "json"], "");
    let object: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&object["spec"]["serviceAccount"], &object["spec"]["tunnel"]), (&json!("default"), &json!("Disabled")));
    let said = server.kubectl(&["get", "mrew", "rack", "-n", &shop], "");
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "ADDRESS", "TUNNEL", "ACCEPTED", "AGE"]);
    assert!(table.contains("192.0.2.7") && table.contains("Disabled"), "{table}");
}
