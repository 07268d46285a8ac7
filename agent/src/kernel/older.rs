//! Takes over from pins that another version, or this one with maps of other room, left in force.
//!
//! Every set of pins has a directory of its own beside the others. A new set begins with the maps that mean the same in both,
//! carried over as they are: sockets keep what stands in their storage, and the proxy its descriptors. The rest is filled while
//! the older programs go on by their own maps. Once the new set says all that it should, each link is given its new program in
//! place, one hook after another, and the older pins go. There is no moment in which a hook has no program. What can be lost
//! is a connect that is between its hooks at that moment, and only where HANDOFFS itself could not be carried: it is reset, or
//! comes in as plain text.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use millrace_abi::{SCHEMA, map};

use super::{
    attach::{self, CGROUP, INBOUND, POD_PIN},
    error::AttachError,
    guards, leave,
    maps::{Layout, layouts},
    object::{Kernel, Options, program},
    syscall,
};

/// Since which schema a map means what it means now: what is as old as that is carried over, if it has the same layout. One
/// that is not named here means something new in each schema.
const SINCE: [(&str, u32); 6] = [
    (map::ORIGINAL, 2),
    (map::CLIENT, 2),
    (map::EXEMPT, 2),
    (map::LISTENERS, 2),
    (map::HANDOFFS, 3),
    (map::PENDING, 3),
];

/// Pins of another set, whose programs are in force still.
#[derive(Debug)]
pub(super) struct Older {
    dir: PathBuf,
}

/// Maps that are carried all together or not at all.
const TOGETHER: [&[&str]; 2] = [
    // What decides by one of these decides by the others: a table number in SERVICES is a key in SLOTS. Were some carried and
    // some filled anew, the agent would sweep from the carried ones what it finds unused, under the feet of programs that use
    // it still.
    &[map::PODS, map::DESTS, map::SERVICES, map::SLOTS, map::AFFINITY, map::VERDICTS, map::PROBES, map::STRANGERS],
    // PENDING counts the records of HANDOFFS: a count without its records would never go down.
    &[map::HANDOFFS, map::PENDING],
];

fn failed(path: &Path) -> impl FnOnce(io::Error) -> AttachError {
    let path = path.to_owned();
    |source| AttachError::Pin { path, source }
}

impl Older {
    /// The set that is in force beside `pins`, if one is. Sets that nothing is attached by are removed.
    pub(super) fn find(pins: &Path) -> Result<Option<Self>, AttachError> {
        let mut attached = Vec::new();
        for dir in sets(pins)?.into_iter().filter(|dir| dir != pins) {
            if leave::links(&dir)?.is_empty() {
                tracing::info!(pins = %dir.display(), "pins of another version that nothing rests on are removed");
                leave::remove(&dir)?;
            } else {
                attached.push(dir);
            }
        }
        // Two, where an agent was ended while it took over: the one that captures is in force.
        attached.sort_by_key(|dir| (dir.join(attach::cgroup_pin("connect4")).exists(), dir.clone()));
        Ok(attached.pop().map(|dir| Self { dir }))
    }

    /// Its name, as people see it.
    pub(super) fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Which schema it is of; 0 where its name does not say.
    fn schema(&self) -> u32 {
        let name = self.name();
        let digits = name.trim_start_matches('v').split('-').next().unwrap_or_default();
        digits.parse().unwrap_or(0)
    }

    /// Pins the maps that mean the same in both sets into the new one, before it is loaded.
    pub(super) fn carry(&self, options: &Options) -> Result<(), AttachError> {
        let mut fitting = Vec::new();
        for (name, expected) in layouts(&options.capacities) {
            if self.means_the_same(name) && self.fits(&options.pins, name, expected) {
                fitting.push(name);
            }
        }
        let is_whole = |name| TOGETHER.iter().filter(|set| set.contains(&name)).all(|set| contains_all(&fitting, set));
        for name in fitting.iter().copied().filter(|name| is_whole(*name)) {
            let (old, new) = (self.dir.join(name), options.pins.join(name));
            if !new.exists() {
                let map = syscall::open(&old).map_err(failed(&old))?;
                syscall::pin(map.as_fd(), &new).map_err(failed(&new))?;
                tracing::debug!(map = name, from = self.name(), "a map is carried over");
            }
        }
        Ok(())
    }

    fn means_the_same(&self, map: &str) -> bool {
        let schema = self.schema();
        schema == SCHEMA || SINCE.iter().any(|(name, since)| *name == map && (*since..=SCHEMA).contains(&schema))
    }

    /// True where the older set has a map of this layout, and the new one none, or that very one.
    fn fits(&self, pins: &Path, name: &str, expected: Layout) -> bool {
        let Ok(info) = MapInfo::from_pin(self.dir.join(name)) else { return false };
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        let is_free = match MapInfo::from_pin(pins.join(name)) {
            Ok(own) => own.id() == info.id(),
            Err(_) => !pins.join(name).exists(),
        };
        is_free && (Layout { key, value, capacity: info.max_entries() }) == expected
    }

    /// The cookies of the namespaces that it steers in.
    pub(super) fn pods(&self) -> Result<std::collections::BTreeSet<u64>, AttachError> {
        leave::pods(&self.dir)
    }

    pub(super) fn steers_in(&self, cookie: u64) -> bool {
        self.dir.join(attach::pod_pin(cookie)).exists()
    }

    pub(super) fn detach_pod(&self, cookie: u64) -> Result<(), AttachError> {
        let pin = self.dir.join(attach::pod_pin(cookie));
        attach::detach(&pin).map_err(failed(&pin))
    }
}

impl Kernel {
    /// The name of the older set of pins whose programs are in force still, if there is one.
    pub fn older(&self) -> Option<String> {
        self.older.as_ref().map(Older::name)
    }

    /// Puts this version's programs in force in place of the older set's. Call it once the maps hold what they should.
    pub fn take_over(&mut self) -> Result<(), AttachError> {
        let Some(older) = &self.older else { return Ok(()) };
        let (from, name, cookies) = (older.dir.clone(), older.name(), older.pods()?);
        // Who arrives is asked by the new programs first: they know whom the older ones vouch for, where HANDOFFS is carried.
        for cookie in cookies {
            let pin = attach::pod_pin(cookie);
            if hand_on(&from, &self.pins, &pin)? {
                let program = program(&mut self.ebpf, &INBOUND)?;
                attach::renew(program.as_fd(), &self.pins.join(&pin)).map_err(failed(&self.pins.join(&pin)))?;
            }
        }
        for hook in &CGROUP {
            hand_on(&from, &self.pins, &attach::cgroup_pin(hook.program))?;
        }
        self.attach_cgroup()?;
        // Interfaces that the agent guards have a link of the new set by now: the older ones go with the rest.
        leave::leave_one(&from)?;
        self.older = None;
        tracing::info!(from = name, "this version's kernel programs are in force");
        Ok(())
    }
}

/// Moves a link's pin; false where there is none. Where the new set has one already, the older is let go.
fn hand_on(from: &Path, to: &Path, pin: &str) -> Result<bool, AttachError> {
    let (old, new) = (from.join(pin), to.join(pin));
    if !old.exists() {
        return Ok(false);
    }
    if new.exists() {
        attach::detach(&old).map_err(failed(&old))?;
        return Ok(true);
    }
    let link = syscall::open(&old).map_err(failed(&old))?;
    syscall::pin(link.as_fd(), &new).map_err(failed(&new))?;
    fs::remove_file(&old).map_err(failed(&old))?;
    Ok(true)
}

fn contains_all(names: &[&str], wanted: &[&str]) -> bool {
    wanted.iter().all(|name| names.contains(name))
}

/// Every set of pins of the node that `pins` is one of.
pub(super) fn sets(pins: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let Some(node) = pins.parent() else { return Ok(Vec::new()) };
    let entries = match fs::read_dir(node) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(node)(error)),
    };
    let is_set = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with('v'));
    let mut sets = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed(node))?;
        if is_set(&entry.file_name()) {
            sets.push(entry.path());
        }
    }
    sets.sort();
    Ok(sets)
}

/// True for the pin of a link.
pub(super) fn is_link(pin: &Path) -> bool {
    let name = pin.file_name().and_then(OsStr::to_str).unwrap_or_default();
    [POD_PIN, guards::PIN, "link_"].iter().any(|start| name.starts_with(start))
}
