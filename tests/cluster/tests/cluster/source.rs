//! What is applied to the API server is in the Snapshot, and what is not there any more is not.

use millrace_control::diagnostic::Kind;
use millrace_model::ObjectName;
use serde_json::json;

use crate::{
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    server::{Writer, server},
    world::{access, account, encryption, pod, service, slice},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_applies_is_in_the_snapshot_and_what_is_deleted_leaves_it() {
    let server = server();
    let shop = server.namespace("shop");
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    mesh.until("an empty mesh is published", |snapshot| snapshot.workloads.is_empty()).await;
    let writer = Writer { client: server.client().await };
    writer.create(&account(&shop, "web")).await;
    writer.create(&pod(&shop, "web-1", "web", ("a", "10.1.0.1"))).await;
    writer.create(&service(&shop, "web", None)).await;
    writer.create(&slice(&shop, "web", &[("web-1".into(), "10.1.0.1".into())])).await;
    server.apply(&access(&shop, "guard", "web", "Allow").to_string());
    let name = ObjectName::new(&shop, "web");
    let snapshot = mesh
        .until("the service has its endpoint and the policy its pod", |snapshot| {
            snapshot.endpoints.get(&name).is_some_and(|endpoints| !endpoints.endpoints.is_empty())
                && snapshot.workloads.values().any(|workload| !workload.policies.is_empty())
        })
        .await;
    assert_eq!(snapshot.services[&name].addresses.len(), 1, "the address that the API server gave it");
    writer.delete(Kind::AccessPolicy, &shop, "guard").await;
    writer.delete(Kind::Pod, &shop, "web-1").await;
    mesh.until("both are gone", |snapshot| snapshot.policies.is_empty() && snapshot.workloads.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelets_heartbeats_make_no_generation() {
    let server = server();
    let shop = server.namespace("shop");
    let writer = Writer { client: server.client().await };
    writer.create(&pod(&shop, "web-1", "web", ("a", "10.1.1.1"))).await;
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    mesh.until("the pod is there", |snapshot| snapshot.workloads.len() == 1).await;
    let before = mesh.generation();
    for n in 0..5 {
        writer.merge(Kind::Pod, &shop, "web-1", &json!({"metadata": {"annotations": {"beat": n.to_string()}}})).await;
    }
    tokio::time::sleep(QUIET).await;
    assert_eq!(mesh.generation(), before);
}

/// The API server's definition of the kind is newer, or looser, than this program: the object stands there with a field and
/// a value that this program can't read.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_a_newer_api_is_its_own_fault_and_stops_no_watch() {
    let server = server();
    let shop = server.namespace("shop");
    let newer = "accesspolicies.millrace.dev";
    // What the schema says of the spec is replaced by "anything".
    let anything = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}]);
    let said = server.kubectl(&["patch", "crd", newer, "--type=json", "-p", &anything.to_string()], "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let writer = Writer { client: server.client().await };
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let mut strange = access(&shop, "strange", "web", "Allow");
    strange["spec"]["rules"] = json!({"since": "v9"});
    strange["spec"]["moon"] = json!("full");
    // The API server takes the looser definition a moment after it took the patch.
    for attempt in 0.. {
        if server.kubectl(&["apply", "--server-side", "-f", "-"], &strange.to_string()).status.success() {
            break;
        }
        assert!(attempt < 100, "the looser definition is never served");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    writer.create(&access(&shop, "good", "web", "Allow")).await;
    let good = ObjectName::new(&shop, "good");
    mesh.until("the good one is in force", |snapshot| snapshot.policies.contains_key(&good)).await;
    // Told a moment after the edition.
    let mut told = mesh.control.diagnostics.clone();
    let is_told = told.wait_for(|all| {
        all.iter().map(ToString::to_string).any(|text| text.contains("strange") && text.contains("spec.rules"))
    });
    drop(tokio::time::timeout(PATIENCE, is_told).await.expect("the strange one is told").unwrap());
    writer.delete(Kind::AccessPolicy, &shop, "strange").await;
    writer.delete(Kind::AccessPolicy, &shop, "good").await;
    mesh.until("both are gone", |snapshot| snapshot.policies.is_empty()).await;
    server.define_kinds();
}

/// A cluster that Millrace is being installed in, or that a kind was taken from.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_nobody_defined_has_no_objects_and_holds_nothing_up_until_somebody_does() {
    let server = server();
    let shop = server.namespace("shop");
    let said = server.kubectl(&["delete", "crd", "encryptionpolicies.millrace.dev"], "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let writer = Writer { client: server.client().await };
    writer.create(&pod(&shop, "web-1", "web", ("a", "10.1.2.1"))).await;
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let plain = mesh.until("the pod is there", |snapshot| snapshot.workloads.len() == 1).await;
    server.define_kinds();
    writer.create(&encryption(&shop, "strict", "web", "Strict")).await;
    mesh.until("the policy is in force", |snapshot| snapshot.workloads != plain.workloads).await;
}
