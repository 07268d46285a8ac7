//! Takes everything of a node out of the kernel.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    attach::{self, CGROUP, POD_PIN},
    error::AttachError,
    guards, older,
};

/// Removes the links and pins in this directory and in those of other versions beside it, and the directories: connections go
/// their way as if there had been no mesh. A directory that is not there is left already.
pub fn leave(pins: &Path) -> Result<(), AttachError> {
    older::sets(pins)?.iter().try_for_each(|set| leave_one(set))?;
    // The node's directory where there was no set in it, and the one of all nodes with the last of them.
    remove_empty(pins.ancestors().skip(1).take(2))
}

/// One set of pins. Capture ends first, then steering, then what shows the truth.
pub(super) fn leave_one(pins: &Path) -> Result<(), AttachError> {
    let names = names(pins)?;
    let captures = CGROUP.iter().rev().map(|hook| pins.join(attach::cgroup_pin(hook.program)));
    let (connects, shows): (Vec<PathBuf>, Vec<PathBuf>) =
        captures.partition(|pin| pin.to_str().is_some_and(is_entry_pin));
    let pods = names.iter().filter(|pin| is_pod_pin(pin) || is_guard_pin(pin)).cloned();
    for pin in connects.into_iter().chain(pods).chain(shows) {
        attach::detach(&pin).map_err(|source| AttachError::Pin { path: pin, source })?;
    }
    remove(pins)
}

/// Removes pins that nothing is attached by, and their directory.
pub(super) fn remove(pins: &Path) -> Result<(), AttachError> {
    for pin in names(pins)? {
        fs::remove_file(&pin).map_err(|source| AttachError::Pin { path: pin, source })?;
    }
    // The schema's directory and the node's; the node's stays where it holds another schema.
    remove_empty(pins.ancestors().take(2))
}

/// Removes directories, each above the one before, up to the first that holds something.
fn remove_empty<'p>(folders: impl Iterator<Item = &'p Path>) -> Result<(), AttachError> {
    for folder in folders {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(AttachError::Pin { path: folder.to_owned(), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The pins of links here.
pub(super) fn links(pins: &Path) -> Result<Vec<PathBuf>, AttachError> {
    Ok(names(pins)?.into_iter().filter(|pin| older::is_link(pin)).collect())
}

/// The cookies of the pods that have a link pinned here.
pub(super) fn pods(pins: &Path) -> Result<std::collections::BTreeSet<u64>, AttachError> {
    let cookie = |pin: PathBuf| pin.file_name()?.to_str()?.strip_prefix(POD_PIN)?.parse().ok();
    Ok(names(pins)?.into_iter().filter_map(cookie).collect())
}

/// What decides where a call goes, before anything is shown.
fn is_entry_pin(pin: &str) -> bool {
    pin.contains("link_connect") || pin.contains("link_sendmsg")
}

fn is_pod_pin(pin: &Path) -> bool {
    pin.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(POD_PIN))
}

fn is_guard_pin(pin: &Path) -> bool {
    pin.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(guards::PIN))
}

pub(super) fn names(pins: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let why = |source| AttachError::Pin { path: pins.to_owned(), source };
    match fs::read_dir(pins) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(why),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(why(error)),
    }
}
