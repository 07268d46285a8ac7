//! Asks the admin socket what people and probes ask.

use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use millrace_control::clock;
use millrace_model::{ObjectName, Snapshot};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::client::{Mesh, PATIENCE, SHOP, Subscription};

async fn ask(mesh: &Mesh, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let stream = UnixStream::connect(mesh.state.path().join("admin.sock")).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "control")
        .body(Full::new(bytes::Bytes::from(body.to_owned())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(mesh: &Mesh, path: &str) -> Value {
    let (status, body) = ask(mesh, Method::GET, path, "").await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// A control plane that has published.
async fn mesh(files: &[(&str, &str)]) -> Mesh {
    let mesh = Mesh::with(files).await;
    let mut told = mesh.control.history.clone();
    told.wait_for(|history| history.now().is_some()).await.unwrap();
    mesh
}

#[tokio::test]
async fn it_is_live_ready_and_counted() {
    let mesh = mesh(&[("shop.yaml", SHOP)]).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&mesh, Method::GET, path, "").await.0, StatusCode::OK, "{path}");
    }
    let (_, metrics) = ask(&mesh, Method::GET, "/metrics", "").await;
    for name in [
        "millrace_control_generation ",
        "millrace_control_compile_seconds_count 1",
        "millrace_control_diagnostics{effect=\"refused\"} 0",
        "# EOF",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    assert_eq!(ask(&mesh, Method::GET, "/nothing", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask(&mesh, Method::POST, "/status", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_node_is_shown_with_what_it_applied_and_is_away_once_it_went() {
    let mesh = mesh(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let mut stream = Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    let generation = stream.next().await.to;
    stream.applied(generation).await;
    stream.listening(&[(&ObjectName::new("shop", "web"), "a")]).await;
    // The enrolment is answered by an edition: what was said before it was read.
    stream.next().await;
    let status = get(&mesh, "/status").await;
    let node = &status["nodes"]["a"];
    assert_eq!(node["connected"], true, "{status}");
    assert_eq!(node["applied"], generation);
    assert_eq!(node["n_listening"], 1);
    assert_eq!(status["generation"], stream.snapshot.generation);
    assert_eq!(status["objects"]["workloads"], 3);
    drop(stream);
    let begun = clock::now();
    while get(&mesh, "/status").await["nodes"]["a"]["connected"] != false {
        assert!(begun.elapsed() < PATIENCE, "it is shown as away");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_fault_is_shown_where_people_look() {
    let mesh =
        mesh(&[("bad.yaml", "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 0}]}}")]).await;
    let told = get(&mesh, "/diagnostics").await;
    let message = told[0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("bad.yaml document 1 (line 1): Service default/x: spec.ports[0].port: 0 is no port number"),
        "{message}"
    );
    assert_eq!(told[0]["effect"], "Refused");
    assert_eq!(get(&mesh, "/status").await["diagnostics"], told);
    let (_, metrics) = ask(&mesh, Method::GET, "/metrics", "").await;
    assert!(metrics.contains("millrace_control_diagnostics{effect=\"refused\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_token_made_here_lets_its_node_join_and_no_dump_holds_a_secret() {
    let mesh = mesh(&[("shop.yaml", SHOP)]).await;
    let (status, body) = ask(&mesh, Method::POST, "/tokens", "{\"node\": \"a\"}").await;
    assert_eq!(status, StatusCode::OK);
    let token: Value = serde_json::from_str(&body).unwrap();
    let token = token["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("v1.a."), "{token}");
    let key = crate::client::key();
    let request = millrace_wire::control::JoinRequest { token: token.clone(), csr_der: crate::client::csr(&key) };
    mesh.stranger().await.join(request).await.unwrap();

    let dump = get(&mesh, "/config").await.to_string();
    assert!(dump.contains("\"trust_domain\":\"cluster.local\"") && dump.contains("shop/web"), "{dump}");
    let secret = token.rsplit_once('.').unwrap().1;
    let root_key = std::fs::read_to_string(mesh.state.path().join("root.key")).unwrap();
    let line = root_key.lines().nth(1).unwrap();
    for path in ["/config", "/status", "/metrics", "/diagnostics"] {
        let (_, body) = ask(&mesh, Method::GET, path, "").await;
        assert!(
            !body.contains(secret) && !body.contains(line) && !body.contains("PRIVATE KEY"),
            "{path} holds a secret"
        );
    }
}

#[tokio::test]
async fn tokens_for_nobody_or_for_ever_are_not_made() {
    let mesh = mesh(&[]).await;
    for body in [
        "",
        "{}",
        "[]",
        "{\"node\": 5}",
        "{\"node\": \"\"}",
        "{\"node\": \"A\"}",
        "{\"node\": \"a/b\"}",
        "{\"node\": \"a\", \"seconds\": 3601}",
        "{\"node\": \"a\", \"seconds\": 0}",
        "{\"node\": \"a\", \"colour\": 1}",
    ] {
        assert_eq!(ask(&mesh, Method::POST, "/tokens", body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    let huge = format!("{{\"node\": \"{}\"}}", "a".repeat(100_000));
    assert_eq!(ask(&mesh, Method::POST, "/tokens", &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn where_nothing_is_logged_there_is_no_filter() {
    let mesh = mesh(&[]).await;
    for method in [Method::GET, Method::PUT] {
        assert_eq!(ask(&mesh, method, "/log-level", "debug").await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(ask(&mesh, Method::POST, "/log-level", "debug").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn only_this_user_can_open_the_socket_and_a_live_one_is_not_taken() {
    use std::os::unix::fs::PermissionsExt as _;
    let mesh = mesh(&[]).await;
    let path = mesh.state.path().join("admin.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(millrace_control::admin::bind(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    let stale = mesh.state.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    millrace_control::admin::bind(&stale).expect("a dead one is");
}
