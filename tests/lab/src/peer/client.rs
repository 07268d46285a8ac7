//! Calls the lab's own server, in each way a test needs, and reports what happened as a value.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{
    Called, Connects, Exchanged, Greeting, Pings, Steady,
    payload::{DIGEST, Payload, hex, receive},
    server::kind,
};
use crate::clock;

/// How long a connect or a silent peer is waited for: a drop must fail the test, not hang it.
const PATIENCE: Duration = Duration::from_secs(6);

/// Between two rounds of steady traffic: enough rounds to hit a gap of a few milliseconds, and CPU left for what is tested.
const PACE: Duration = Duration::from_millis(2);

/// A greeting has four addresses and a name.
const MAX_GREETING: u64 = 4096;

/// Whom to call, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// TCP or MPTCP.
    pub protocol: Protocol,
}

impl Target {
    fn resolve(&self) -> Result<SocketAddr> {
        let mut found = self.address.to_socket_addrs().with_context(|| format!("resolve {}", self.address))?;
        found.next().with_context(|| format!("{} has no address", self.address))
    }
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    reader: BufReader<TcpStream>,
    greeting: Greeting,
}

fn connect(address: SocketAddr, protocol: Protocol) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    socket.set_write_timeout(Some(PATIENCE))?; // Bounds connect() too.
    socket.connect(&address.into())?;
    socket.set_write_timeout(None)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn greet(stream: TcpStream) -> Result<Connection> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.by_ref().take(MAX_GREETING).read_line(&mut line)?;
    ensure!(!line.is_empty(), "closed without a greeting");
    let greeting = serde_json::from_str(&line).with_context(|| format!("not a greeting: {line:?}"))?;
    Ok(Connection { stream, reader, greeting })
}

pub(super) fn open(target: &Target) -> Result<Connection> {
    let stream = connect(target.resolve()?, target.protocol).context("connect")?;
    greet(stream)
}

/// One connection.
pub fn call(target: &Target) -> Called {
    let start = clock::now();
    let mut called = Called::default();
    let stream = match target.resolve().and_then(|address| Ok(connect(address, target.protocol)?)) {
        Ok(stream) => stream,
        Err(error) => return Called { error: Some(format!("connect: {}", kind(&error))), ..called },
    };
    called.peer = stream.peer_addr().ok();
    called.local = stream.local_addr().ok();
    match greet(stream) {
        Ok(mut connection) => {
            drop(connection.stream.write_all(b"bye\n"));
            called.greeting = Some(connection.greeting);
        }
        Err(error) => called.error = Some(format!("greeting: {}", kind(&error))),
    }
    called.took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    called
}

/// Bytes both ways at once, the half-close of this end first; fails unless both digests are equal.
pub fn exchange(target: &Target, up: u64, down: u64, chunk: usize) -> Result<Exchanged> {
    let Connection { mut stream, mut reader, greeting: _ } = open(target)?;
    let start = clock::now();
    stream.write_all(format!("duplex {up} {down} {chunk}\n").as_bytes())?;
    stream.set_read_timeout(Some(PATIENCE * 5))?;
    let sender = thread::spawn(move || -> io::Result<[u8; DIGEST]> {
        let digest = Payload::new(up.rotate_left(17) ^ down).send(&mut stream, up, chunk)?;
        stream.shutdown(Shutdown::Write)?;
        Ok(digest)
    });
    let received = receive(&mut reader, down, chunk).context("receive")?;
    let mut trailer = [0; DIGEST * 2 + 8];
    reader.read_exact(&mut trailer).context("the digests, which follow the half-close")?;
    ensure!(reader.read(&mut [0])? == 0, "bytes after the end");
    let Ok(sent) = sender.join() else { bail!("the sender panicked") };
    let sent = sent.context("send")?;
    let (server_received, rest) = trailer.split_at(DIGEST);
    let (server_sent, after) = rest.split_at(DIGEST);
    ensure!(after == [0; 8], "bytes arrived after the half-close");
    ensure!(server_received == sent, "the server received {} of {}", hex(server_received), hex(&sent));
    ensure!(server_sent == received, "the server sent {}, received was {}", hex(server_sent), hex(&received));
    let seconds = start.elapsed().as_secs_f64();
    Ok(Exchanged { up, down, seconds, up_sha256: hex(&sent), down_sha256: hex(&received) })
}

/// Has the server reset the connection after `after` bytes; how that reads here.
pub fn reset(target: &Target, after: u64) -> Result<String> {
    let Connection { mut stream, mut reader, greeting: _ } = open(target)?;
    stream.write_all(format!("reset {after}\n").as_bytes())?;
    Payload::new(after).send(&mut stream, after, 4096)?;
    Ok(match reader.read(&mut [0]) {
        Ok(n) => format!("{n} bytes"),
        Err(error) => format!("{:?}", error.kind()),
    })
}

/// Resets a connection from this end; this end's address, by which the server's report of it is found.
pub fn abort(target: &Target) -> Result<SocketAddr> {
    let Connection { mut stream, mut reader, greeting: _ } = open(target)?;
    stream.write_all(b"hold\n")?;
    reader.read_exact(&mut [0])?;
    let local = stream.local_addr()?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(local)
}

/// `count` connections, one after the other on each of `n_threads` threads; who answered.
pub fn connects(target: &Target, count: u32, n_threads: u32) -> Result<Connects> {
    let start = clock::now();
    let left = AtomicU32::new(count);
    let take = |left: u32| left.checked_sub(1);
    let work = || {
        let mut found = Connects::default();
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let called = call(target);
            let (map, key) = match (called.greeting, called.error) {
                (Some(greeting), _) => (&mut found.by_name, greeting.name),
                (None, error) => (&mut found.errors, error.unwrap_or_default()),
            };
            *map.entry(key).or_default() += 1;
        }
        found
    };
    let mut all = Connects::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let Ok(found) = thread.join() else { bail!("a thread panicked") };
            found.by_name.into_iter().for_each(|(name, n)| *all.by_name.entry(name).or_default() += n);
            found.errors.into_iter().for_each(|(error, n)| *all.errors.entry(error).or_default() += n);
        }
        Ok(())
    })?;
    all.seconds = start.elapsed().as_secs_f64();
    Ok(all)
}

/// Uses one long connection per target and makes new ones, round by round, until `until` exists; the last round begins after that.
/// Says `calling` on standard error as soon as the first is over.
pub fn steady(targets: &[Target], until: &Path) -> Result<Steady> {
    let mut open: Vec<Connection> = targets.iter().map(open).collect::<Result<_>>()?;
    for connection in &mut open {
        connection.stream.write_all(b"echo\n")?;
    }
    let mut found = Steady::default();
    for round in 0_u64.. {
        let is_last = until.exists();
        for (connection, target) in open.iter_mut().zip(targets) {
            match echo_once(connection, found.echoes) {
                Ok(()) => found.echoes += 1,
                Err(error) => found.failed(format!("echo {}: {error:#}", target.address)),
            }
            let called = call(target);
            match called.error {
                None => found.connects += 1,
                Some(error) => found.failed(format!("{}: {error}", target.address)),
            }
        }
        if round == 0 {
            writeln!(io::stderr(), "calling")?;
        }
        if is_last {
            break;
        }
        thread::sleep(PACE);
    }
    Ok(found)
}

/// `count` echoes of four bytes, one after the other.
pub fn pings(target: &Target, count: u32) -> Result<Pings> {
    let mut connection = open(target)?;
    connection.stream.write_all(b"echo\n")?;
    let mut took = Vec::new();
    for number in 0..count {
        let start = clock::now();
        echo_once(&mut connection, number)?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    Ok(Pings { p50_us: at(50), p99_us: at(99) })
}

pub(super) fn echo_once(connection: &mut Connection, number: u32) -> Result<()> {
    let sent = number.to_be_bytes();
    connection.stream.write_all(&sent)?;
    let mut back = [0; 4];
    connection.reader.read_exact(&mut back)?;
    ensure!(back == sent, "{sent:?} came back as {back:?}");
    Ok(())
}

impl Steady {
    fn failed(&mut self, what: String) {
        /// The first few say what kind of failure it is.
        const SHOWN: usize = 8;
        self.n_failed += 1;
        if self.failures.len() < SHOWN {
            self.failures.push(what);
        }
    }
}
