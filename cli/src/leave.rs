//! Takes this host's kernel programs out, by the agent's own `leave`.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::{
    Ending, Failure,
    config::{Leave, Process},
    program,
};

/// Runs `millrace-agent leave` for the node that `run` with the same flags was.
pub(crate) async fn leave(run_dir: &Path, settings: &Leave) -> Result<Ending, Failure> {
    let Leave { node, state_dir, bpffs, cgroup } = settings;
    let mut command = Command::new(program::beside(Process::Agent)?);
    command.arg("leave").arg("--node").arg(program::node_name(node.as_deref())?);
    command.arg("--run-dir").arg(run_dir).arg("--state-dir").arg(state_dir.join("agent")).arg("--bpffs").arg(bpffs);
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    let status = command.stdin(Stdio::null()).status().await;
    match status.map_err(|why| Failure::Failed(format!("millrace-agent does not start: {why}")))?.success() {
        true => Ok(Ending::Yes),
        false => Ok(Ending::No),
    }
}
