//! NetworkPolicies from an API server: what can't be read of them lets nothing through, and a person hears of it in events.

use std::time::Duration;

use k8s_openapi::ByteString;
use millrace_control::diagnostic::Kind;
use millrace_model::{ObjectName, Snapshot, Tier};
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, kubernetes},
    outage::post,
    server::{Server, Writer, server},
    world::pod,
};

/// Puts an object into the API server's store as a newer API server may have left it there: this one takes it as it is.
async fn store(server: &Server, object: &Value) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap();
    let key = format!("/registry/networkpolicies/{}/{}", text("/metadata/namespace"), text("/metadata/name"));
    let put = json!({"key": ByteString(key.into_bytes()), "value": ByteString(object.to_string().into_bytes())});
    let said = post(server.ports().1, "/v3/kv/put", &put.to_string()).await;
    assert!(said.contains("200 OK"), "{said}");
}

fn policy(shop: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": shop}, "spec": spec})
}

/// The events on an object of this uid, as `kubectl describe` finds them: type, reason and note.
async fn until_told(server: &Server, shop: &str, uid: &str, wanted: (&str, &str, &str)) {
    let began = millrace_control::clock::now();
    loop {
        let selector = format!("involvedObject.uid={uid}");
        let said = server.kubectl(&["get", "events", "-n", shop, "--field-selector", &selector, "-o", "json"], "");
        let all: Value = serde_json::from_slice(&said.stdout).unwrap();
        let is_it = |event: &Value| {
            let text = |field: &str| event[field].as_str().unwrap_or_default();
            (text("type"), text("reason")) == (wanted.0, wanted.1) && text("message").contains(wanted.2)
        };
        if all["items"].as_array().unwrap().iter().any(is_it) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{wanted:?} is not told: {all:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether this pod is bound, and by policies that let nothing in.
fn is_closed(snapshot: &Snapshot, shop: &str, name: &str) -> bool {
    let Some(workload) = snapshot.workloads.get(&ObjectName::new(shop, name)) else { return false };
    let all = workload.policies.iter().map(|name| &snapshot.policies[name]);
    let mut binding = all.filter(|policy| matches!(policy.tier, Tier::Network { .. })).peekable();
    binding.peek().is_some() && binding.all(|policy| policy.rules.is_empty())
}

fn is_open(snapshot: &Snapshot, shop: &str, name: &str) -> bool {
    snapshot.workloads.get(&ObjectName::new(shop, name)).is_some_and(|workload| workload.policies.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_policy_that_cannot_be_read_closes_whom_it_selects_and_says_so() {
    let server = server();
    let shop = server.namespace("netpol");
    let writer = Writer { client: server.client().await };
    for (name, address) in [("web", "10.14.0.1"), ("db", "10.14.0.2")] {
        writer.create(&pod(&shop, name, name, ("a", address))).await;
    }
    let mut newer = policy(
        &shop,
        "newer",
        &json!({
            "podSelector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "Near", "values": ["front"]}],
            },
            "policyTypes": ["Ingress"], "ingress": [{}],
        }),
    );
    let uid = "0b1c2d3e-0000-4000-8000-000000000001";
    newer["metadata"]["uid"] = uid.into();
    newer["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    store(server, &newer).await;
    let mut mesh = Mesh::rooted(kubernetes(server.kubeconfig(), &[&shop]), &shop).await;
    let at = "spec.podSelector.matchExpressions[0].operator: \"Near\"";
    mesh.until("whom it can be seen to select is closed, and nobody else", |snapshot| {
        is_closed(snapshot, &shop, "web") && is_open(snapshot, &shop, "db")
    })
    .await;
    until_told(server, &shop, uid, ("Warning", "Invalid", at)).await;
    until_told(server, &shop, uid, ("Warning", "Invalid", "are closed")).await;
    let patch = json!({"spec": {"podSelector": {"matchExpressions": null}}});
    writer.merge(Kind::NetworkPolicy, &shop, "newer", &patch).await;
    mesh.until("it is read now, and lets all in", |snapshot| {
        !is_closed(snapshot, &shop, "web") && !is_open(snapshot, &shop, "web")
    })
    .await;
    until_told(server, &shop, uid, ("Normal", "Accepted", "understood")).await;
    mesh.stop().await;
}

/// Nothing else would say so: NetworkPolicy has no status.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_held_to_of_a_network_policy_is_told_in_an_event_on_it() {
    let server = server();
    let shop = server.namespace("netpol");
    let writer = Writer { client: server.client().await };
    let mesh = Mesh::rooted(kubernetes(server.kubeconfig(), &[&shop]), &shop).await;
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "SCTP", "port": 80}]}]});
    let made = writer.create(&policy(&shop, "sctp", &spec)).await;
    let uid = made.metadata.uid.unwrap();
    let at = "spec.ingress[0].ports[0].protocol: the mesh carries no SCTP";
    until_told(server, &shop, &uid, ("Warning", "AcceptedWithWarnings", at)).await;
    let good = writer.create(&policy(&shop, "good", &json!({"podSelector": {}, "ingress": [{}]}))).await;
    let patch = json!({"spec": {"ingress": [{"ports": [{"protocol": "TCP", "port": 80}]}]}});
    writer.merge(Kind::NetworkPolicy, &shop, "sctp", &patch).await;
    until_told(server, &shop, &uid, ("Normal", "Accepted", "understood")).await;
    let selector = format!("involvedObject.uid={}", good.metadata.uid.unwrap());
    let said = server.kubectl(&["get", "events", "-n", &shop, "--field-selector", &selector, "-o", "name"], "");
    assert!(said.stdout.is_empty(), "that all is well is no news: {}", String::from_utf8_lossy(&said.stdout));
    mesh.stop().await;
}
