//! Removes what runs of these tests left that were killed before they could clean up: pins, cgroups, namespaces.
//!
//! Their names hold the process that made them. Where there is no such process any more nobody needs them; where its number
//! was given to another meanwhile, they stay until that one has ended too.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use millrace_lab::{cgroup, network};

use super::chain;

/// How all names begin.
pub(super) const PREFIX: &str = "mrk-";

/// Where nodes' pins are, a directory each.
pub(super) const PINS: &str = "/sys/fs/bpf/millrace";

/// Removes all that is nobody's. What can't be removed is said, and left to the next run.
pub(crate) fn sweep(cgroup2: &Path) {
    let pins = names(Path::new(PINS));
    let all = [pins.clone(), names(cgroup2), network::names()].concat();
    let owners: BTreeSet<u32> = all.iter().filter_map(|name| owner(name)).collect();
    for gone in owners.into_iter().filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
        for node in pins.iter().filter(|name| owner(name) == Some(gone)) {
            let sets: PathBuf = Path::new(PINS).join(node).join("any");
            if let Err(error) = millrace_agent::kernel::leave(&sets) {
                eprintln!("{}: {}", sets.display(), chain(&error));
            }
        }
        let prefix = format!("{PREFIX}{gone}");
        let removed = cgroup::remove(&cgroup2.join(&prefix)).and_then(|()| network::remove(&format!("{prefix}-")));
        if let Err(error) = removed {
            eprintln!("what process {gone} left stays: {error:#}");
        }
    }
}

/// The process that made what has this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
