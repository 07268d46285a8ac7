//! Asks a running admin endpoint, well and badly.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::StatusCode;
use millrace_model::{ObjectName, Service, Snapshot, Traffic};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{Admin, Request, Route, configuration, stream as streamed, text};
use crate::{handover::Peer, telemetry};

struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    ready: watch::Sender<Vec<String>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Longer than several pieces of an answer.
fn world() -> Snapshot {
    let service = |index: usize| {
        let name = ObjectName::new("shop", &format!("s{index}"));
        let (ports, traffic) = (vec![], Traffic::default());
        (name.clone(), Arc::new(Service { name, addresses: vec![], ports, traffic }))
    };
    Snapshot { services: (0..2_000).map(service).collect(), ..Snapshot::default() }
}

async fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let (ready, receiver) = watch::channel(vec!["no snapshot yet".to_owned()]);
    let mut metrics = Registry::default();
    let connections: Counter = Counter::default();
    metrics.register("connections", "Connections", connections.clone());
    connections.inc();
    let who = Route {
        method: "POST",
        path: "/who",
        answer: Arc::new(|request: Request| {
            let uid = request.extensions().get::<Peer>().map(|peer| peer.uid);
            async move { text(StatusCode::OK, format!("{uid:?} {}", request.body().len())) }.boxed()
        }),
    };
    let flows = Route {
        method: "GET",
        path: "/flows",
        answer: Arc::new(|_| {
            let lines = stream::iter(["{\"n\":1}\n", "{\"n\":2}\n"].map(|line| Bytes::from_static(line.as_bytes())));
            async move { streamed("application/x-ndjson", lines) }.boxed()
        }),
    };
    let slow = Route {
        method: "GET",
        path: "/slow",
        answer: Arc::new(|_| {
            let lines = stream::iter(["one\n", "two\n"]).then(async |line| {
                tokio::time::sleep(Duration::from_secs(6)).await;
                Bytes::from_static(line.as_bytes())
            });
            async move { streamed("text/plain", lines) }.boxed()
        }),
    };
    let admin = Admin {
        ready: receiver,
        metrics: Arc::new(Mutex::new(metrics)),
        config: Arc::new(|to| configuration(json!({"node": "a"}), &world(), to)),
        log_level: telemetry::init("test"),
        routes: vec![who, flows, slow],
    };
    let at = path.clone();
    let task = tokio::spawn(async move { admin.serve(&at, 0o600).await });
    while UnixStream::connect(&path).await.is_err() {
        tokio::task::yield_now().await;
    }
    Running { _dir: dir, path, ready, task }
}

/// The status line's code and the body of one exchange.
async fn ask(running: &Running, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

async fn get(running: &Running, path: &str) -> (u16, String) {
    ask(running, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn every_process_says_how_it_is() {
    let running = running().await;
    assert_eq!(get(&running, "/healthz").await.0, 200);
    assert_eq!(get(&running, "/readyz").await, (503, "no snapshot yet\n".into()));
    running.ready.send(vec![]).unwrap();
    assert_eq!(get(&running, "/readyz").await.0, 200);
    let (status, metrics) = get(&running, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("connections_total 1"), "{metrics}");
    assert!(get(&running, "/config").await.1.contains("\"node\": \"a\""));
    let (status, body) = get(&running, "/nothing").await;
    assert_eq!(status, 404);
    assert!(body.contains("/flows") && body.contains("/metrics"), "{body}");
}

/// A chunked body, put together.
fn joined(chunked: &str) -> String {
    let (mut rest, mut whole) = (chunked, String::new());
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        let (piece, behind) = after.split_at(length);
        whole.push_str(piece);
        rest = behind.trim_start();
    }
    whole
}

#[tokio::test]
async fn a_configuration_of_many_pieces_comes_whole() {
    let running = running().await;
    let (status, body) = get(&running, "/config").await;
    let shown: serde_json::Value = serde_json::from_str(&joined(&body)).unwrap();
    assert_eq!((status, &shown["node"]), (200, &json!("a")));
    let snapshot: Snapshot = serde_json::from_value(shown["snapshot"].clone()).unwrap();
    assert_eq!(snapshot, world());
}

/// Who asks and goes away leaves no writer behind: the admin's runtime could not end beside one that waits.
#[tokio::test]
async fn a_configuration_that_nobody_reads_is_given_up() {
    let held = Arc::new(());
    let writes = held.clone();
    let response = super::written::json(move |to| {
        let _writes = writes;
        loop {
            to.write_all(&[b' '; 1024])?;
        }
    });
    drop(response);
    let ended = async {
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), ended).await.expect("the writer ends");
}

#[tokio::test]
async fn a_process_has_routes_of_its_own() {
    let running = running().await;
    let (_, who) =
        ask(&running, "POST /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(who, format!("Some({}) 3", rustix::process::geteuid().as_raw()));
    let (status, flows) = get(&running, "/flows").await;
    assert_eq!(status, 200);
    assert!(flows.contains("{\"n\":1}\n") && flows.contains("{\"n\":2}\n"), "{flows}");
    assert_eq!(get(&running, "/who").await.0, 405);
}

#[tokio::test]
async fn a_bad_log_filter_changes_nothing() {
    let running = running().await;
    let put = |body: &str| {
        format!(
            "PUT /log-level HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(ask(&running, &put("a=b=c=d")).await.0, 400);
    assert_eq!(ask(&running, &put("")).await.0, 400);
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused() {
    let running = running().await;
    let head = "PUT /log-level HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    assert_eq!(ask(&running, &format!("{head}content-length: 70000\r\n\r\n{}", "x".repeat(70_000))).await.0, 413);
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut_off() {
    let running = running().await;
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect("it is closed in time").unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

/// Who follows flows of a quiet node is not idle, though nothing is sent for longer than an idle connection may last.
#[tokio::test]
async fn a_stream_outlives_the_idle_timeout() {
    let running = running().await;
    let (_, body) = get(&running, "/slow").await;
    assert!(body.contains("one\n") && body.contains("two\n"), "{body}");
}

/// Connections that say nothing use up the places; they are cut off, and who comes after is served.
#[tokio::test]
async fn idle_connections_keep_nobody_out_for_long() {
    let running = running().await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(UnixStream::connect(&running.path).await.unwrap());
    }
    assert_eq!(get(&running, "/healthz").await.0, 200);
    drop(idle);
}
