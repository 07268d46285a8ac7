//! Answers people and probes: HTTP/1.1 on a Unix socket that only this user can open. No secret is ever in an answer, save a new
//! token in the one that made it.

mod roots;

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

use crate::{
    clock,
    config::Config,
    diagnostic::{Diagnostic, Effect},
    issue::{Issuer, token},
    metrics::Metrics,
    nodes::Nodes,
    publish::History,
    source::kubernetes::Health,
    telemetry::LogLevel,
};

/// Requests here are a line long.
const MAX_BODY: usize = 64 * 1024;
/// People and probes.
const MAX_CONNECTIONS: usize = 64;
/// Who connects knows what to ask.
const HEADERS: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// Only this user.
const SOCKET_MODE: u32 = 0o600;

const NO_LOG: &str = "this process does not log\n";

/// What is answered from.
#[derive(Debug)]
pub struct Admin {
    /// The settings.
    pub config: Config,
    /// Who makes tokens.
    pub issuer: Arc<Issuer>,
    /// What is published.
    pub history: watch::Receiver<Arc<History>>,
    /// What is wrong with the objects.
    pub diagnostics: watch::Receiver<Arc<Vec<Diagnostic>>>,
    /// What the nodes say.
    pub nodes: Arc<Nodes>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is logged; None in a process that does not log.
    pub log: Option<LogLevel>,
    /// How the watches of the API server are; empty where there are none.
    pub health: Arc<Health>,
}

/// Binds the socket: nobody else can open it at any moment, and a live one is not taken over.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut new = PathBuf::from(path).into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes the socket's own mode, less the umask: nobody else gets in between bind and chmod.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&new)?)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(SOCKET_MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    fs::rename(&new, path)?;
    UnixListener::from_std(socket.into())
}

impl Admin {
    /// Answers until the process ends.
    pub async fn serve(self, listener: UnixListener) -> io::Result<Infallible> {
        let this = Arc::new(self);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            let this = this.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let this = this.clone();
                    async move { Ok::<_, Infallible>(this.answer(request).await) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "an admin connection broke");
                }
                drop(permit);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or broke off\n");
        };
        let body = body.to_bytes();
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/readyz") => self.ready(),
            (&Method::GET, "/metrics") => {
                let mut response = text(StatusCode::OK, self.metrics.text());
                let kind =
                    header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            (&Method::GET, "/config") => self.config(),
            (&Method::GET, "/status") => self.status(),
            (&Method::GET, "/diagnostics") => json(StatusCode::OK, &self.told()),
            (&Method::POST, "/tokens") => self.token(&body),
            (&Method::GET, "/root") => self.root(),
            (&Method::POST, "/root") => self.change_root(&body),
            (&Method::GET, "/revoked") => self.revoked(),
            (&Method::POST, "/revoked") => self.revoke(&body).await,
            (&Method::GET, "/log-level") => match &self.log {
                Some(log) => text(StatusCode::OK, log.get() + "\n"),
                None => text(StatusCode::NOT_FOUND, NO_LOG),
            },
            (&Method::PUT, "/log-level") => self.log_level(&body),
            (
                _,
                "/healthz" | "/readyz" | "/metrics" | "/config" | "/status" | "/diagnostics" | "/tokens" | "/root"
                | "/revoked" | "/log-level",
            ) => text(StatusCode::METHOD_NOT_ALLOWED, "another method is needed here\n"),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let mut reasons = Vec::new();
        if self.history.borrow().now().is_none() {
            reasons.push("nothing is published yet".to_owned());
            reasons.extend(self.health.missing());
        }
        if self.history.has_changed().is_err() {
            reasons.push("the publisher has ended: no change is published any more".to_owned());
        }
        match reasons.as_slice() {
            [] => text(StatusCode::OK, "ready\n"),
            reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
        }
    }

    fn config(&self) -> Response<Full<Bytes>> {
        let edition = self.history.borrow().now().cloned();
        let snapshot = edition.map(|edition| edition.snapshot.clone()).unwrap_or_default();
        json(StatusCode::OK, &json!({ "config": self.config, "snapshot": *snapshot }))
    }

    fn status(&self) -> Response<Full<Bytes>> {
        let edition = self.history.borrow().now().cloned();
        let generation = edition.as_ref().map_or(0, |edition| edition.generation());
        let nodes: serde_json::Map<String, Value> = self
            .nodes
            .all()
            .into_iter()
            .map(|(name, node)| {
                let connected = node.streams > 0;
                let mut value = serde_json::to_value(node).unwrap_or_default();
                if let Value::Object(fields) = &mut value {
                    fields.insert("connected".to_owned(), connected.into());
                }
                (name.to_string(), value)
            })
            .collect();
        let snapshot = edition.map(|edition| edition.snapshot.clone()).unwrap_or_default();
        let count = json!({
            "workloads": snapshot.workloads.len(),
            "services": snapshot.services.len(),
            "endpoints": snapshot.endpoints.len(),
            "policies": snapshot.policies.len(),
        });
        json(
            StatusCode::OK,
            &json!({
                "generation": generation,
                "trust_domain": snapshot.trust_domain,
                "objects": count,
                "nodes": nodes,
                "watches": self.health.all(),
                "diagnostics": self.told(),
            }),
        )
    }

    /// Faults first: what only warns comes last.
    fn told(&self) -> Value {
        let diagnostics = self.diagnostics.borrow().clone();
        let (applied, faults): (Vec<_>, Vec<_>) = diagnostics.iter().partition(|d| d.effect == Effect::Applied);
        let told = faults.into_iter().chain(applied).map(|diagnostic| {
            let mut value = serde_json::to_value(diagnostic).unwrap_or_default();
            if let Value::Object(fields) = &mut value {
                fields.insert("message".to_owned(), diagnostic.to_string().into());
            }
            value
        });
        told.collect()
    }

    fn token(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let wanted: Wanted = match serde_json::from_slice(body) {
            Ok(wanted) => wanted,
            Err(error) => {
                return text(StatusCode::BAD_REQUEST, format!("the body is not {{\"node\": \"name\"}}: {error}\n"));
            }
        };
        let lifetime = wanted.seconds.map_or(token::MAX_LIFETIME, Duration::from_secs);
        let root = self.issuer.roots.authority().root_sha256();
        match self.issuer.tokens.make(&wanted.node, root, lifetime, clock::unix_time()) {
            Ok(token) => {
                tracing::info!(node = wanted.node, seconds = lifetime.as_secs(), "made a join token");
                json(StatusCode::OK, &json!({ "token": token }))
            }
            Err(error @ (token::NotMade::Node(_) | token::NotMade::Lifetime)) => {
                text(StatusCode::BAD_REQUEST, format!("{error}\n"))
            }
            Err(error @ token::NotMade::TooMany) => text(StatusCode::TOO_MANY_REQUESTS, format!("{error}\n")),
            Err(error @ (token::NotMade::Random | token::NotMade::Kept(_))) => {
                tracing::warn!(%error, "could not make a token");
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
            }
        }
    }

    fn log_level(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let filter = String::from_utf8_lossy(body);
        match self.log.as_ref().map(|log| log.set(filter.trim())) {
            Some(Ok(())) => text(StatusCode::OK, "set\n"),
            Some(Err(error)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            None => text(StatusCode::NOT_FOUND, NO_LOG),
        }
    }
}

/// The body of `POST /tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    node: String,
    seconds: Option<u64>,
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body.into())
}

fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", format!("{body:#}\n").into())
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
