//! Calls another service of the shop: a new connection per call, so that every call is balanced and authorized anew.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{Call, Hop, PORT};

/// A shop that answers later than this has lost its customer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What says which trace a request is part of. Whoever calls on behalf of it passes it on.
pub(super) const TRACEPARENT: &str = "traceparent";

/// The trace of the request that is answered, where it has one.
pub(super) type Trace = Option<HeaderValue>;

/// Calls `service/path` at the shop's port.
pub(super) async fn call(to: &'static str, trace: &Trace) -> Call {
    let result = match timeout(PATIENCE, get(to, trace)).await {
        Ok(Ok(hop)) => Ok(hop),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
    };
    Call { to: to.to_owned(), result }
}

async fn get(to: &'static str, trace: &Trace) -> Result<Hop> {
    let (host, path) = to.split_once('/').context("not service/path")?;
    let stream = TcpStream::connect((host, PORT)).await.with_context(|| format!("connect {host}:{PORT}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("/{path}")).header("host", host).header("connection", "close");
    let mut request = request.body(Empty::<Bytes>::new())?;
    if let Some(trace) = trace {
        request.headers_mut().insert(TRACEPARENT, trace.clone());
    }
    let driving = tokio::spawn(connection);
    let response = sender.send_request(request).await.with_context(|| format!("ask {host}"))?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driving.abort();
    ensure!(status.is_success() || status == 502, "{host} answered {status}");
    serde_json::from_slice(&body).with_context(|| format!("{host} answered no hop"))
}

/// Calls all of them, one after the other: the path is easier to read than a fan-out.
pub(super) async fn all(targets: Arc<[&'static str]>, trace: &Trace) -> Vec<Call> {
    let mut calls = Vec::with_capacity(targets.len());
    for to in targets.iter() {
        calls.push(call(to, trace).await);
    }
    calls
}
