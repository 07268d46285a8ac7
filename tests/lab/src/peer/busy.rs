//! A workload that takes its share, or more: connections that are kept busy with small messages, or one that sends without end.
//!
//! The server is `app`: its connections echo, or take all that comes.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, interval_at, timeout},
};

use crate::clock;

/// What goes there and back.
const BYTES: usize = 64;

/// Connections that are opened at once: fewer than any bound on what is pending.
const OPENING: usize = 32;

/// How long one step may take before it counts as never: longer than anything that is late.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks whether it shall end.
const LOOK: Duration = Duration::from_millis(10);

/// Round trips whose times are kept: minutes of them.
const MAX_KEPT: usize = 1 << 20;

/// What bulk is written in.
const CHUNK: usize = 256 * 1024;

/// How to be busy.
#[derive(Clone, Debug)]
pub struct Options {
    /// host:port.
    pub target: String,
    /// On so many connections.
    pub count: usize,
    /// Each connection has a round trip to make each so often, however long the last one took; None: the next as the last one ends.
    pub each: Option<Duration>,
    /// Until this file is there.
    pub until: PathBuf,
}

/// What became of it. Times are of round trips, from when each was due.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Busy {
    /// Round trips made.
    pub trips: u64,
    /// Half took no longer, in microseconds.
    pub p50_us: u64,
    /// All but one in a hundred took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// What a bulk stream carried.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Flowed {
    /// Bytes written.
    pub bytes: u64,
    /// In so long.
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Going,
    Ended,
}

/// How many round trips were made, and how long they took, in microseconds.
type Found = (u64, Vec<u64>);

/// What all connections share.
#[derive(Clone)]
struct Shared {
    address: SocketAddr,
    each: Option<Duration>,
    opening: Arc<Semaphore>,
    opened: watch::Sender<usize>,
    stage: watch::Receiver<Stage>,
    found: Arc<Mutex<Found>>,
}

/// Keeps connections busy; calls `told` once all are open, and begins.
pub fn busy(options: &Options, told: impl FnOnce()) -> Result<Busy> {
    runtime()?.block_on(run(options, told))
}

/// Sends without end; calls `told` once it begins.
pub fn flow(target: &str, until: &Path, told: impl FnOnce()) -> Result<Flowed> {
    runtime()?.block_on(async {
        let mut stream = TcpStream::connect(resolve(target)?).await?;
        stream.write_all(b"take\n").await?;
        told();
        let (began, chunk, mut bytes) = (clock::now(), vec![7; CHUNK], 0);
        while !until.exists() {
            bytes += timeout(PATIENCE, stream.write(&chunk)).await.context("a bulk stream stands still")?? as u64;
        }
        Ok(Flowed { bytes, seconds: clock::now().saturating_duration_since(began).as_secs_f64() })
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn resolve(target: &str) -> Result<SocketAddr> {
    target.to_socket_addrs()?.next().with_context(|| format!("{target} has no address"))
}

async fn run(options: &Options, told: impl FnOnce()) -> Result<Busy> {
    let (stage, stages) = watch::channel(Stage::Opening);
    let (opened, mut n_opened) = watch::channel(0);
    let shared = Shared {
        address: resolve(&options.target)?,
        each: options.each,
        opening: Arc::new(Semaphore::new(OPENING)),
        opened,
        stage: stages,
        found: Arc::default(),
    };
    let mut connections = JoinSet::new();
    for number in 0..options.count {
        let offset = options.each.unwrap_or_default().mul_f64(number as f64 / options.count as f64);
        connections.spawn(one(shared.clone(), offset));
    }
    tokio::select! {
        all = n_opened.wait_for(|n| *n >= options.count) => drop(all?),
        Some(ended) = connections.join_next() => bail!("a connection ended before all were open: {ended:?}"),
    }
    stage.send(Stage::Going)?;
    told();
    let mut look = tokio::time::interval(LOOK);
    while !options.until.exists() {
        tokio::select! {
            _ = look.tick() => {}
            Some(ended) = connections.join_next() => bail!("a busy connection ended: {ended:?}"),
        }
    }
    stage.send(Stage::Ended)?;
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    let (trips, mut took) = std::mem::take(&mut *shared.found.lock().unwrap_or_else(PoisonError::into_inner));
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied();
    let [p50_us, p99_us, max_us] = [50, 99, 100].map(|part| at(part).unwrap_or_default());
    Ok(Busy { trips, p50_us, p99_us, max_us })
}

/// One connection, from its opening to the end of all.
async fn one(mut shared: Shared, offset: Duration) -> Result<()> {
    let permit = shared.opening.acquire().await?;
    let mut stream = timeout(PATIENCE, TcpStream::connect(shared.address)).await.context("no connection")??;
    stream.set_nodelay(true)?;
    stream.write_all(b"echo\n").await?;
    trip(&mut stream).await?;
    drop(permit);
    shared.opened.send_modify(|n| *n += 1);
    shared.stage.wait_for(|stage| *stage != Stage::Opening).await?;
    let mut moments = shared.each.map(|each| interval_at(Instant::now() + offset, each));
    while *shared.stage.borrow() == Stage::Going {
        let due = match &mut moments {
            Some(moments) => moments.tick().await.into_std(),
            None => clock::now(),
        };
        trip(&mut stream).await?;
        let took = clock::now().saturating_duration_since(due);
        let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.0 += 1;
        if found.1.len() < MAX_KEPT {
            found.1.push(u64::try_from(took.as_micros())?);
        }
    }
    Ok(())
}

async fn trip(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = [7; BYTES];
    let there_and_back = async {
        stream.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await
    };
    timeout(PATIENCE, there_and_back).await.context("a message did not come back")??;
    Ok(())
}
