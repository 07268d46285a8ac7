//! What stands on a route's status: by parent, true, written once, and never over another controller's entry.

use std::time::Duration;

use millrace_control::{diagnostic::Kind, status::parents::CONTROLLER};
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    server::{Server, Writer, server},
    world::{pod, service},
};

/// How often the status is asked for.
const LOOK: Duration = Duration::from_millis(100);

/// A route to services of its namespace.
pub(crate) fn route(kind: &str, namespace: &str, name: &str, parents: &[&str]) -> Value {
    let parents: Vec<Value> =
        parents.iter().map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "store", "port": 80}]}]}})
}

/// The entries of the status.
async fn entries(writer: &Writer, kind: Kind, (namespace, name): (&str, &str)) -> Vec<Value> {
    let object = writer.get(kind, namespace, name).await;
    object.data.pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The condition of this type in an entry: its status, reason and the generation it is of.
fn condition<'e>(entry: &'e Value, name: &str) -> Option<(&'e str, &'e str, i64)> {
    let one = entry["conditions"].as_array()?.iter().find(|one| one["type"] == name)?;
    Some((one["status"].as_str()?, one["reason"].as_str()?, one["observedGeneration"].as_i64()?))
}

fn message<'e>(entry: &'e Value, name: &str) -> &'e str {
    let one = entry["conditions"].as_array().unwrap().iter().find(|one| one["type"] == name);
    one.and_then(|one| one["message"].as_str()).unwrap_or_default()
}

/// Waits until the entries are as wanted.
pub(crate) async fn until(
    writer: &Writer,
    kind: Kind,
    place: (&str, &str),
    what: &str,
    holds: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let began = millrace_control::clock::now();
    loop {
        let now = entries(writer, kind, place).await;
        if holds(&now) {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: {now:#?}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn a_shop(server: &Server) -> (String, Writer) {
    let shop = server.namespace("routes");
    let writer = Writer { client: server.client().await };
    // A node of this test alone: what another test's replicas said last is remembered for a while.
    writer.create(&pod(&shop, "web-1", "web", (&format!("{shop}-a"), "10.4.0.1"))).await;
    writer.create(&service(&shop, "store", None)).await;
    (shop, writer)
}

fn patch_status(server: &Server, shop: &str, name: &str, patch: &Value) {
    let args =
        ["patch", "httproute", name, "-n", shop, "--subresource=status", "--type=json", "-p", &patch.to_string()];
    let said = server.kubectl(&args, "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_status_says_of_each_parent_what_became_of_it_and_leaves_others_entries_alone() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let place = (&*shop, "r");
    writer.create(&route("HTTPRoute", &shop, "r", &["store", "nobody"])).await;
    let gateway = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"},
        "controllerName": "example.org/gateway", "conditions": [{"type": "Accepted", "status": "False",
        "reason": "NoMatchingParent", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    patch_status(server, &shop, "r", &json!([{"op": "add", "path": "/status", "value": {"parents": [gateway]}}]));
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let name_a = format!("{shop}-a");
    let a = Node::named(&mesh, &name_a).await;
    let programmed = "millrace.dev/Programmed";
    let away = until(&writer, Kind::HttpRoute, place, "entries of both parents", |all| {
        all.len() == 3 && condition(&all[1], programmed) == Some(("False", "NodesAway", 1))
    })
    .await;
    assert_eq!(away[0], gateway, "another controller's entry is as it was");
    assert_eq!(message(&away[1], programmed), format!("on 0 of 1 nodes; not connected: {name_a}"));
    assert_eq!(away[1]["parentRef"], json!({"group": "", "kind": "Service", "name": "store"}));
    assert_eq!(away[1]["controllerName"], CONTROLLER);
    assert_eq!(condition(&away[1], "Accepted"), Some(("True", "Accepted", 1)));
    assert_eq!(condition(&away[1], "ResolvedRefs"), Some(("True", "ResolvedRefs", 1)));
    assert_eq!(condition(&away[2], "Accepted"), Some(("False", "NoMatchingParent", 1)));
    assert!(message(&away[2], "Accepted").contains(&format!("there is no Service {shop}/nobody")), "{away:#?}");
    let events = server.kubectl(&["get", "events", "-n", &shop, "-o", "json"], "");
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("NoMatchingParent") && events.contains("HTTPRoute"), "{events}");

    let a = a.follow(&mesh).await;
    let done = |all: &[Value]| condition(&all[1], programmed) == Some(("True", "Programmed", 1));
    until(&writer, Kind::HttpRoute, place, "programmed on the node", done).await;

    // Written no more than it changes, though another writes to the list.
    let audited = json!([{"op": "add", "path": "/status/parents/0/conditions/-", "value": {"type": "example.org/Seen",
        "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}}]);
    patch_status(server, &shop, "r", &audited);
    let quiet = writer.get(Kind::HttpRoute, &shop, "r").await.metadata.resource_version;
    tokio::time::sleep(QUIET).await;
    let still = writer.get(Kind::HttpRoute, &shop, "r").await.metadata.resource_version;
    assert_eq!(quiet, still, "it was written without a change");

    // A reference that leads nowhere, and a parent less.
    let spec = json!({"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "store"}],
        "rules": [{"backendRefs": [{"name": "gone", "port": 80}]}]}});
    writer.merge(Kind::HttpRoute, &shop, "r", &spec).await;
    let lost = until(&writer, Kind::HttpRoute, place, "the second generation", |all| {
        all.len() == 2 && condition(&all[1], "ResolvedRefs") == Some(("False", "BackendNotFound", 2))
    })
    .await;
    assert_eq!(condition(&lost[1], "Accepted"), Some(("True", "Accepted", 2)));
    assert_eq!(lost[0]["conditions"].as_array().unwrap().len(), 2, "another's entry is as it was left: {lost:#?}");

    // It points at the mesh no more.
    let spec = json!({"spec": {"parentRefs": [{"name": "front"}]}});
    writer.merge(Kind::HttpRoute, &shop, "r", &spec).await;
    until(&writer, Kind::HttpRoute, place, "our entries are gone", |all| all.len() == 1).await;
    a.abort();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_can_be_read_in_part_alone_says_what_stays_in_force() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let place = (&*shop, "r");
    writer.create(&route("HTTPRoute", &shop, "r", &["store"])).await;
    let taken = |all: &[Value]| all.first().and_then(|one| condition(one, "Accepted")) == Some(("True", "Accepted", 1));
    until(&writer, Kind::HttpRoute, place, "accepted", taken).await;
    // The API server takes any expression; what it fits is not its business.
    let backends = json!([{"name": "store", "port": 80}]);
    let wrong = json!({"matches": [{"path": {"type": "RegularExpression", "value": "/("}}], "backendRefs": backends});
    let spec = json!({"spec": {"rules": [{"backendRefs": backends}, wrong]}});
    writer.merge(Kind::HttpRoute, &shop, "r", &spec).await;
    let now = until(&writer, Kind::HttpRoute, place, "partly invalid", |all| {
        condition(&all[0], "PartiallyInvalid") == Some(("True", "UnsupportedValue", 2))
    })
    .await;
    assert_eq!(condition(&now[0], "Accepted"), Some(("True", "Accepted", 1)), "of what is in force");
    let said = message(&now[0], "PartiallyInvalid");
    assert!(
        said.starts_with("Fall Back: generation 1") && said.contains("spec.rules[1].matches[0].path.value"),
        "{said}"
    );
    let spec = json!({"spec": {"rules": [{"backendRefs": backends}]}});
    writer.merge(Kind::HttpRoute, &shop, "r", &spec).await;
    until(&writer, Kind::HttpRoute, place, "mended", |all| {
        condition(&all[0], "Accepted") == Some(("True", "Accepted", 3))
            && condition(&all[0], "PartiallyInvalid").is_none()
    })
    .await;
    // gRPC's kind has a status of the same shape.
    writer.create(&route("GRPCRoute", &shop, "g", &["store"])).await;
    let taken =
        |all: &[Value]| all.first().and_then(|one| condition(one, "ResolvedRefs")) == Some(("True", "ResolvedRefs", 1));
    until(&writer, Kind::GrpcRoute, (&shop, "g"), "accepted", taken).await;
    mesh.stop().await;
}
