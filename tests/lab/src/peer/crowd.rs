//! Many long connections at once: opened, held, and watched for their end.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::client::{Connection, Target, echo_once, open};
use crate::clock;

/// How long is waited for an end before it is looked whether the file is there.
const LOOK: Duration = Duration::from_millis(10);

/// What became of a crowd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// How many ended before the file was there.
    pub closed: usize,
    /// How many did not, and carried an echo then.
    pub alive: usize,
    /// When the first and the last of them ended, in microseconds of the Unix epoch.
    pub ended_us: Option<(u64, u64)>,
}

/// Opens this many connections, calls `told`, and watches them until `until` is there or all have ended.
pub fn crowd(target: &Target, count: usize, until: &Path, told: impl FnOnce()) -> Result<Crowd> {
    let mut open: Vec<Connection> = (0..count).map(|_| open(target)).collect::<Result<_>>()?;
    for connection in &mut open {
        connection.stream.write_all(b"echo\n")?;
        connection.stream.set_nonblocking(true)?;
    }
    told();
    let mut found = Crowd::default();
    while !open.is_empty() && !until.exists() {
        let mut polled: Vec<PollFd<'_>> = open.iter().map(|one| PollFd::new(&one.stream, PollFlags::IN)).collect();
        poll(&mut polled, Some(&Timespec::try_from(LOOK)?))?;
        let now = unix_us()?;
        let before = open.len();
        open.retain_mut(|connection| match connection.stream.read(&mut [0]) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        if open.len() < before {
            found.closed += before - open.len();
            found.ended_us = Some((found.ended_us.map_or(now, |(first, _)| first), now));
        }
    }
    for connection in &mut open {
        connection.stream.set_nonblocking(false)?;
        echo_once(connection, 7).context("one that did not end carries nothing")?;
        found.alive += 1;
    }
    Ok(found)
}

/// The time, in microseconds of the Unix epoch.
pub fn unix_us() -> Result<u64> {
    Ok(u64::try_from(clock::date().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())?)
}
