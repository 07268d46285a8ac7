//! Keeps refusals from flooding the log: of each reason so many a second are told, and how many were not.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use millrace_node::clock;

use crate::frames::Bucket;

/// Of one reason: what a person can read, after a burst that shows who was met by it.
const TOLD: Bucket = Bucket::new(10, 100);

/// How often each reason was told. Reasons are names in the code, so there are few.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    reasons: Mutex<HashMap<&'static str, Reason>>,
}

#[derive(Debug)]
struct Reason {
    bucket: Bucket,
    n_untold: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { began: clock::now(), reasons: Mutex::default() }
    }
}

impl Pace {
    /// Whether one more of this reason may be told; then also how many were not since the last.
    pub(crate) fn admits(&self, reason: &'static str) -> Option<u64> {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let Reason { bucket, n_untold } = reasons.entry(reason).or_insert_with(|| Reason { bucket: TOLD, n_untold: 0 });
        if bucket.take(self.began, clock::now) {
            return Some(std::mem::take(n_untold));
        }
        *n_untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn a_flood_of_one_reason_is_told_in_part_and_hides_no_other() {
        let pace = Pace::default();
        let told = (0..100_000).filter(|_| pace.admits("flood").is_some()).count();
        assert!((100..1_000).contains(&told), "{told}");
        assert_eq!(pace.admits("other"), Some(0));
    }
}
