//! Reads the clock; nothing else does.

use std::time::{Duration, SystemTime};

/// Since 1970, or nothing where the clock stands before.
#[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// For measuring how long something takes.
#[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
pub fn now() -> std::time::Instant {
    std::time::Instant::now()
}
