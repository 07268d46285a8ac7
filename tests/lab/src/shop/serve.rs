//! Serves one role of the shop over HTTP/1.1.

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{Hop, PORT, Shop, call};
use crate::clock;

/// Requests in work at once: a demo's load generator opens 100.
const MAX_CONNECTIONS: usize = 1024;

/// Connections that wait for the next accept.
const BACKLOG: i32 = 1024;

/// Serves until killed.
pub async fn serve(shop: Shop) -> Result<()> {
    let shop = Arc::new(shop);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = listen()?;
    loop {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let (stream, saw) = listener.accept().await?;
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            // A client that breaks its connection has nothing to be told.
            drop(attend(stream, saw, shop).await);
            drop(permit);
        });
    }
}

/// Dual-stack, as most servers are.
fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn attend(stream: TcpStream, saw: SocketAddr, shop: Arc<Shop>) -> Result<()> {
    stream.set_nodelay(true)?;
    let saw = SocketAddr::new(saw.ip().to_canonical(), saw.port());
    let answer = service_fn(move |request| respond(Arc::clone(&shop), saw, request));
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await?)
}

async fn respond(
    shop: Arc<Shop>,
    saw: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let start = clock::now();
    let path = request.uri().path().to_owned();
    let trace: call::Trace = request.headers().get(call::TRACEPARENT).cloned();
    let calls = call::all(shop.calls(&path).into(), &trace).await;
    let status = if calls.iter().all(|call| call.result.is_ok()) { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let hop = Hop {
        service: shop.role,
        version: shop.version.clone(),
        pod: shop.pod.clone(),
        node: shop.node.clone(),
        saw,
        traceparent: trace.and_then(|trace| Some(trace.to_str().ok()?.to_owned())),
        took_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        content: shop.content(&path),
        calls,
    };
    let body = serde_json::to_string_pretty(&hop).unwrap_or_default();
    let mut response = Response::new(Full::from(body + "\n"));
    *response.status_mut() = status;
    Ok(response)
}
