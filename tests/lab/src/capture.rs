//! Captures what passes a node's uplink, by a real tcpdump, and reads the file while it grows.

pub mod packets;
pub mod tls;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use crate::{clock, lab::Lab, process::Process};
use packets::{Flow, flows};

/// How long tcpdump may take to start.
const START: Duration = Duration::from_secs(10);

/// A capture that runs until it is dropped.
#[derive(Debug)]
pub struct Capture {
    file: PathBuf,
    _tcpdump: Process,
}

impl Lab {
    /// Starts to capture TCP on a node's uplink; returns when packets are being taken.
    pub fn capture(&self, node: &str, name: &str) -> Result<Capture> {
        let file = self.directory().join(format!("{node}-{name}.pcap"));
        let mut command = self.place(node)?.command("tcpdump")?;
        // Each packet is written at once; a buffer large enough that none is lost between two writes.
        command.args(["-i", "eth0", "-n", "-U", "--immediate-mode", "-B", "32768", "-Z", "root", "-w"]);
        command.arg(&file).arg("tcp");
        let mut tcpdump = Process::start(command, &format!("{node}-{name}-tcpdump"), &self.logs())?;
        clock::until(START, "tcpdump listens", || {
            tcpdump.still_runs()?;
            if tcpdump.errors().contains("listening on") { Ok(()) } else { bail!("{}", tcpdump.errors()) }
        })?;
        Ok(Capture { file, _tcpdump: tcpdump })
    }
}

impl Capture {
    /// All TCP streams so far, one per direction.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        Ok(flows(&fs::read(&self.file)?))
    }

    /// Waits until `look` finds in the streams what it looks for.
    pub fn shows<T>(&self, patience: Duration, what: &str, mut look: impl FnMut(&[Flow]) -> Result<T>) -> Result<T> {
        Ok(clock::until(patience, what, || look(&self.flows()?))?.0)
    }

    /// Where the file is.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }
}
