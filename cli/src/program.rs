//! Finds the other programs of Millrace beside this one, and the name of this host.

use std::path::PathBuf;

use crate::{Failure, config::Process};

/// The path of a process's program: in the directory of the one that runs, so that versions stay together.
pub(crate) fn beside(process: Process) -> Result<PathBuf, Failure> {
    named(process.name())
}

/// The path of the program that holds listeners.
pub(crate) fn holder() -> Result<PathBuf, Failure> {
    named("holder")
}

fn named(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|why| Failure::Failed(format!("this program's path: {why}")))?;
    let path = own.with_file_name(format!("millrace-{name}"));
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Failed(format!("{} is not there: build or install it beside millrace", path.display())))
}

/// The node's name: what was given, or the host's own.
pub(crate) fn node_name(given: Option<&str>) -> Result<String, Failure> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase(),
    };
    let valid = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    if valid {
        return Ok(name);
    }
    Err(Failure::Usage(format!("{name:?} is no name for a node (a-z, 0-9, '.', '-'): give another by --node")))
}
