//! Asks for 1 KiB by HTTP/1.1 on kept connections: as fast as answers come, or at fixed times.
//!
//! At fixed times there is no coordinated omission: a request that finds no free connection waits in a queue here, and its time
//! counts from when it was due.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Measured, Task,
    reply::{Reply, State},
    window::{Phase, Window},
};
use crate::{clock, poll::Poll};

/// What is asked: what a small client sends.
const REQUEST: &[u8] =
    b"GET /1k HTTP/1.1\r\nhost: web.shop.svc.cluster.local\r\nuser-agent: millrace-bench\r\naccept: */*\r\n\r\n";

/// Read with one call: an answer with all its headers.
const CHUNK: usize = 8 * 1024;

/// After this long without an answer something is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// At the window's end at most this share of a second's requests may wait in the queue: more, and the rate is not held.
const BACKLOG: f64 = 0.05;

struct Connection {
    stream: TcpStream,
    reply: Reply,
    /// Since when the request under way counts.
    asked: Option<Instant>,
}

struct Client {
    poll: Poll,
    connections: Vec<Connection>,
}

impl Client {
    fn open(task: Task, n_connections: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(n_connections);
        for number in 0..n_connections {
            let stream = TcpStream::connect(task.target)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            poll.add(&stream, number)?;
            connections.push(Connection { stream, reply: Reply::default(), asked: None });
        }
        Ok(Self { poll, connections })
    }

    fn ask(&mut self, number: usize, since: Instant) -> Result<()> {
        let connection = self.connections.get_mut(number).context("a connection")?;
        // One small request is under way at a time: the socket's buffer always takes it whole.
        ensure!(connection.stream.write(REQUEST)? == REQUEST.len(), "a request was not taken whole");
        connection.asked = Some(since);
        Ok(())
    }

    /// When the request was due whose answer has come on this connection.
    fn answered(&mut self, number: usize) -> Result<Option<Instant>> {
        let connection = self.connections.get_mut(number).context("a connection")?;
        let mut buffer = [0; CHUNK];
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => bail!("a kept connection was closed"),
                Ok(n) => match connection.reply.take(buffer.get(..n).unwrap_or_default()) {
                    State::Unfinished => {}
                    State::Whole => return Ok(connection.asked.take()),
                    State::Wrong => bail!("an answer was not 200 with its length"),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Every connection asks again as soon as it was answered.
pub(super) fn closed(task: Task, n_connections: usize) -> Result<Measured> {
    let mut client = Client::open(task, n_connections)?;
    let mut window = Window::of(task);
    for number in 0..n_connections {
        client.ask(number, clock::now())?;
    }
    loop {
        let ready = client.poll.wait(PATIENCE)?;
        if window.phase(clock::now())? == Phase::Over {
            return window.close();
        }
        ensure!(!ready.is_empty(), "no answer came for {PATIENCE:?}");
        for number in ready.into_iter().map(|change| change.number) {
            if let Some(since) = client.answered(number)? {
                let now = clock::now();
                window.done(since, now);
                client.ask(number, now)?;
            }
        }
    }
}

/// Requests are due at fixed times.
pub(super) fn open(task: Task, n_connections: usize, rate: u32) -> Result<Measured> {
    let mut client = Client::open(task, n_connections)?;
    let every = Duration::from_secs(1) / rate.max(1);
    let ticks = client.poll.tick(every, n_connections)?;
    let mut idle: VecDeque<usize> = (0..n_connections).collect();
    let (mut due, mut window) = (VecDeque::new(), Window::of(task));
    let mut next = clock::now() + every;
    loop {
        let ready = client.poll.wait(PATIENCE)?;
        if ready.iter().any(|change| change.number == n_connections) {
            ticks.take()?;
        }
        let now = clock::now();
        if window.phase(now)? == Phase::Over {
            let most = f64::from(rate) * BACKLOG + n_connections as f64;
            ensure!(due.len() as f64 <= most, "{rate}/s is not held: {} requests wait at the end", due.len());
            return window.close();
        }
        while next <= now {
            due.push_back(next);
            next += every;
        }
        for number in ready.into_iter().map(|change| change.number).filter(|number| *number < n_connections) {
            if let Some(since) = client.answered(number)? {
                window.done(since, clock::now());
                idle.push_back(number);
            }
        }
        while let (Some(since), Some(number)) = (due.front(), idle.front()) {
            client.ask(*number, *since)?;
            due.pop_front();
            idle.pop_front();
        }
    }
}
