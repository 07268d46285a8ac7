//! Waits for many sockets: epoll, told of changes only, with a number for each socket.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::Result;
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};

/// Events taken with one call: more than any load has connections.
const EVENTS: usize = 256;

/// Something happened on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The number that it was added with.
    pub number: usize,
    /// Whether its far end has finished sending.
    pub has_ended: bool,
}

/// A set of sockets.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Adds a socket; it goes when its last descriptor is closed.
    pub fn add(&self, socket: impl AsFd, number: usize) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.0, socket, epoll::EventData::new_u64(number as u64), flags)?)
    }

    /// Adds a clock that ticks so often.
    pub fn tick(&self, every: Duration, number: usize) -> Result<OwnedFd> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let every = Timespec::try_from(every)?;
        let tick = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &tick)?;
        // Told of changes only, so a tick needs no read.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.0, &timer, epoll::EventData::new_u64(number as u64), flags)?;
        Ok(timer)
    }

    /// Those on which something changed; none after `patience`.
    pub fn wait(&self, patience: Duration) -> Result<Vec<Change>> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let (ready, _rest) = match epoll::wait(&self.0, &mut events[..], Some(&Timespec::try_from(patience)?)) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let change = |event: &epoll::Event| -> Result<Change> {
            let (number, flags) = (usize::try_from({ event.data }.u64())?, { event.flags });
            Ok(Change { number, has_ended: flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP) })
        };
        ready.iter().map(change).collect()
    }
}
