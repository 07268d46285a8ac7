//! Reads the whole machine: its CPU time, what was stolen from it, a process's memory, what it is.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::clock;

/// How long the machine is watched before a round, to see whether somebody else uses it.
const WATCH: Duration = Duration::from_millis(150);

/// Above this share of all cores, others are at work: an idle mesh in the lab takes less than a fiftieth.
pub const BUSY: f64 = 0.06;

/// CPU time of the whole machine since it started, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// At work, for programs, the kernel, interrupts of either kind.
    pub busy: f64,
    /// Wanted, but given to another machine on the same host.
    pub steal: f64,
    /// Idle, or waiting for a disk.
    pub idle: f64,
}

impl Cpu {
    /// Now.
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").context("/proc/stat")?).context("/proc/stat has no line `cpu`")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<f64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; what guests take is in user already. Ticks are hundredths.
        let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks.as_slice() else { return None };
        Some(Self {
            busy: (user + nice + system + irq + softirq) / 100.0,
            steal: steal / 100.0,
            idle: (idle + iowait) / 100.0,
        })
    }

    /// From an earlier time until this one.
    pub fn since(self, earlier: Self) -> Self {
        Self { busy: self.busy - earlier.busy, steal: self.steal - earlier.steal, idle: self.idle - earlier.idle }
    }

    /// The share of all cores that was at work, or would have been.
    pub fn share(self) -> f64 {
        let all = self.busy + self.steal + self.idle;
        if all > 0.0 { (self.busy + self.steal) / all } else { 0.0 }
    }

    /// The share of all cores that was stolen.
    pub fn stolen(self) -> f64 {
        let all = self.busy + self.steal + self.idle;
        if all > 0.0 { self.steal / all } else { 0.0 }
    }
}

/// The share of all cores that others use at this moment.
pub fn others() -> Result<f64> {
    let before = Cpu::now()?;
    thread::sleep(WATCH);
    Ok(Cpu::now()?.since(before).share())
}

/// Memory of a process, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub resident: f64,
    /// Resident, shared pages counted by their share.
    pub proportional: f64,
}

impl Memory {
    /// Of this process, now.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        Ok(Self::parse(&fs::read_to_string(&path).context(path)?))
    }

    fn parse(text: &str) -> Self {
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        Self { resident: kib("Rss:") / 1024.0, proportional: kib("Pss:") / 1024.0 }
    }

    /// Both processes'.
    pub fn plus(self, other: Self) -> Self {
        Self { resident: self.resident + other.resident, proportional: self.proportional + other.proportional }
    }
}

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor.
    pub processor: String,
    /// How many cores.
    pub n_cores: usize,
    /// Memory, in GiB.
    pub memory_gib: f64,
    /// The kernel's release.
    pub kernel: String,
    /// TCP's congestion control, of everybody.
    pub congestion_control: String,
    /// The day.
    pub day: String,
}

impl Machine {
    /// This one, of which everybody uses this congestion control.
    pub fn this(congestion_control: String) -> Self {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().to_owned()));
            line.map(|line| line.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
        };
        let total = field("/proc/meminfo", "MemTotal");
        let kib: f64 = total.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            n_cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib / 1024.0 / 1024.0,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            congestion_control,
            day: clock::day(clock::unix_time()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cpu, Memory};

    #[test]
    fn softirq_counts_as_work_and_steal_by_itself() {
        let cpu = Cpu::parse("cpu  100 0 200 700 0 10 90 50 0 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(cpu, Cpu { busy: 4.0, steal: 0.5, idle: 7.0 });
        let later = Cpu { busy: 5.0, steal: 0.5, idle: 8.0 };
        assert_eq!(later.since(cpu).share(), 0.5);
    }

    #[test]
    fn memory_is_read_both_ways() {
        let memory = Memory::parse("ab-cd ---p\nRss:   2048 kB\nPss:   1024 kB\n");
        assert_eq!(memory, Memory { resident: 2.0, proportional: 1.0 });
    }
}
