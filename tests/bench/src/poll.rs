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

/// A clock in a [`Poll`].
#[derive(Debug)]
pub struct Ticks(OwnedFd);

impl Ticks {
    /// Takes what it has ticked: until then it ticks no more (timerfd(2) sets an interval's next end as it is read).
    pub fn take(&self) -> Result<()> {
        match rustix::io::read(&self.0, &mut [0_u8; size_of::<u64>()]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

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

    /// Adds a clock that ticks so often, for as long as its ticks are taken.
    pub fn tick(&self, every: Duration, number: usize) -> Result<Ticks> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let every = Timespec::try_from(every)?;
        let tick = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &tick)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.0, &timer, epoll::EventData::new_u64(number as u64), flags)?;
        Ok(Ticks(timer))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Poll;

    /// Far more than a tick takes, and far less than it would take to notice by hand that none came.
    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_clock_ticks_on_while_nothing_else_happens() {
        const NUMBER: usize = 7;
        let poll = Poll::new().unwrap();
        let ticks = poll.tick(Duration::from_millis(1), NUMBER).unwrap();
        for _ in 0..3 {
            let ready = poll.wait(PATIENCE).unwrap();
            assert_eq!(ready.iter().map(|change| change.number).collect::<Vec<_>>(), [NUMBER]);
            ticks.take().unwrap();
        }
    }
}
