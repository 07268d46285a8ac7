//! Asks a process over its admin socket. Every answer is bounded in time and size, save a stream that is followed.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};

use crate::{Failure, config::Process};

/// How long a process on this host may take to begin its answer, and to end one that is not a stream.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer read: a whole snapshot of a large mesh as JSON.
const MAX_ANSWER: usize = 256 << 20;

/// The way to one process's admin socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    process: Process,
    path: PathBuf,
}

/// A status and what was said with it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(process: Process, run_dir: &Path) -> Self {
        Self { process, path: run_dir.join(format!("{}-admin.sock", process.name())) }
    }

    /// The JSON at `path`.
    pub(crate) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let body = self.ask(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|source| Failure::Unreadable {
            process: self.process,
            path: path.to_owned(),
            source,
        })
    }

    /// What is answered, where it is not an error.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let Answer { status, body } = self.answer(method, path, body).await?;
        if status.is_success() { Ok(body) } else { Err(self.declined(status, &body)) }
    }

    /// What is answered, whatever it is.
    pub(crate) async fn answer(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        let (status, incoming) = self.begin(method, path, body).await?;
        let read = timeout(TIMEOUT, Limited::new(incoming, MAX_ANSWER).collect()).await;
        match read.map_err(|_late| self.unreachable(io::ErrorKind::TimedOut.into()))? {
            Ok(body) => Ok(Answer { status, body: body.to_bytes() }),
            Err(why) => Err(self.unreachable(io::Error::other(why))),
        }
    }

    /// A stream of pieces at `path`, that ends when the process ends it.
    pub(crate) async fn follow(&self, path: &str) -> Result<Incoming, Failure> {
        let (status, incoming) = self.begin(Method::GET, path, Bytes::new()).await?;
        if status.is_success() {
            return Ok(incoming);
        }
        let text = Limited::new(incoming, MAX_ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(self.declined(status, &text))
    }

    /// Its pieces stopped coming for this reason.
    pub(crate) fn broken(&self, why: hyper::Error) -> Failure {
        self.unreachable(io::Error::other(why))
    }

    async fn begin(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Incoming), Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::new(body))
            .map_err(|why| Failure::Usage(why.to_string()))?;
        let exchange = async {
            let stream = UnixStream::connect(&self.path).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            // It ends with the answer's body, or with this command.
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(io::Error::other)
        };
        match timeout(TIMEOUT, exchange).await {
            Ok(Ok(response)) => Ok((response.status(), response.into_body())),
            Ok(Err(why)) => Err(self.unreachable(why)),
            Err(_) => Err(self.unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    fn unreachable(&self, source: io::Error) -> Failure {
        Failure::Unreachable { process: self.process, path: self.path.clone(), source }
    }

    fn declined(&self, status: StatusCode, body: &[u8]) -> Failure {
        let text = String::from_utf8_lossy(body).trim().to_owned();
        Failure::Declined { process: self.process, status: status.as_u16(), text }
    }
}
