//! Gives each lab a number that no other lab on this machine has, and removes what labs left that died without cleaning up.
//!
//! A lab holds an flock on `/run/millrace-lab/<number>.lock` while it lives: whoever gets that lock knows that the owner is gone.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::{cgroup, network};

/// Where labs keep what they have on disk.
const ROOT: &str = "/run/millrace-lab";

/// The most labs at once; a machine that runs this many has leaked them.
const MAX_LABS: u32 = 64;

/// In a lab's directory: whoever started it wants it to outlive the process.
const KEPT: &str = "kept";

/// A lab's number and directory; both are free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    _lock: File,
}

impl Slot {
    /// Takes the smallest free number, after sweeping what dead labs left.
    pub fn take() -> Result<Self> {
        fs::create_dir_all(ROOT).with_context(|| format!("the lab needs root, to make {ROOT}"))?;
        let mut taken = None;
        for number in 0..MAX_LABS {
            if taken.is_some() && !Self::lock_path(number).exists() {
                break;
            }
            let Some(slot) = Self::lock(number)? else { continue };
            if slot.directory().join(KEPT).exists() {
                continue;
            }
            sweep(number)?;
            if taken.is_none() {
                fs::create_dir_all(slot.directory())?;
                taken = Some(slot);
            }
        }
        match taken {
            Some(slot) => Ok(slot),
            None => bail!("all {MAX_LABS} labs of this machine are in use; `millrace-demo down` removes kept ones"),
        }
    }

    /// The slot of this number; None while its owner lives.
    fn lock(number: u32) -> Result<Option<Self>> {
        let path = Self::lock_path(number);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { number, _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    fn lock_path(number: u32) -> PathBuf {
        Path::new(ROOT).join(format!("{number}.lock"))
    }

    /// The number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The lab's own directory.
    pub fn directory(&self) -> PathBuf {
        directory(self.number)
    }

    /// Lets the lab outlive this process.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.directory().join(KEPT), "")?;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.directory().join(KEPT).exists() {
            // What can't be removed now is swept by the next lab, which says so if it fails too.
            drop(sweep(self.number));
        }
    }
}

/// The directory of the lab with this number.
pub fn directory(number: u32) -> PathBuf {
    Path::new(ROOT).join(number.to_string())
}

/// The directories of all labs there are, in the order of their numbers.
pub fn directories() -> Vec<PathBuf> {
    (0..MAX_LABS).map(directory).filter(|directory| directory.exists()).collect()
}

/// The numbers of labs whose owner is gone but that were kept.
pub fn kept() -> Vec<u32> {
    (0..MAX_LABS).filter(|number| directory(*number).join(KEPT).exists()).collect()
}

/// Removes every kept lab whose owner is gone, and says which.
pub fn remove_kept() -> Result<Vec<u32>> {
    let mut removed = Vec::new();
    for number in kept() {
        if Slot::lock(number)?.is_some() {
            sweep(number)?;
            removed.push(number);
        }
    }
    Ok(removed)
}

/// Removes all that a lab of this number has: processes first, for they hold the rest.
fn sweep(number: u32) -> Result<()> {
    let directory = directory(number);
    cgroup::remove(&cgroup::of_lab(number)?)?;
    network::remove(&network::prefix(number))?;
    if directory.exists() {
        unmount_below(&directory)?;
        fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}

fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut below: Vec<&Path> = targets.filter(|target| target.starts_with(directory)).collect();
    below.reverse(); // Inner mounts come later in the list.
    for target in below {
        rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", target.display()))?;
    }
    Ok(())
}
