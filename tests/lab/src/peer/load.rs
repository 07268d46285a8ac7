//! Loads servers as an open loop: so many short calls a second whatever becomes of them, beside long connections that are used.
//!
//! Nothing is tried again. What failed is told with when it began and ended and from which address, so that a test can lay it
//! beside what it did at that time, and beside what the server accepted.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use super::crowd::unix_us;

/// How long one call may take: a proxy that was killed is back within a second or two, and calls wait for it.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a long connection is used.
const BEAT: Duration = Duration::from_secs(1);

/// Between two looks whether the load shall end.
const LOOK: Duration = Duration::from_millis(20);

/// Calls under way at once: at 500 a second what comes in 15 s. One more is a failure by name, and not memory.
const MAX_UNDER_WAY: usize = 8_192;

/// Failures told one by one; the others are counted.
const MAX_TOLD: usize = 2_000;

/// Whom to load, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`, each; calls and long connections take turns.
    pub targets: Vec<String>,
    /// Short calls a second.
    pub rate: u32,
    /// Long connections.
    pub long: usize,
    /// The file at whose appearance the load ends.
    pub until: PathBuf,
}

/// What became of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Short calls that were answered.
    pub calls: u64,
    /// Short calls, and openings of long connections, that were not: the first of them.
    pub failed: Vec<Failure>,
    /// How many were not.
    pub n_failed: u64,
    /// Echoes on long connections.
    pub echoes: u64,
    /// Long connections that were cut: the first of them. Each was opened anew.
    pub cut: Vec<Failure>,
    /// How many were cut.
    pub n_cut: u64,
    /// The longest that a call took that was answered, in microseconds.
    pub slowest_us: u64,
}

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it began, in microseconds of the Unix epoch.
    pub began_us: u64,
    /// When it failed.
    pub ended_us: u64,
    /// Whom it called.
    pub target: String,
    /// From which address; None where connect() failed at once.
    pub local: Option<SocketAddr>,
    /// How: `connect: ConnectionRefused`.
    pub what: String,
}

#[derive(Clone, Debug)]
struct Target {
    name: Arc<str>,
    address: SocketAddr,
}

type Shared = Arc<Mutex<Load>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Load> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads until the file is there; calls `told` once every long connection is open.
pub fn load(options: &Options, told: impl FnOnce()) -> Result<Load> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options, told))
}

async fn run(options: &Options, told: impl FnOnce()) -> Result<Load> {
    let targets: Vec<Target> = options.targets.iter().map(|name| resolve(name)).collect::<Result<_>>()?;
    ensure!(!targets.is_empty(), "a load has a target");
    let found = Shared::default();
    let (end, ended) = watch::channel(());
    let (opened, mut all_open) = watch::channel(0);
    let mut longs = JoinSet::new();
    for target in targets.iter().cycle().take(options.long) {
        longs.spawn(long(target.clone(), found.clone(), opened.clone(), ended.clone()));
    }
    all_open.wait_for(|n| *n >= options.long).await?;
    told();
    let mut calls = JoinSet::new();
    let mut turns = targets.iter().cycle();
    let mut look = ticks(LOOK);
    let mut pace = ticks(Duration::from_secs(1) / options.rate.max(1));
    loop {
        tokio::select! {
            _ = look.tick() => if options.until.exists() { break },
            _ = pace.tick() => {
                while calls.try_join_next().is_some() {}
                let target = turns.next().context("a load has a target")?.clone();
                if calls.len() < MAX_UNDER_WAY {
                    calls.spawn(short(target, found.clone()));
                } else {
                    lock(&found).failed(Begun::now(&target).failed("too many under way"));
                }
            }
        }
    }
    while calls.join_next().await.is_some() {}
    drop(end);
    while longs.join_next().await.is_some() {}
    let found = lock(&found).clone();
    Ok(found)
}

fn resolve(name: &str) -> Result<Target> {
    let mut found = name.to_socket_addrs().with_context(|| format!("resolve {name}"))?;
    let address = found.next().with_context(|| format!("{name} has no address"))?;
    Ok(Target { name: name.into(), address })
}

/// An open loop: a tick that came late is made up for.
fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// A call that has begun.
struct Begun {
    at_us: u64,
    target: Target,
    local: Option<SocketAddr>,
}

impl Begun {
    fn now(target: &Target) -> Self {
        Self { at_us: unix_us().unwrap_or_default(), target: target.clone(), local: None }
    }

    fn failed(self, what: &str) -> Failure {
        let Self { at_us, target, local } = self;
        let ended_us = unix_us().unwrap_or_default();
        Failure { began_us: at_us, ended_us, target: target.name.to_string(), local, what: what.to_owned() }
    }
}

async fn connect(begun: &mut Begun) -> Result<TcpStream, String> {
    let opening = async {
        let address = begun.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        // Asked first: one that was established and reset before anybody looked fails here too, and has an address.
        begun.local = stream.local_addr().ok();
        stream.take_error()?.map_or(Ok(()), Err)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let opened: Result<io::Result<TcpStream>, _> = timeout(PATIENCE, opening).await;
    opened.map_err(|_elapsed| "connect: nothing".to_owned())?.map_err(|error| told("connect", &error))
}

fn told(step: &str, error: &io::Error) -> String {
    format!("{step}: {:?}", error.kind())
}

/// One question, one answer, and the end of the connection.
async fn short(target: Target, found: Shared) {
    let mut begun = Begun::now(&target);
    let question = format!("ask {}\n", begun.at_us);
    let asked = async {
        let mut stream = connect(&mut begun).await?;
        stream.write_all(question.as_bytes()).await.map_err(|error| told("ask", &error))?;
        let mut answer = Vec::new();
        let answered = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        answered.map_err(|_elapsed| "answer: nothing".to_owned())?.map_err(|error| told("answer", &error))?;
        if answer == question.as_bytes() { Ok(()) } else { Err(format!("answer: {} bytes", answer.len())) }
    };
    let outcome: Result<(), String> = asked.await;
    let mut found = lock(&found);
    match outcome {
        Ok(()) => {
            found.calls += 1;
            let took = unix_us().unwrap_or_default().saturating_sub(begun.at_us);
            found.slowest_us = found.slowest_us.max(took);
        }
        Err(what) => found.failed(begun.failed(&what)),
    }
}

/// A connection that is used each second until the load ends; cut, it is opened anew.
async fn long(target: Target, found: Shared, opened: watch::Sender<usize>, ended: watch::Receiver<()>) {
    let mut is_first = true;
    loop {
        let mut begun = Begun::now(&target);
        let mut stream = match open(&mut begun).await {
            Ok(stream) => stream,
            Err(what) => {
                lock(&found).failed(begun.failed(&what));
                tokio::time::sleep(BEAT).await; // A server that refuses is not flooded.
                if ended.has_changed().is_err() {
                    return;
                }
                continue;
            }
        };
        if is_first {
            opened.send_modify(|n| *n += 1);
            is_first = false;
        }
        match beat(&mut stream, &found, ended.clone()).await {
            Ok(()) => return,
            Err(what) => lock(&found).cut(begun.failed(&what)),
        }
    }
}

async fn open(begun: &mut Begun) -> Result<TcpStream, String> {
    let mut stream = connect(begun).await?;
    stream.write_all(b"echo\n").await.map_err(|error| told("ask", &error))?;
    echo(&mut stream, 0).await?;
    Ok(stream)
}

/// Uses a connection until the load ends; the error is how it broke.
async fn beat(stream: &mut TcpStream, found: &Shared, mut ended: watch::Receiver<()>) -> Result<(), String> {
    let mut number = 0;
    loop {
        tokio::select! {
            // The sender is dropped at the end: one more echo shows that it lives.
            _ = ended.changed() => return echo(stream, u64::MAX).await,
            () = tokio::time::sleep(BEAT) => {}
            // Nobody speaks unasked: this is its end.
            spoken = stream.read_u8() => return Err(spoken.map_or_else(|error| told("rest", &error), |_| "rest: bytes".to_owned())),
        }
        number += 1;
        echo(stream, number).await?;
        lock(found).echoes += 1;
    }
}

async fn echo(stream: &mut TcpStream, number: u64) -> Result<(), String> {
    stream.write_u64(number).await.map_err(|error| told("echo", &error))?;
    let back = timeout(PATIENCE, stream.read_u64()).await;
    let back = back.map_err(|_elapsed| "echo: nothing".to_owned())?.map_err(|error| told("echo", &error))?;
    if back == number { Ok(()) } else { Err("echo: other bytes".to_owned()) }
}

impl Load {
    fn failed(&mut self, failure: Failure) {
        self.n_failed += 1;
        keep(&mut self.failed, failure);
    }

    fn cut(&mut self, failure: Failure) {
        self.n_cut += 1;
        keep(&mut self.cut, failure);
    }

    /// This and another's together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let Self { calls, failed, n_failed, echoes, cut, n_cut, slowest_us } = other;
        self.calls += calls;
        self.failed.extend(failed);
        self.n_failed += n_failed;
        self.echoes += echoes;
        self.cut.extend(cut);
        self.n_cut += n_cut;
        self.slowest_us = self.slowest_us.max(slowest_us);
        self
    }
}

fn keep(told: &mut Vec<Failure>, failure: Failure) {
    if told.len() < MAX_TOLD {
        told.push(failure);
    }
}
