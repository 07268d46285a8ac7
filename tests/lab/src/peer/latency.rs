//! Measures how long calls take that are made at a fixed rate, however long they take: a late call delays no other.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::client::{Target, call};
use crate::clock;

/// Threads that call: as many calls may be late at once before the next is late too.
const THREADS: u32 = 16;

/// Calls made at a fixed rate, as their client saw them. Times are from when a call was due, in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u32,
    /// How many of them failed.
    pub failed: u32,
    /// What failed first.
    pub failure: Option<String>,
    /// Half took no longer.
    pub p50_us: u64,
    /// All but one in a hundred took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Makes `count` calls, one each `pace`.
pub fn latency(target: &Target, count: u32, pace: Duration) -> Result<Latency> {
    let (next, began) = (AtomicU32::new(0), clock::now());
    let seen = Mutex::new((Vec::new(), None, 0));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let due = began + pace * number;
            thread::sleep(due.saturating_duration_since(clock::now()));
            let error = call(target).error;
            let took = clock::now().saturating_duration_since(due);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            if let Some(error) = error {
                seen.1.get_or_insert(error);
                seen.2 += 1;
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    let (mut took, failure, failed) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied();
    let max_us = took.last().copied().unwrap_or_default();
    let (p50_us, p99_us) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
    Ok(Latency { count, failed, failure, p50_us, p99_us, max_us })
}
