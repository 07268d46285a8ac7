//! Makes and removes the cgroup2 subtree of a lab: a directory per node, one below it per pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::clock;

/// How long killed processes may take to be gone: they have no reason to linger, but a loaded machine does.
const DEATH: Duration = Duration::from_secs(10);

/// Where cgroup2 is mounted: `/sys/fs/cgroup` on most machines, below it on hybrid ones.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    });
    found.context("no cgroup2 is mounted: the mesh attaches to one")
}

/// The subtree of the lab with this number.
pub fn of_lab(number: u32) -> Result<PathBuf> {
    Ok(root()?.join(format!("millrace-lab-{number}")))
}

/// Makes a cgroup and those above it.
pub fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make cgroup {}", path.display()))
}

/// Kills whoever is in a subtree, such as a lab's, and removes it.
pub fn remove(top: &Path) -> Result<()> {
    if !top.exists() {
        return Ok(());
    }
    fs::write(top.join("cgroup.kill"), "1").with_context(|| format!("kill what is left in {}", top.display()))?;
    clock::until(DEATH, "its processes end", || {
        let events = fs::read_to_string(top.join("cgroup.events"))?;
        ensure!(events.contains("populated 0"), "some still run");
        Ok(())
    })?;
    remove_tree(top).with_context(|| format!("remove cgroup {}", top.display()))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
