//! What stands on an XBackendTrafficPolicy's status: by Service that it names, true, and never over another controller's entry.

use millrace_control::{diagnostic::Kind, status::parents::CONTROLLER};
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    server::{Writer, server},
    world::{pod, service},
};

fn policy(namespace: &str, name: &str, services: &[&str]) -> Value {
    let targets: Vec<Value> =
        services.iter().map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"targetRefs": targets, "retryConstraint": {"budget": {"percent": 5}}}})
}

/// Status and reason of a condition in the entry of a service.
fn condition(all: &[Value], service: &str, name: &str) -> Option<(String, String)> {
    let entry = all.iter().find(|one| one["ancestorRef"]["name"] == service && one["controllerName"] == CONTROLLER)?;
    let one = entry["conditions"].as_array()?.iter().find(|one| one["type"] == name)?;
    Some((one["status"].as_str()?.to_owned(), one["reason"].as_str()?.to_owned()))
}

async fn until(
    writer: &Writer,
    (namespace, name): (&str, &str),
    what: &str,
    holds: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let began = millrace_control::clock::now();
    loop {
        let object = writer.get(Kind::BackendPolicy, namespace, name).await;
        let all = object.data.pointer("/status/ancestors").and_then(Value::as_array).cloned().unwrap_or_default();
        if holds(&all) {
            return all;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {all:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_policy_says_of_each_service_whether_it_is_in_force_and_where() {
    let server = server();
    let shop = server.namespace("backends");
    let writer = Writer { client: server.client().await };
    let node = format!("{shop}-a");
    writer.create(&pod(&shop, "web-1", "web", (&node, "10.4.0.9"))).await;
    writer.create(&service(&shop, "store", None)).await;
    writer.create(&policy(&shop, "first", &["store", "nobody"])).await;
    // Its second is another's age: of two that were made within one the name decides, and "first" comes before "second".
    writer.create(&policy(&shop, "second", &["store"])).await;
    let gateway = json!({"ancestorRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"},
        "controllerName": "example.org/gateway", "conditions": [{"type": "Accepted", "status": "True",
        "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let patch = json!([{"op": "add", "path": "/status", "value": {"ancestors": [gateway]}}]).to_string();
    let args =
        ["patch", "xbackendtrafficpolicy", "first", "-n", &shop, "--subresource=status", "--type=json", "-p", &patch];
    let said = server.kubectl(&args, "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));

    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let a = Node::named(&mesh, &node).await.follow(&mesh).await;
    let is = |status: &str, reason: &str| Some((status.to_owned(), reason.to_owned()));
    let first = until(&writer, (&shop, "first"), "in force on the node", |all| {
        condition(all, "store", "millrace.dev/Programmed") == is("True", "Programmed")
    })
    .await;
    assert_eq!((first.len(), &first[0]), (3, &gateway), "another controller's entry is as it was");
    assert_eq!(condition(&first, "store", "Accepted"), is("True", "Accepted"));
    assert_eq!(condition(&first, "nobody", "Accepted"), is("False", "TargetNotFound"));
    until(&writer, (&shop, "second"), "the younger is told", |all| {
        condition(all, "store", "Accepted") == is("False", "Conflicted")
    })
    .await;

    let quiet = writer.get(Kind::BackendPolicy, &shop, "first").await.metadata.resource_version;
    tokio::time::sleep(QUIET).await;
    let still = writer.get(Kind::BackendPolicy, &shop, "first").await.metadata.resource_version;
    assert_eq!(quiet, still, "it was written without a change");

    // It names one service less, and the entry goes with it.
    let targets = json!({"spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "nobody"}]}});
    writer.merge(Kind::BackendPolicy, &shop, "first", &targets).await;
    until(&writer, (&shop, "first"), "one entry of ours", |all| all.len() == 2).await;
    until(&writer, (&shop, "second"), "the other's turn", |all| {
        condition(all, "store", "millrace.dev/Programmed") == is("True", "Programmed")
    })
    .await;
    a.abort();
    mesh.stop().await;
}
