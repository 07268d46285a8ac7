//! Asks for one URL over and over, each connection kept, and counts who answers.

use std::{
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{Counted, POD};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to ask for, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`.
    pub target: String,
    /// Path and query.
    pub path: String,
    /// Connections at once.
    pub connections: usize,
    /// How many requests.
    pub count: u32,
    /// The file at whose appearance it ends.
    pub until: Option<PathBuf>,
}

type Sender = http1::SendRequest<Empty<Bytes>>;

/// Asks until all is asked.
pub async fn load(options: &Options) -> Result<Counted> {
    let options = Arc::new(options.clone());
    let left = Arc::new(AtomicU32::new(options.count));
    let mut connections = JoinSet::new();
    for _ in 0..options.connections {
        connections.spawn(one(options.clone(), left.clone()));
    }
    let mut all = Counted::default();
    while let Some(counted) = connections.join_next().await {
        all.add(&counted?);
    }
    Ok(all)
}

/// One connection after another, each for as many requests as it takes.
async fn one(options: Arc<Options>, left: Arc<AtomicU32>) -> Counted {
    let mut counted = Counted::default();
    let mut sender: Option<Sender> = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        && !options.until.as_ref().is_some_and(|file| file.exists())
    {
        let asked = async {
            let mut open = match sender.take() {
                Some(open) if !open.is_closed() => open,
                Some(_) | None => {
                    counted.n_connections += 1;
                    connect(&options.target).await?
                }
            };
            open.ready().await?;
            let request = Request::get(&options.path).header("host", &options.target).body(Empty::new())?;
            let response = open.send_request(request).await?;
            let pod = response.headers().get(POD).and_then(|pod| pod.to_str().ok()).map(str::to_owned);
            let status = response.status().as_u16();
            response.into_body().collect().await?;
            Ok::<_, anyhow::Error>((open, status, pod))
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok((open, 200, pod))) => {
                *counted.by_pod.entry(pod.unwrap_or_default()).or_default() += 1;
                sender = Some(open);
            }
            Ok(Ok((open, status, _))) => {
                *counted.by_status.entry(status).or_default() += 1;
                sender = Some(open);
            }
            Ok(Err(error)) => *counted.failures.entry(format!("{error:#}")).or_default() += 1,
            Err(_late) => *counted.failures.entry("no answer in time".to_owned()).or_default() += 1,
        }
    }
    counted
}

async fn connect(target: &str) -> Result<Sender> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("connect {target}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    Ok(sender)
}
