//! Guards the host's ends of pods' interfaces against forged packets: a tcx link for each, pinned, and what it judges by.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use millrace_abi::Guard;

use super::{
    attach::{self, SPOOF},
    error::AttachError,
    leave,
    maps::MapError,
    object::{Kernel, program},
};

/// How the pins of guards' links begin.
pub(super) const PIN: &str = "guard_";

/// The pin of one.
pub(super) fn pin(interface: u32) -> String {
    format!("{PIN}{interface}")
}

/// The indexes of the interfaces that have a link pinned here.
pub(super) fn pinned(pins: &Path) -> Result<Vec<u32>, AttachError> {
    let index = |pin: PathBuf| pin.file_name()?.to_str()?.strip_prefix(PIN)?.parse().ok();
    Ok(leave::names(pins)?.into_iter().filter_map(index).collect())
}

impl Kernel {
    /// Judges what comes from a pod by this interface of the calling thread's namespace, from now on.
    pub fn guard(&mut self, interface: u32, guard: &Guard) -> Result<(), AttachError> {
        // First what is judged by: a link without it would judge nothing.
        self.tables.guards.set(&interface, guard)?;
        let pin = self.pins.join(pin(interface));
        attach::to_device(&SPOOF, program(&mut self.ebpf, &SPOOF)?.as_fd(), interface, &pin)
    }

    /// Judges nothing that comes by this interface any more. It may be gone.
    pub fn unguard(&mut self, interface: u32) -> Result<(), AttachError> {
        let path = self.pins.join(pin(interface));
        attach::detach(&path).map_err(|source| AttachError::Pin { path, source })?;
        Ok(self.tables.guards.remove(&interface)?)
    }

    /// What is judged by now, of interfaces that have a link, by this agent or one before it.
    pub fn guards(&self) -> Result<BTreeMap<u32, Guard>, AttachError> {
        let held: BTreeMap<u32, Guard> = self.tables.guards.all().map_err(|why: MapError| AttachError::from(why))?;
        let linked = pinned(&self.pins)?;
        Ok(held.into_iter().filter(|(interface, _)| linked.contains(interface)).collect())
    }
}
