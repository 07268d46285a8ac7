//! Serves the admin endpoint's connections, each bounded in time and size.

use std::{convert::Infallible, io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::SocketType;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Admin, Request, Response, text};
use crate::{handover::Peer, socket};

/// Connections served at once: probes, a scraper, and some people who follow flows. One more waits for its turn.
const MAX_CONNECTIONS: usize = 32;

/// How long a request's header may take, and a connection be idle: on one host, a second would do.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to pause when accepting fails: out of descriptors is the one cause, and no event tells of its end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The longest body: a filter or a small JSON object.
const MAX_BODY: usize = 64 * 1024;

/// The longest header, in bytes: hyper's least.
const MAX_HEADER: usize = 8 * 1024;

impl Admin {
    /// Listens at `path`, in place of whoever did, and answers until dropped. The socket's file has the permissions `mode`.
    pub async fn serve(self, path: &Path, mode: u32) -> io::Result<()> {
        let listener: std::os::unix::net::UnixListener = socket::listen(path, SocketType::STREAM, mode)?.into();
        let listener = UnixListener::from_std(listener)?;
        let admin = Arc::new(self);
        let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let turn = turns.clone().acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(why) => {
                    tracing::warn!(error = &why as &(dyn std::error::Error + 'static), "no admin connection accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admin = admin.clone();
            connections.spawn(async move {
                serve_one(admin, stream).await;
                drop(turn);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn serve_one(admin: Arc<Admin>, stream: UnixStream) {
    let peer = stream.peer_cred().ok().map(|c| Peer { uid: c.uid(), pid: c.pid().unwrap_or_default() });
    let service = service_fn(move |request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(answer(&admin, request, peer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(why) = served {
        tracing::debug!(error = &why as &(dyn std::error::Error + 'static), "an admin connection broke");
    }
}

async fn answer(admin: &Admin, request: http::Request<Incoming>, peer: Option<Peer>) -> Response {
    let (head, body) = request.into_parts();
    let body = match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(why)) if why.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, format!("a body is at most {MAX_BODY} bytes\n"));
        }
        Ok(Err(why)) => return text(StatusCode::BAD_REQUEST, format!("the body can't be read: {why}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, Bytes::from_static(b"the body took too long\n")),
    };
    let mut request = Request::from_parts(head, body);
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    admin.answer(request).await
}
