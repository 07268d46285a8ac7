//! Connects, sends 64 bytes, waits for them and closes, so many at once, in one event loop.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::{
    Measured, Task,
    ping::MESSAGE,
    window::{Phase, Window},
};
use crate::{clock, poll::Poll};

/// After this long without a word from the far end something is stuck: the load ends with an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection's life.
#[derive(Debug)]
struct Slot {
    stream: TcpStream,
    since: Instant,
    sent: bool,
    received: usize,
}

/// How a connection stands.
enum Life {
    Going,
    Done,
    Failed,
}

pub(super) fn run(task: Task, at_once: usize) -> Result<Measured> {
    let (poll, mut window) = (Poll::new()?, Window::of(task));
    let mut slots: Vec<Slot> = (0..at_once).map(|number| open(&poll, task.target, number)).collect::<Result<_>>()?;
    loop {
        let ready = poll.wait(PATIENCE)?;
        let now = clock::now();
        if window.phase(now)? == Phase::Over {
            return window.close();
        }
        anyhow::ensure!(!ready.is_empty(), "no connection went on for {PATIENCE:?}");
        for number in ready.into_iter().map(|change| change.number) {
            let slot = slots.get_mut(number).context("a slot")?;
            match slot.go_on() {
                Life::Going => continue,
                Life::Done => window.done(slot.since, clock::now()),
                Life::Failed => window.failed(),
            }
            // Dropping the old one closes it.
            *slot = open(&poll, task.target, number)?;
        }
    }
}

fn open(poll: &Poll, target: SocketAddr, number: usize) -> Result<Slot> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let since = clock::now();
    if let Err(error) = socket.connect(&target.into())
        && error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error())
    {
        return Err(error).with_context(|| format!("connect to {target}"));
    }
    poll.add(&socket, number)?;
    Ok(Slot { stream: socket.into(), since, sent: false, received: 0 })
}

impl Slot {
    fn go_on(&mut self) -> Life {
        if !self.sent {
            match self.stream.write(&[7; MESSAGE]) {
                Ok(MESSAGE) => self.sent = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Life::Going,
                Ok(_) | Err(_) => return Life::Failed,
            }
        }
        let mut buffer = [0; MESSAGE];
        match self.stream.read(&mut buffer) {
            Ok(0) => Life::Failed,
            Ok(n) => {
                self.received += n;
                if self.received < MESSAGE { Life::Going } else { Life::Done }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Life::Going,
            Err(_) => Life::Failed,
        }
    }
}
