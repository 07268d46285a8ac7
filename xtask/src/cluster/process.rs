//! Starts processes that outlive this one, remembers each by number and start, and ends those and no others.
//!
//! A number alone may mean another process by now: the kernel's start time beside it tells.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::place::Place;
use crate::clock;

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a process that was told to end is looked at: it is no child of ours, so its end is no event.
const LOOK: Duration = Duration::from_millis(20);
/// Where `/proc/<pid>/stat` has the start time, counted behind the name.
const START_FIELD: usize = 19;

/// A process, for good: no other ever has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    /// Its number.
    pub(super) pid: u32,
    start: u64,
}

/// A process of a cluster that runs.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// What it is in the cluster.
    pub(super) name: String,
    /// When it was started, among the cluster's.
    pub(super) order: u32,
    /// Which process.
    pub(super) id: Id,
}

impl Id {
    /// The process that has this number now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let start = start(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, start })
    }

    /// As it is kept in a file.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.pid, self.start)
    }

    /// What such a file says.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    /// True until it has ended.
    pub(super) fn lives(&self) -> bool {
        start(self.pid) == Some(self.start)
    }

    /// Returns when it has ended.
    pub(super) fn ended(&self) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error).context("cannot watch the cluster's owner"),
        };
        // Asked after it was opened: the number may have been given to another process before.
        if self.lives() {
            poll(&mut [PollFd::new(&process, PollFlags::IN)], None).context("cannot wait for the cluster's owner")?;
        }
        Ok(())
    }

    /// The memory it holds.
    pub(super) fn resident_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        kib.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
    }
}

/// When the process was started, in the kernel's ticks; None for one that has ended, though nobody waited for it yet.
fn start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets too.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(START_FIELD - 1)?.parse().ok()
}

impl Running {
    /// Ends it, and waits until it has.
    pub(super) fn end(&self) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(pid) = i32::try_from(self.id.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
            if !self.id.lives() {
                return Ok(());
            }
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot end {}", self.name)),
            }
            let deadline = clock::now() + PATIENCE;
            while self.id.lives() && clock::now() < deadline {
                thread::sleep(LOOK);
            }
        }
        if self.id.lives() { bail!("{}, process {}, does not end", self.name, self.id.pid) } else { Ok(()) }
    }
}

/// The cluster's processes that run.
pub(super) fn running(place: &Place) -> Result<Vec<Running>> {
    Ok(started(place)?.into_iter().filter(|one| one.id.lives()).collect())
}

/// The names of those that were started and have ended.
pub(super) fn ended(place: &Place) -> Result<Vec<String>> {
    Ok(started(place)?.into_iter().filter(|one| !one.id.lives()).map(|one| one.name).collect())
}

fn started(place: &Place) -> Result<Vec<Running>> {
    let folder = place.folder.join("processes");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut running = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some((order, name)) = file.split_once('-') else { continue };
        let Some(id) = Id::parse(&fs::read_to_string(entry.path())?) else { continue };
        running.push(Running { name: name.to_owned(), order: order.parse().unwrap_or_default(), id });
    }
    running.sort_by_key(|one| one.order);
    Ok(running)
}

/// Starts the command as the cluster's process of this name, unless that runs already.
pub(super) fn start_once(place: &Place, (order, name): (u32, &str), command: &mut Command) -> Result<()> {
    if running(place)?.iter().any(|one| one.name == name) {
        return Ok(());
    }
    let log = log(place, name).with_context(|| format!("the log of {name}"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A group of its own: Ctrl-C at the terminal that started it is not for it.
    let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
    let id = Id::of(child.id()).with_context(|| format!("{name} ended at once: see its log"))?;
    fs::write(place.folder.join("processes").join(format!("{order}-{name}")), id.text())?;
    Ok(())
}

/// Whether this process of the cluster runs.
pub(super) fn runs(place: &Place, name: &str) -> Result<bool> {
    Ok(running(place)?.iter().any(|one| one.name == name))
}

fn log(place: &Place, name: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(place.folder.join("logs").join(format!("{name}.log")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Id;

    #[test]
    fn a_process_is_known_by_its_start_as_well_as_its_number() {
        let own = Id::of(std::process::id()).unwrap();
        assert!(own.lives());
        assert_eq!(Id::parse(&own.text()), Some(own.clone()));
        let other = Id { start: own.start + 1, ..own };
        assert!(!other.lives(), "the number was given to another process since");
    }

    #[test]
    fn a_process_that_ended_and_was_not_waited_for_does_not_live() {
        let mut child = Command::new("true").spawn().unwrap();
        let id = Id::of(child.id());
        child.wait().unwrap();
        assert!(id.map_or(true, |id| !id.lives()));
    }
}
