//! Answers every request with what it saw of it, in HTTP/1.1 and HTTP/2 by prior knowledge.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Sleep,
};

use super::{POD, Seen, trouble::Trouble};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The most that a request may ask to wait, in milliseconds.
const MAX_WAIT_MS: u64 = 60_000;

/// Sent at once of a body of any size.
const PIECE: &[u8] = &[b'x'; 64 * 1024];

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI ";

/// Tells what happened.
pub type Tell = fn(&str);

/// Paths that are counted: a test asks for a few.
const MAX_COUNTED: usize = 1_000;

/// Requests that were taken whole, and the bytes of their bodies, by path.
type Counted = BTreeMap<String, (u32, u64)>;

type Counts = Arc<Mutex<Counted>>;

/// Who answers, whom it tells, and what it has taken.
type By = (Arc<str>, Tell, Counts);

/// Serves until killed. `/wait/<ms>` answers so much later, `/bytes/<n>` with so many bytes, `/trailers` with trailers, `/status/<code>`
/// with that status before it has read the body, `/upgrade` changes to an echo. `/unread/<ms>` reads the body so much later,
/// `/drip/<ms>` ends its answer so much after its first letter; `/counts/<path>` says how many requests for that path came whole, and
/// how many bytes their bodies had in all. `/trouble/<n>/<status, reset or silence>/...` is that for the first `n` requests of its path.
pub async fn serve(listen: SocketAddr, pod: String, tell: Tell) -> Result<()> {
    let listener = listen_at(listen)?;
    tell("listening");
    let pod: Arc<str> = pod.into();
    let counts = Counts::default();
    loop {
        let (stream, client) = listener.accept().await?;
        // A client that breaks its connection has nothing to be told.
        tokio::spawn(attend(stream, client, (pod.clone(), tell, counts.clone())));
    }
}

/// A listener with a long backlog; `[::]` takes IPv4 too.
pub(super) fn listen_at(listen: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&listen.into()).with_context(|| format!("bind {listen}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn attend(stream: TcpStream, client: SocketAddr, by: By) -> Result<()> {
    stream.set_nodelay(true)?;
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let mut first = [0; 4];
    let n = stream.peek(&mut first).await?;
    let answer = service_fn(move |request| respond(by.clone(), client, request));
    let io = TokioIo::new(stream);
    if first.get(..n) == Some(PREFACE) {
        return Ok(http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await?);
    }
    Ok(http1::Builder::new().serve_connection(io, answer).with_upgrades().await?)
}

/// A body made as it is read.
struct Made {
    text: Option<Bytes>,
    /// Comes between the text's first letter and the others.
    wait: Option<Pin<Box<Sleep>>>,
    left: u64,
    trailers: Option<HeaderMap>,
}

impl Made {
    fn text(text: impl Into<Bytes>) -> Self {
        Self { text: Some(text.into()), wait: None, left: 0, trailers: None }
    }
}

impl Body for Made {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let is_first = self.wait.is_some() && self.text.as_ref().is_some_and(|text| text.first() == Some(&b'{'));
        if let Some(text) = self.text.as_mut().filter(|_| is_first) {
            return Poll::Ready(Some(Ok(Frame::data(text.split_to(1)))));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        if let Some(text) = self.text.take().filter(|text| !text.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(text))));
        }
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE.len());
        if n > 0 {
            self.left -= n as u64;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE.get(..n).unwrap_or_default())))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn size_hint(&self) -> SizeHint {
        let text = self.text.as_ref().map_or(0, Bytes::len) as u64;
        if self.trailers.is_some() { SizeHint::default() } else { SizeHint::with_exact(text + self.left) }
    }
}

/// Says when a request is given up before it was answered.
struct Watched(Tell, bool);

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.1 {
            (self.0)("gone");
        }
    }
}

async fn respond(
    (pod, tell, counts): By,
    client: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Made>, std::io::Error> {
    let mut watched = Watched(tell, false);
    let path = request.uri().path().to_owned();
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
    let response = Response::builder().header(POD, &*pod);
    if let Some(status) = number("/status/").and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok()) {
        watched.1 = true;
        return Ok(response.status(status).body(Made::text("early")).unwrap_or_else(|_| unreadable()));
    }
    if path == "/upgrade" {
        watched.1 = true;
        return Ok(upgrade(&mut request));
    }
    if let Some(path) = path.strip_prefix("/counts") {
        watched.1 = true;
        let counted = lock(&counts).get(path).copied().unwrap_or_default();
        return Ok(Response::new(Made::text(serde_json::to_string(&counted).unwrap_or_default())));
    }
    let time = |prefix: &str| number(prefix).map(|ms| Duration::from_millis(ms.min(MAX_WAIT_MS)));
    tokio::time::sleep(time("/unread/").unwrap_or_default()).await;
    let (head, body) = request.into_parts();
    let mut seen = Seen {
        pod: pod.to_string(),
        client,
        version: format!("{:?}", head.version),
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: listed(&head.headers),
        n_body: 0,
        trailers: BTreeMap::new(),
    };
    let mut body = pin!(body);
    let is_whole = loop {
        match body.frame().await.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(bytes))) => seen.n_body += bytes.len() as u64,
            Some(Ok(Err(frame))) => seen.trailers = frame.trailers_ref().map(listed).unwrap_or_default(),
            Some(Err(_broken)) => break false,
            None => break true,
        }
    };
    if is_whole {
        let n_before = count(&counts, &path, seen.n_body);
        if let Some((_, trouble)) = Trouble::of(&path).filter(|(n, _)| n_before < *n) {
            watched.1 = true;
            let status = trouble.happen().await?;
            return Ok(response.status(status).body(Made::text("trouble")).unwrap_or_else(|_| unreadable()));
        }
    }
    tokio::time::sleep(time("/wait/").unwrap_or_default()).await;
    watched.1 = true;
    let made = match (number("/bytes/"), &*path) {
        (Some(left), _) => response.body(Made { text: None, wait: None, left, trailers: None }),
        (None, "/trailers") => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            let text = Some(Bytes::from_static(b"with trailers"));
            response.header(header::TRAILER, "x-sum").body(Made { text, wait: None, left: 0, trailers: Some(trailers) })
        }
        (None, _) => {
            let wait = time("/drip/").map(|time| Box::pin(tokio::time::sleep(time)));
            let text = serde_json::to_string(&seen).unwrap_or_default();
            response.body(Made { wait, ..Made::text(text) })
        }
    };
    Ok(made.unwrap_or_else(|_| unreadable()))
}

fn unreadable() -> Response<Made> {
    Response::new(Made::text(""))
}

/// From here on every byte comes back.
fn upgrade(request: &mut Request<Incoming>) -> Response<Made> {
    let mut response = unreadable();
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await?));
        tokio::io::copy(&mut from, &mut to).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut to).await?;
        Ok::<_, anyhow::Error>(())
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Takes note of a request that came whole, and says how many of its path came before.
fn count(counts: &Counts, path: &str, n_body: u64) -> u32 {
    let mut counts = lock(counts);
    if !counts.contains_key(path) && counts.len() >= MAX_COUNTED {
        return u32::MAX;
    }
    let counted = counts.entry(path.to_owned()).or_default();
    let (n_before, n_bytes) = *counted;
    *counted = (n_before + 1, n_bytes + n_body);
    n_before
}

fn lock(counts: &Counts) -> MutexGuard<'_, Counted> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Headers by name; several of one joined by commas.
fn listed(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined = all.entry(name.to_string()).or_default();
        *joined = if joined.is_empty() { value.into_owned() } else { format!("{joined},{value}") };
    }
    all
}
