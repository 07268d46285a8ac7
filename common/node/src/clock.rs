//! Reads the clocks: the only place in agent and proxy that does. Everywhere else time is an argument.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time since the Unix epoch; zero for a clock set before it, which makes every certificate not yet valid.
#[expect(clippy::disallowed_methods, reason = "this is where the clock is read")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
