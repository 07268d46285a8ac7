//! Reads the clock and waits for what has no event: the only file here that knows the time.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow};

/// Between two looks at something that gives no event. Short against what is waited for (10 ms and more), long against a look (1 ms).
const POLL: Duration = Duration::from_millis(5);

/// The time, for measuring.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn now() -> Instant {
    Instant::now()
}

/// The date, for naming and for certificates.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn date() -> SystemTime {
    SystemTime::now()
}

/// Looks until `look` succeeds, and says how long that took; fails with its last reason when `patience` is over.
pub fn until<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let start = now();
    loop {
        match look() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(reason) if start.elapsed() > patience => {
                return Err(reason.context(anyhow!("{what}: not within {patience:?}")));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}
