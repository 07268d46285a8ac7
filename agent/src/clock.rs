//! Reads the clocks that only the agent asks for; the common ones are in `millrace_node::clock`.

use std::time::{Duration, SystemTime};

use millrace_node::clock;
use rustix::time::{ClockId, clock_gettime};

/// The time of day, as certificates have it.
pub fn wall_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + clock::unix_time()
}

/// CLOCK_MONOTONIC, as kernel programs stamp their records.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
