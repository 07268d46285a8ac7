//! Asks and answers by UDP: as a resolver asks, one socket many servers, and as a QUIC client, a socket for each.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::crowd::{Crowd, unix_us};
use crate::clock;

/// How long an answer may take. Within a machine one that is late is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long is waited for an end before it is looked whether the file is there.
const LOOK: Duration = Duration::from_millis(10);

/// What became of questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// How often each server answered, from the address that was asked.
    pub by_name: BTreeMap<String, u32>,
    /// How many answers came from another address than was asked, or to another question.
    pub strays: u32,
    /// How often what failed.
    pub errors: BTreeMap<String, u32>,
    /// How long all took.
    pub seconds: f64,
}

/// How to ask.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// How many sockets, one after the other.
    pub sockets: u32,
    /// How many questions each, to one target after the other.
    pub count: u32,
    /// Whether IPv4 is spoken by an IPv6 socket, as v4-mapped.
    pub is_mapped: bool,
}

/// Answers until killed, with the name before what was asked.
pub fn serve(listen: SocketAddr, name: &str, told: impl FnOnce()) -> Result<()> {
    let socket = bound(listen)?;
    told();
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // What an answer met is told at the next receive; and nobody may ask for long.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::Interrupted | ErrorKind::WouldBlock
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        // Who may not be answered is not: that is what some tests are about.
        drop(socket.send_to(&answer, from));
    }
}

/// Asks the targets in turn, and waits for each answer.
pub fn ask(targets: &[SocketAddr], ways: Ways) -> Result<Asked> {
    let began = clock::now();
    let mut asked = Asked::default();
    for _ in 0..ways.sockets {
        let v4 = bound(if ways.is_mapped { "[::]:0" } else { "0.0.0.0:0" }.parse()?)?;
        let v6 = bound("[::]:0".parse()?)?;
        for (number, target) in (0..ways.count).zip(targets.iter().cycle()) {
            let socket = if target.is_ipv4() { &v4 } else { &v6 };
            let to = if ways.is_mapped { mapped(*target) } else { *target };
            match question(socket, to, &number.to_string()) {
                Ok(Some(name)) => *asked.by_name.entry(name).or_default() += 1,
                Ok(None) => asked.strays += 1,
                Err(error) => *asked.errors.entry(format!("{:?}", error.kind())).or_default() += 1,
            }
        }
    }
    asked.seconds = clock::now().duration_since(began).as_secs_f64();
    Ok(asked)
}

/// Connects this many sockets, asks once by each, calls `told`, and watches them until `until` is there or all have ended.
pub fn hold(target: SocketAddr, count: usize, until: &Path, told: impl FnOnce()) -> Result<Crowd> {
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = bound(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?)?;
        socket.connect(target)?;
        round(&socket, "hello").context("the first question")?;
        socket.set_nonblocking(true)?;
        open.push(socket);
    }
    told();
    let mut found = Crowd::default();
    while !open.is_empty() && !until.exists() {
        // Nothing is asked for: an error alone wakes it.
        let mut polled: Vec<PollFd<'_>> = open.iter().map(|one| PollFd::new(one, PollFlags::empty())).collect();
        poll(&mut polled, Some(&Timespec::try_from(LOOK)?))?;
        let now = unix_us()?;
        let before = open.len();
        open.retain(|socket| match socket.recv(&mut [0; 64]) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        if open.len() < before {
            found.closed += before - open.len();
            found.ended_us = Some((found.ended_us.map_or(now, |(first, _)| first), now));
        }
    }
    for socket in open {
        socket.set_nonblocking(false)?;
        round(&socket, "still there").context("one that did not end carries nothing")?;
        found.alive += 1;
    }
    Ok(found)
}

/// Who answered; None where it was somebody else than was asked, or something else.
fn question(socket: &UdpSocket, to: SocketAddr, text: &str) -> io::Result<Option<String>> {
    socket.send_to(text.as_bytes(), to)?;
    let mut buffer = [0; 2048];
    let (length, from) = again(|| socket.recv_from(&mut buffer))?;
    let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    Ok(answer.split_once(' ').filter(|(_, what)| from == to && *what == text).map(|(name, _)| name.to_owned()))
}

/// One question and its answer on a connected socket.
fn round(socket: &UdpSocket, text: &str) -> io::Result<()> {
    socket.send(text.as_bytes())?;
    again(|| socket.recv(&mut [0; 2048])).map(drop)
}

/// A signal that has nothing to do with it ends a call with a time limit early.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn bound(address: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into()).with_context(|| format!("{address}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(ip.into(), address.port())
}
