//! Watches what processes hold while something happens: resident memory and open descriptors.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Between two looks: an attack lasts a second at least.
const LOOK: Duration = Duration::from_millis(20);

/// What one process held: before, at most, and after.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) before: u64,
    pub(super) peak: u64,
    pub(super) after: u64,
}

/// Resident bytes of a process.
pub(super) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("a process has memory")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has a value")?.parse()?;
    Ok(kib * 1024)
}

/// How many descriptors a process has open.
pub(super) fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The most that each process holds while `work` goes on, and what `work` gives.
pub(super) fn watch<T>(pids: &[u32], work: impl FnOnce() -> T) -> Result<(T, Vec<Held>)> {
    let mut held: Vec<Held> = Vec::new();
    for pid in pids {
        let now = resident(*pid)?;
        held.push(Held { before: now, peak: now, after: now });
    }
    let stop = AtomicBool::new(false);
    let (given, peaks) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peaks: Vec<u64> = vec![0; pids.len()];
            while !stop.load(Ordering::Relaxed) {
                for (peak, pid) in peaks.iter_mut().zip(pids) {
                    *peak = (*peak).max(resident(*pid).unwrap_or(0));
                }
                thread::sleep(LOOK);
            }
            peaks
        });
        let given = work();
        stop.store(true, Ordering::Relaxed);
        (given, watcher.join().unwrap())
    });
    for ((held, peak), pid) in held.iter_mut().zip(peaks).zip(pids) {
        held.peak = held.peak.max(peak);
        held.after = resident(*pid)?;
    }
    Ok((given, held))
}
