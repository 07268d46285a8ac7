//! Serves as an ordinary application does, and ends as one: on SIGTERM it accepts what its queue holds, closes its listener at
//! once, finishes what is in flight, and is gone. No sleep before, no readiness of its own.
//!
//! A connection begins with a line: `ask <n>` is answered by the same line and closed, `echo` echoes until the client has done, `take` reads
//! all that comes.

use std::{
    collections::VecDeque,
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use super::crowd::unix_us;

/// As most servers ask for: more than comes in a second.
const BACKLOG: i32 = 1024;

/// A command is short.
const MAX_COMMAND: u64 = 64;

/// What is read at once of what is only taken.
const CHUNK: usize = 256 * 1024;

/// Callers remembered, the last that were accepted: some seconds' worth.
const MAX_CALLERS: usize = 8_192;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How long an answer takes.
    pub takes: Duration,
}

/// What an application did, told at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Connections accepted.
    pub accepted: u64,
    /// Of these, after SIGTERM, out of its queue.
    pub accepted_late: u64,
    /// Questions answered.
    pub answered: u64,
    /// Connections that broke.
    pub broken: u64,
    /// When its listener was about to be closed, in microseconds of the Unix epoch.
    pub closing_us: u64,
    /// When it was closed.
    pub closed_us: u64,
    /// Resets that its network namespace sent while the listener was being closed: the kernel's, to who waited in the queue.
    pub resets: u64,
    /// The last callers that were accepted.
    pub callers: Vec<SocketAddr>,
}

type Shared = Arc<Mutex<Served>>;

/// Serves until SIGTERM, then to the end of what it accepted.
pub fn serve(options: &Options) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: &Options) -> Result<()> {
    let mut told = signal(SignalKind::terminate())?;
    let listener = listen(options.listen)?;
    say(&serde_json::json!({"listening": options.listen.to_string()}));
    let served = Shared::default();
    let mut callers = VecDeque::new();
    let mut open = JoinSet::new();
    let mut take = |stream: TcpStream, caller: SocketAddr, open: &mut JoinSet<()>| {
        if callers.len() == MAX_CALLERS {
            callers.pop_front();
        }
        callers.push_back(SocketAddr::new(caller.ip().to_canonical(), caller.port()));
        open.spawn(attend(stream, options.takes, served.clone()));
    };
    let mut accepted = 0;
    loop {
        tokio::select! {
            biased;
            _ = told.recv() => break,
            taken = listener.accept() => {
                let (stream, caller) = taken?;
                accepted += 1;
                take(stream, caller, &mut open);
            }
            Some(_) = open.join_next() => {}
        }
    }
    let listener = listener.into_std()?;
    // Asked before the queue is looked through: nothing but the close shall lie between its last look and the close.
    let before = resets_sent()?;
    let mut late = 0;
    while let Some((stream, caller)) = waiting(&listener)? {
        late += 1;
        take(TcpStream::from_std(stream)?, caller, &mut open);
    }
    let closing_us = unix_us()?;
    drop(listener);
    let (closed_us, after) = (unix_us()?, resets_sent()?);
    while open.join_next().await.is_some() {}
    let Served { answered, broken, .. } = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
    say(&Served {
        accepted: accepted + late,
        accepted_late: late,
        answered,
        broken,
        closing_us,
        closed_us,
        resets: after - before,
        callers: callers.into(),
    });
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

fn waiting(listener: &std::net::TcpListener) -> Result<Option<(std::net::TcpStream, SocketAddr)>> {
    match listener.accept() {
        Ok((stream, caller)) => {
            stream.set_nonblocking(true)?;
            Ok(Some((stream, caller)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `OutRsts` of this network namespace.
fn resets_sent() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "OutRsts");
    Ok(found.context("the kernel counts resets")?.1.parse()?)
}

async fn attend(stream: TcpStream, takes: Duration, served: Shared) {
    let outcome = converse(stream, takes).await;
    let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(()) => served.answered += 1,
        Err(_) => served.broken += 1,
    }
}

async fn converse(mut stream: TcpStream, takes: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read);
    let mut command = String::new();
    (&mut reader).take(MAX_COMMAND).read_line(&mut command).await?;
    match command.split_whitespace().next() {
        Some("ask") => {
            tokio::time::sleep(takes).await;
            write.write_all(command.as_bytes()).await?;
        }
        Some("echo") => {
            tokio::io::copy_buf(&mut reader, &mut write).await?;
        }
        Some("take") => {
            let mut buffer = vec![0; CHUNK];
            while reader.read(&mut buffer).await? > 0 {}
        }
        Some(_) | None => return Err(io::ErrorKind::InvalidData.into()),
    }
    write.shutdown().await
}

#[expect(clippy::print_stdout, reason = "its output is what it is for")]
fn say(what: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(what) {
        println!("{line}");
    }
}
