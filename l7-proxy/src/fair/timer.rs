//! Waits for less than a millisecond, which the runtime's timers count whole ones of: who is held back goes on in small steps, and what
//! it does comes as a trickle and not in waves that its neighbours wait behind.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A timer of the kernel's.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// On this thread's runtime.
    #[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor that it did not open")]
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: an OwnedFd is open until dropped, and this one lives as long as the AsyncFd.
        let watched = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Returns after so long. One wait at a time: another sets it anew.
    pub(super) async fn after(&self, time: Duration) -> io::Result<()> {
        self.set(time)?;
        let passed = |timer: &OwnedFd| {
            let mut count = [0; size_of::<u64>()];
            rustix::io::read(timer, &mut count)?;
            Ok(())
        };
        self.0.async_io(Interest::READABLE, passed).await
    }

    fn set(&self, time: Duration) -> io::Result<()> {
        // All zeroes would stop it.
        let time = time.max(Duration::from_nanos(1));
        let tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() };
        let wanted = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &wanted)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_node::clock;

    use super::Timer;

    #[tokio::test]
    async fn a_wait_is_as_long_as_asked_and_one_that_was_given_up_disturbs_no_other() {
        let timer = Timer::new().unwrap();
        for micros in [0, 1, 300, 2_500] {
            let (began, time) = (clock::now(), Duration::from_micros(micros));
            timer.after(time).await.unwrap();
            assert!(clock::now() - began >= time, "{time:?}");
        }
        let given_up = tokio::time::timeout(Duration::from_millis(1), timer.after(Duration::from_secs(60)));
        assert!(given_up.await.is_err());
        timer.after(Duration::from_millis(3)).await.unwrap();
    }
}
