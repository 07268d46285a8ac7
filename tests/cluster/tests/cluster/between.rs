//! Stands between a control plane and the API server, notes what is asked and answered, and may ask for shorter watches.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Where to, with its parameters.
    uri: String,
    /// What it takes for an answer.
    pub(crate) accept: String,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl Call {
    /// The path alone.
    pub(crate) fn path(&self) -> &str {
        self.uri.split('?').next().unwrap()
    }

    /// One of its parameters.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.uri.split_once('?')?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }

    /// Whether it is a watch.
    pub(crate) fn is_watch(&self) -> bool {
        self.parameter("watch").is_some()
    }

    /// What was answered so far.
    pub(crate) fn answer(&self) -> String {
        String::from_utf8_lossy(&self.answer.lock().unwrap()).into_owned()
    }

    /// The versions that bookmarks named, of a watch.
    pub(crate) fn bookmarks(&self) -> Vec<String> {
        let answer = self.answer();
        let events = answer.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let bookmarks = events.filter(|event| event["type"] == "BOOKMARK");
        let version = |event: Value| Some(event.pointer("/object/metadata/resourceVersion")?.as_str()?.to_owned());
        bookmarks.filter_map(version).collect()
    }
}

/// Whoever stands between.
pub(crate) struct Between {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    _tasks: JoinSet<()>,
}

impl Between {
    /// Listens, and passes calls on by this client. A watch that asks for so long gets so much.
    pub(crate) async fn of(client: Client, (asked, given): (&'static str, &'static str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let noted = calls.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (client, noted) = (client.clone(), noted.clone());
                let serve = service_fn(move |request: Request<Incoming>| {
                    pass(client.clone(), noted.clone(), request, (asked, given))
                });
                open.spawn(
                    async move { drop(http1::Builder::new().serve_connection(TokioIo::new(socket), serve).await) },
                );
            }
        });
        Self { address, calls, _tasks: tasks }
    }

    /// A kubeconfig by which one comes here, written below `folder`.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "between",
            "clusters": [{"name": "between", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "between", "user": {}}],
            "contexts": [{"name": "between", "context": {"cluster": "between", "user": "between"}}],
        });
        let path = folder.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// The calls so far of lists and watches of this path's end, in order.
    pub(crate) fn calls(&self, end: &str) -> Vec<Call> {
        let all = self.calls.lock().unwrap();
        all.iter().filter(|call| call.path().ends_with(end)).cloned().collect()
    }
}

async fn pass(
    client: Client,
    calls: Arc<Mutex<Vec<Call>>>,
    request: Request<Incoming>,
    (asked, given): (&str, &str),
) -> Result<Response<UnsyncBoxBody<Bytes, kube::Error>>, kube::Error> {
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.to_string();
    let accept = parts.headers.get("accept").and_then(|accept| accept.to_str().ok()).unwrap_or_default().to_owned();
    let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
    calls.lock().unwrap().push(Call { uri: uri.clone(), accept, answer: answer.clone() });
    let (asked, given) = (format!("timeoutSeconds={asked}"), format!("timeoutSeconds={given}"));
    parts.uri = uri.replace(&asked, &given).parse().unwrap();
    parts.headers.remove("host");
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let answered = client.send(Request::from_parts(parts, Body::from(body.to_vec()))).await?;
    let (mut parts, body) = answered.into_parts();
    parts.headers.remove("transfer-encoding");
    let body = body.map_frame(move |frame| {
        if let Some(bytes) = frame.data_ref() {
            answer.lock().unwrap().extend_from_slice(bytes);
        }
        frame
    });
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}
