//! What stands on a policy's status: written once, by one replica, and true.

use std::time::Duration;

use kube::core::DynamicObject;
use millrace_control::diagnostic::Kind;
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    server::{Server, Writer, server},
    world::{access, pod},
};

/// How often the status is asked for: the API server's watch is what is under test, so another is not used to see it.
const LOOK: Duration = Duration::from_millis(100);

/// The condition of this type: its status, reason, message and the generation it is of.
fn condition(object: &DynamicObject, name: &str) -> Option<(String, String, String, i64)> {
    let list = object.data.pointer("/status/conditions")?.as_array()?;
    let one = list.iter().find(|one| one["type"] == name)?;
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message"), one["observedGeneration"].as_i64()?))
}

async fn until(writer: &Writer, place: (&str, &str), name: &str, wanted: (&str, &str, i64)) -> DynamicObject {
    let mut last = None;
    let began = millrace_control::clock::now();
    while began.elapsed() < PATIENCE {
        let object = writer.get(Kind::AccessPolicy, place.0, place.1).await;
        last = condition(&object, name);
        if last.as_ref().is_some_and(|(holds, reason, _, at)| (&**holds, &**reason, *at) == wanted) {
            return object;
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{name} is not {wanted:?} but {last:?}")
}

async fn a_shop(server: &Server) -> (String, Writer) {
    let shop = server.namespace("status");
    let writer = Writer { client: server.client().await };
    for (name, node, address) in [("web-1", "a", "10.3.0.1"), ("web-2", "b", "10.3.0.2")] {
        // A node of this test alone: what another test's replicas said last is remembered for a while.
        writer.create(&pod(&shop, name, "web", (&format!("{shop}-{node}"), address))).await;
    }
    (shop, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policys_status_follows_it_to_every_node_and_is_written_no_more_than_it_changes() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let (on_a, on_b) = (format!("{shop}-a"), format!("{shop}-b"));
    let (a, b) = (Node::named(&mesh, &on_a).await, Node::named(&mesh, &on_b).await);
    let a = a.follow(&mesh).await;
    writer.create(&access(&shop, "guard", "web", "Allow")).await;
    let place = (&*shop, "guard");
    until(&writer, place, "Accepted", ("True", "Accepted", 1)).await;
    let object = until(&writer, place, "Enforced", ("False", "NodesAway", 1)).await;
    assert_eq!(condition(&object, "Enforced").unwrap().2, format!("on 1 of 2 nodes; not connected: {on_b}"));
    let b = b.follow(&mesh).await;
    until(&writer, place, "Enforced", ("True", "Enforced", 1)).await;

    // Another controller's condition stays, and is no reason to write.
    let audited = json!([{"op": "add", "path": "/status/conditions/-", "value": {"type": "example.org/Audited",
        "status": "True", "reason": "Seen", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}}]);
    let args = ["patch", "accesspolicy", "guard", "-n", &shop, "--subresource=status", "--type=json", "-p"];
    let said = server.kubectl(&[&args[..], &[&*audited.to_string()]].concat(), "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let quiet = writer.get(Kind::AccessPolicy, &shop, "guard").await;
    tokio::time::sleep(QUIET).await;
    let still = writer.get(Kind::AccessPolicy, &shop, "guard").await;
    assert_eq!(quiet.metadata.resource_version, still.metadata.resource_version, "it was written without a change");

    let spec = json!({"spec": {"rules": [{"to": [{"ports": [9090]}]}]}});
    writer.merge(Kind::AccessPolicy, &shop, "guard", &spec).await;
    let object = until(&writer, place, "Enforced", ("True", "Enforced", 2)).await;
    assert!(condition(&object, "Accepted").is_some_and(|(.., generation)| generation == 2));
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array).unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "example.org/Audited"), "{conditions:?}");
    a.abort();
    b.abort();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_followed_by_the_other_replica_which_knows_the_firsts_nodes() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let first = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let (name_a, name_b) = (format!("{shop}-a"), format!("{shop}-b"));
    let a = Node::named(&first, &name_a).await.follow(&first).await;
    writer.create(&access(&shop, "guard", "web", "Allow")).await;
    let place = (&*shop, "guard");
    until(&writer, place, "Enforced", ("False", "NodesAway", 1)).await;
    // Each node is another replica's: only together do they know.
    let second = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let b = Node::named(&second, &name_b).await;
    let on_b = b.follow(&second).await;
    until(&writer, place, "Enforced", ("True", "Enforced", 1)).await;
    first.kill().await;
    a.abort();
    let a = Node::named(&second, &name_a).await.follow(&second).await;
    let spec = json!({"spec": {"rules": [{"to": [{"ports": [9090]}]}]}});
    writer.merge(Kind::AccessPolicy, &shop, "guard", &spec).await;
    let began = millrace_control::clock::now();
    until(&writer, place, "Enforced", ("True", "Enforced", 2)).await;
    println!("statuses go on {:?} after the leader was killed", began.elapsed());
    a.abort();
    on_b.abort();
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_policy_says_so_on_its_status_and_in_an_event() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let mut wrong = access(&shop, "guard", "web", "Allow");
    wrong["spec"]["rules"] = json!([{"from": [{"ipBlocks": ["10.0.0.0/99"]}]}]);
    writer.create(&wrong).await;
    let place = (&*shop, "guard");
    let object = until(&writer, place, "Accepted", ("False", "Invalid", 1)).await;
    let (_, _, message, _) = condition(&object, "Accepted").unwrap();
    assert!(message.starts_with("spec.rules[0].from[0].ipBlocks[0]: "), "{message}");
    let events = server.kubectl(&["get", "events", "-n", &shop, "-o", "json"], "");
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("spec.rules[0].from[0].ipBlocks[0]") && events.contains("Warning"), "{events}");
    mesh.stop().await;
}

/// By the service account and the rights of `deploy/control/rbac.yaml`, not the administrator's.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_manifests_grant_are_enough_to_read_write_status_and_keep_the_root() {
    let server = server();
    server.apply(include_str!("../../../../deploy/control/rbac.yaml"));
    let (shop, writer) = a_shop(server).await;
    let said = server.kubectl(&["create", "token", "millrace-control", "-n", "millrace-system"], "");
    let token = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = server.kubeconfig_of(&token, folder.path());
    let mesh = Mesh::over(kubernetes(kubeconfig, &[&shop, "millrace-system"])).await;
    let mut wrong = access(&shop, "guard", "web", "Allow");
    wrong["spec"]["rules"] = json!([{"from": [{"ipBlocks": ["10.0.0.0/99"]}]}]);
    writer.create(&wrong).await;
    until(&writer, (&*shop, "guard"), "Accepted", ("False", "Invalid", 1)).await;
    // A route's status too.
    writer.create(&crate::routes::route("HTTPRoute", &shop, "r", &["nobody"])).await;
    crate::routes::until(&writer, Kind::HttpRoute, (&shop, "r"), "an entry", |all| all.len() == 1).await;
    let events = server.kubectl(&["get", "events", "-n", &shop, "-o", "json"], "");
    assert!(String::from_utf8_lossy(&events.stdout).contains("ipBlocks"), "no event was written");
    let roots = server.kubectl(&["get", "configmap", "millrace-roots", "-n", "millrace-system"], "");
    assert!(roots.status.success(), "{}", String::from_utf8_lossy(&roots.stderr));
    let roots = mesh.control.issuer.clone();
    let revoked = move || roots.roots.revoke("nobody-s-node", millrace_control::clock::unix_time());
    tokio::task::spawn_blocking(revoked).await.unwrap().expect("what is in force may be replaced");
    let began = millrace_control::clock::now();
    for name in ["roots and revoked nodes", "the root that is given", "what nodes believe"] {
        let listed = async || {
            let said = mesh.ask("/status").await;
            let status: Value = serde_json::from_str(said.rsplit_once("\r\n\r\n").unwrap().1).unwrap();
            status["watches"][name].clone()
        };
        while listed().await["listed"] != json!(true) {
            assert!(began.elapsed() < PATIENCE, "a watch of {name} is allowed: {:?}", listed().await);
            tokio::time::sleep(LOOK).await;
        }
    }
    mesh.stop().await;
}
