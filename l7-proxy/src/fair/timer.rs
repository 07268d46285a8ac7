//! Waits for less than a millisecond, which the runtime's timers count whole ones of: who is held back goes on in small steps, and what
//! it does comes as a trickle and not in waves that its neighbours wait behind.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

/// A timer of the kernel's.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// On this thread's runtime.
    #[expect(unsafe_code, reason = "libc's call, and a descriptor that tokio did not open")]
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let made = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given it, to nobody else.
        let timer = unsafe { OwnedFd::from_raw_fd(made) };
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

    #[expect(unsafe_code, reason = "libc's call")]
    fn set(&self, time: Duration) -> io::Result<()> {
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let tv_sec = libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX);
        // All zeroes would stop it.
        let at = libc::timespec { tv_sec, tv_nsec: time.subsec_nanos().max(1).into() };
        let wanted = libc::itimerspec { it_interval: none, it_value: at };
        let timer = self.0.get_ref().as_raw_fd();
        // SAFETY: the descriptor is open, the kernel only reads `wanted`, and nothing is asked back.
        let done = unsafe { libc::timerfd_settime(timer, 0, &raw const wanted, std::ptr::null_mut()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
