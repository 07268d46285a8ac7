//! What a pod holds open to another while a test does something to them: connections, or connected sockets.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, peer::crowd::Crowd, process::Process};

use crate::scene::CALL;

/// One pod's, to one target.
pub(crate) struct Held {
    process: Process,
    until: PathBuf,
}

impl Held {
    /// Opens `count` by this action of `probe-peer`; returns when all are open. The name tells them from the pod's others.
    pub(crate) fn open(
        lab: &Lab,
        (from, action, name): (&str, &str, &str),
        target: &str,
        count: usize,
    ) -> Result<Self> {
        let name = format!("{action}-{name}");
        let until = lab.directory().join(format!("{}-{name}", from.replace('/', "-")));
        let (program, count) = (lab.binaries().path("probe-peer")?.display().to_string(), count.to_string());
        let arguments = [&program, action, target, "--count", &count, "--until", &until.display().to_string()];
        let mut process = lab.pod(from)?.start(&name, &arguments)?;
        process.says("open", CALL)?;
        Ok(Self { process, until })
    }

    /// Waits until all have ended.
    pub(crate) fn end(mut self) -> Result<Crowd> {
        let status = self.process.wait(CALL)?;
        ensure!(status.success(), "{}", self.process.errors());
        let output = self.process.output();
        Ok(serde_json::from_str(output.lines().last().context("it says what it saw")?)?)
    }

    /// Ends the watch, and looks at what is left.
    pub(crate) fn look(self) -> Result<Crowd> {
        fs::write(&self.until, "")?;
        self.end()
    }
}
