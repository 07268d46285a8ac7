//! Answers every request with what it saw of it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{POD, Seen};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The most that a request may ask to wait, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

/// Serves until killed. `/wait/<ms>` answers so much later.
pub async fn serve(listen: SocketAddr, pod: String, told: impl FnOnce()) -> Result<()> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into()).with_context(|| format!("bind {listen}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into())?;
    told();
    let pod: Arc<str> = pod.into();
    loop {
        let (stream, client) = listener.accept().await?;
        // A client that breaks its connection has nothing to be told.
        tokio::spawn(attend(stream, client, pod.clone()));
    }
}

async fn attend(stream: TcpStream, client: SocketAddr, pod: Arc<str>) -> Result<()> {
    stream.set_nodelay(true)?;
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let answer = service_fn(move |request| respond(pod.clone(), client, request));
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await?)
}

async fn respond(
    pod: Arc<str>,
    client: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let n_body = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let wait = head.uri.path().strip_prefix("/wait/").and_then(|ms| ms.parse().ok()).unwrap_or(0u64);
    tokio::time::sleep(Duration::from_millis(wait.min(MAX_WAIT_MS))).await;
    let mut seen = Seen {
        pod: pod.to_string(),
        client,
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: std::collections::BTreeMap::new(),
        n_body,
    };
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = seen.headers.entry(name.to_string()).or_default();
        *all = if all.is_empty() { value.into_owned() } else { format!("{all},{value}") };
    }
    let body = serde_json::to_string(&seen).unwrap_or_default();
    Ok(Response::builder().header(POD, &*pod).body(Full::from(body)).unwrap_or_default())
}
