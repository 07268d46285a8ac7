//! Reads the clocks: the only place in agent and proxy that does. Everywhere else time is an argument.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// What this thread has had of a processor so far.
#[expect(unsafe_code, reason = "rustix's is behind a feature that nothing else here needs")]
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time`, which outlives the call. It can't fail: the clock is there wherever threads are.
    let _zero = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time since the Unix epoch; zero for a clock set before it, which makes every certificate not yet valid.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_thread_that_waits_has_nothing_of_a_processor_and_one_that_works_has() {
        let begun = super::thread_cpu();
        std::thread::sleep(Duration::from_millis(200));
        let waited = super::thread_cpu();
        assert!(waited - begun < Duration::from_millis(100), "{begun:?} {waited:?}");
        while super::thread_cpu() - waited < Duration::from_millis(10) {}
    }
}
