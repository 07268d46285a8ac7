//! Asks for 1 KiB by HTTP/2, in many streams of one connection, again and again; or makes gRPC calls that way.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

use super::{
    Measured, Task,
    window::{Phase, Window},
};
use crate::{
    clock,
    serve::{BODY, message},
};

/// What a gRPC call sends.
const SENT: usize = 64;

/// A service and its method: what a route of gRPC has besides.
const PATH: &str = "/bench.Echo/Get";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// GET.
    Plain,
    /// A unary call.
    Grpc,
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// Every stream asks again as soon as it was answered.
pub(super) fn run(task: Task, n_streams: usize, kind: Kind) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = TcpStream::connect(task.target).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut window = Window::of(task);
        let request = request(task.target, kind)?;
        let mut streams = JoinSet::new();
        for _ in 0..n_streams {
            streams.spawn(asked(send.clone(), request.clone(), kind));
        }
        while let Some(answered) = streams.join_next().await {
            let since = answered?.context("a request")?;
            let now = clock::now();
            if window.phase(now)? == Phase::Over {
                return window.close();
            }
            window.done(since, now);
            streams.spawn(asked(send.clone(), request.clone(), kind));
        }
        window.close()
    })
}

fn request(target: SocketAddr, kind: Kind) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().header("user-agent", "millrace-bench");
    let uri = |path: &str| format!("http://{target}{path}");
    Ok(match kind {
        Kind::Plain => request.uri(uri(PATH)).body(Full::default())?,
        Kind::Grpc => request
            .method(Method::POST)
            .uri(uri(PATH))
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message(&[b'm'; SENT])))?,
    })
}

/// One request, to its last byte; since when it was under way.
async fn asked(mut send: Sender, request: Request<Full<Bytes>>, kind: Kind) -> Result<std::time::Instant> {
    let since = clock::now();
    let response = send.send_request(request).await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    let whole = response.into_body().collect().await?;
    if kind == Kind::Grpc {
        let status = whole.trailers().and_then(|trailers| trailers.get("grpc-status")).context("a gRPC status")?;
        ensure!(status == "0", "gRPC status {status:?}");
    }
    let n = whole.to_bytes().len();
    ensure!(n >= BODY, "an answer of {n} bytes");
    Ok(since)
}
