//! While the API server is away, slow, or has forgotten, nothing is withdrawn; once it is back, all that differs is.

use std::time::Duration;

use millrace_control::diagnostic::Kind;
use millrace_model::ObjectName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use crate::{
    follower::Follower,
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    server::{Server, Writer, server},
    wire::{Line, Wire},
    world::{access, pod, service},
};

async fn a_shop(server: &Server) -> (String, Writer) {
    let shop = server.namespace("outage");
    let writer = Writer { client: server.client().await };
    for (name, address) in [("web-1", "10.2.0.1"), ("web-2", "10.2.0.2")] {
        writer.create(&pod(&shop, name, "web", ("a", address))).await;
    }
    writer.create(&service(&shop, "web", None)).await;
    writer.create(&access(&shop, "guard", "web", "Allow")).await;
    (shop, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_killed_and_back_makes_no_generation() {
    let server = server();
    let (shop, _) = a_shop(server).await;
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    mesh.until("all is read", |snapshot| snapshot.workloads.len() == 2 && snapshot.policies.len() == 1).await;
    tokio::time::sleep(QUIET).await;
    let before = mesh.generation();
    server.kill("kube-apiserver");
    tokio::time::sleep(QUIET).await;
    assert!(mesh.counter("millrace_control_watch_faults").await > 0, "the watches did not notice");
    server.up();
    let writer = Writer { client: server.client().await };
    assert_eq!(mesh.generation(), before, "while it was away, and when it came back");
    writer.create(&pod(&shop, "web-3", "web", ("a", "10.2.0.3"))).await;
    mesh.until("it goes on from there", |snapshot| snapshot.workloads.len() == 3).await;
}

/// Nodes are served by what is known; what the API server lacks is written once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_killed_and_back_cuts_no_subscriber_and_leaves_no_status_behind() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let name = format!("{shop}-a");
    writer.create(&pod(&shop, "steady-1", "steady", (&name, "10.2.0.9"))).await;
    writer.create(&access(&shop, "steady", "steady", "Allow")).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let (_known, addresses) = watch::channel(vec![mesh.control.address]);
    let follower = Follower::start(&name, Node::named(&mesh, &name).await, addresses);
    until_enforced(&writer, &shop, 1).await;
    server.kill("kube-apiserver");
    tokio::time::sleep(QUIET).await;
    server.up();
    let writer = Writer { client: server.client().await };
    let spec = json!({"spec": {"rules": [{"to": [{"ports": [9090]}]}]}});
    writer.merge(Kind::AccessPolicy, &shop, "steady", &spec).await;
    until_enforced(&writer, &shop, 2).await;
    follower.look(|seen| {
        assert_eq!((seen.n_streams, &*seen.flaps), (1, &[] as &[String]), "its one stream went on");
    });
    mesh.stop().await;
}

async fn until_enforced(writer: &Writer, shop: &str, generation: i64) {
    let began = millrace_control::clock::now();
    loop {
        let object = writer.get(Kind::AccessPolicy, shop, "steady").await;
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let is_it = |one: &Value| {
            one["type"] == "Enforced" && one["status"] == "True" && one["observedGeneration"] == generation
        };
        if conditions.iter().flatten().any(is_it) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "generation {generation}: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_the_watch_was_away_goes_in_one_step_once_it_is_back() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let line = Line::to(server.ports().0).await;
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig_by(line.port, folder.path()), &[&shop])).await;
    mesh.until("all is read", |snapshot| snapshot.workloads.len() == 2 && snapshot.policies.len() == 1).await;
    line.set(Wire::Cut);
    writer.delete(Kind::Pod, &shop, "web-1").await;
    writer.delete(Kind::AccessPolicy, &shop, "guard").await;
    writer.create(&pod(&shop, "web-3", "web", ("a", "10.2.0.3"))).await;
    tokio::time::sleep(QUIET).await;
    line.set(Wire::Whole);
    let gone = ObjectName::new(&shop, "web-1");
    let snapshot = mesh
        .until("the watch caught up", |snapshot| {
            snapshot.policies.is_empty() && !snapshot.workloads.contains_key(&gone) && snapshot.workloads.len() == 2
        })
        .await;
    assert_eq!(snapshot.services.len(), 1);
}

/// Nothing passes, and nothing says so: the connection stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_lags_withdraws_nothing_and_catches_up() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let line = Line::to(server.ports().0).await;
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig_by(line.port, folder.path()), &[&shop])).await;
    mesh.until("all is read", |snapshot| snapshot.workloads.len() == 2 && snapshot.policies.len() == 1).await;
    tokio::time::sleep(QUIET).await;
    let before = mesh.generation();
    line.set(Wire::Silent);
    writer.delete(Kind::Pod, &shop, "web-1").await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(mesh.generation(), before);
    line.set(Wire::Whole);
    mesh.until("it caught up", |snapshot| snapshot.workloads.len() == 1).await;
}

/// etcd has forgotten the version that the watches stand at, and the API server has no memory of its own: they must list anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_expired_lists_anew_and_applies_only_what_differs() {
    let server = server();
    let (shop, writer) = a_shop(server).await;
    let line = Line::to(server.ports().0).await;
    let folder = tempfile::tempdir().unwrap();
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig_by(line.port, folder.path()), &[&shop])).await;
    mesh.until("all is read", |snapshot| snapshot.workloads.len() == 2 && snapshot.policies.len() == 1).await;
    tokio::time::sleep(QUIET).await;
    let (lists, before) = (mesh.counter("millrace_control_lists").await, mesh.history.borrow().now().unwrap().clone());
    line.set(Wire::Cut);
    writer.delete(Kind::Pod, &shop, "web-2").await;
    compact(server.ports().1).await;
    server.kill("kube-apiserver");
    server.up();
    line.set(Wire::Whole);
    let after = mesh.until("the deletion is seen", |snapshot| snapshot.workloads.len() == 1).await;
    assert!(mesh.counter("millrace_control_lists").await > lists, "no watch expired");
    let kept = ObjectName::new(&shop, "web-1");
    assert!(
        std::sync::Arc::ptr_eq(&before.snapshot.workloads[&kept], &after.workloads[&kept]),
        "what did not change is another object now"
    );
    assert_eq!(after.policies, before.snapshot.policies);
}

/// Makes etcd forget every version but the last.
async fn compact(port: u16) {
    let now = post(port, "/v3/kv/range", r#"{"key":"AA==","limit":"1"}"#).await;
    let (_, rest) = now.split_once(r#""revision":""#).unwrap();
    let (revision, _) = rest.split_once('"').unwrap();
    let said = post(port, "/v3/kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#)).await;
    assert!(said.contains("200 OK"), "{said}");
}

pub(crate) async fn post(port: u16, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(10), socket.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}
