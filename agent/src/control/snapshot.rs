//! Keeps the last Snapshot on disk, so that a node that starts without a control plane knows what it knew: a whole one, and a journal
//! of the differences since. A change costs what it changes; the whole is written anew when the journal is as long as it.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_model::{Delta, Mesh, Snapshot, name::stable_id};
use millrace_node::wire::{decode_snapshot, decode_update, encode_snapshot, encode_update};
use tokio::{sync::watch, task::JoinError};

use crate::state_dir::StateDir;

const FILE: &str = "snapshot";
const JOURNAL: &str = "snapshot.journal";

/// At most one sync a second: what is not synced is lost with the machine alone, and the kernel's maps are lost with it.
const PACE: Duration = Duration::from_secs(1);

/// A journal this short is never too long: less than one block of most disks' writes.
const SHORT: usize = 64 * 1024;

/// Differences in one journal at most: what an agent reads as it starts.
const MOST: usize = 4096;

/// The Snapshot on disk; the empty one where there is none that can be read.
pub fn load(dir: &StateDir) -> Snapshot {
    let whole = match dir.read(FILE) {
        Ok(None) => return Snapshot::default(),
        Ok(Some(bytes)) => decode_snapshot(bytes.into()).unwrap_or_else(|why| {
            tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot on disk can't be read");
            Snapshot::default()
        }),
        Err(why) => {
            tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot on disk can't be read");
            Snapshot::default()
        }
    };
    match dir.read(JOURNAL) {
        Ok(journal) => replay(whole, &journal.unwrap_or_default()),
        Err(why) => {
            tracing::warn!(error = &why as &dyn std::error::Error, "the journal of the snapshot can't be read");
            whole
        }
    }
}

/// What a Snapshot becomes by a journal, as far as that goes: to the first entry that was cut short, or is of another Snapshot.
fn replay(mut snapshot: Snapshot, mut journal: &[u8]) -> Snapshot {
    while let Some((entry, rest)) = entry(journal) {
        let Ok(delta) = decode_update(Bytes::copy_from_slice(entry)) else { return snapshot };
        // One from the empty Snapshot would fit any: it has no place in a journal.
        if delta.from == 0 || delta.from != snapshot.generation {
            return snapshot;
        }
        let Ok(next) = snapshot.apply(&delta) else { return snapshot };
        (snapshot, journal) = (next, rest);
    }
    snapshot
}

/// An entry, and what is behind it.
type Split<'j> = (&'j [u8], &'j [u8]);

/// The first entry of a journal, and what is behind it; None where it is not whole. An entry is its length, what it hashes to,
/// and an Update.
fn entry(journal: &[u8]) -> Option<Split<'_>> {
    let (length, rest) = journal.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_first_chunk::<8>()?;
    let (entry, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (stable_id(&[entry]) == u64::from_be_bytes(*hash)).then_some((entry, rest))
}

fn as_entry(update: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(update.len()).ok()?;
    Some([&length.to_be_bytes()[..], &stable_id(&[update]).to_be_bytes(), update].concat())
}

/// The difference of a Snapshot to the one that was before it, as messages carry it.
#[derive(Debug)]
pub struct Step {
    /// The generation of that one.
    pub from: u64,
    /// An Update.
    pub update: Vec<u8>,
}

impl Step {
    /// From `before` to `now`; None from the empty Snapshot, of which all others differ wholly.
    pub fn between(before: &Snapshot, now: &Snapshot) -> Option<Self> {
        let from = Some(before.generation).filter(|from| *from != 0)?;
        Some(Self { from, update: encode_update(&Delta::between(before, now)) })
    }
}

/// What is on disk.
#[derive(Debug)]
pub struct Kept {
    dir: StateDir,
    /// The generation that can be read there; None where that is not certain.
    generation: Option<u64>,
    n_whole: usize,
    n_journal: usize,
    n_entries: usize,
}

impl Kept {
    /// What an agent before this one left is not gone on with: its last entry may be cut short.
    pub fn new(dir: StateDir) -> Self {
        Self { dir, generation: None, n_whole: 0, n_journal: 0, n_entries: 0 }
    }

    /// Puts `now`, to which `step` leads, on disk. Called before anything acts by it: an agent that is killed at any moment finds
    /// nothing in the kernel's maps that is newer than what it finds here, and so turns nothing back.
    pub async fn keep(&mut self, step: Option<&Step>, now: &Snapshot) {
        let entry = step.and_then(|step| self.entry(step));
        // Until it is certain.
        self.generation = None;
        let (dir, is_entry) = (self.dir.clone(), entry.is_some());
        let bytes = entry.unwrap_or_else(|| encode_snapshot(now));
        let n = bytes.len();
        let written = tokio::task::spawn_blocking(move || {
            if is_entry {
                return dir.append(JOURNAL, &bytes);
            }
            dir.replace(FILE, &bytes)?;
            // In this order: a journal of a Snapshot before fits no other, and is passed over.
            dir.replace(JOURNAL, &[])
        });
        if !told(written.await) {
            return;
        }
        self.generation = Some(now.generation);
        if is_entry {
            self.n_journal += n;
            self.n_entries += 1;
        } else {
            (self.n_whole, self.n_journal, self.n_entries) = (n, 0, 0);
        }
    }

    /// The journal's entry that takes this step; None where the whole is to be written.
    fn entry(&self, step: &Step) -> Option<Vec<u8>> {
        if self.generation != Some(step.from) || self.n_entries >= MOST {
            return None;
        }
        let entry = as_entry(&step.update)?;
        (self.n_journal + entry.len() <= self.n_whole.max(SHORT)).then_some(entry)
    }
}

/// Makes each Snapshot that was put on disk outlive a crash of the machine, until the process ends.
pub async fn sync(dir: StateDir, mut mesh: watch::Receiver<Arc<Mesh>>) {
    while mesh.changed().await.is_ok() {
        tokio::time::sleep(PACE).await;
        if mesh.borrow_and_update().snapshot.generation == 0 {
            continue;
        }
        let dir = dir.clone();
        told(tokio::task::spawn_blocking(move || dir.sync(FILE).and_then(|()| dir.sync(JOURNAL))).await);
    }
}

/// True where it was written.
fn told(written: Result<io::Result<()>, JoinError>) -> bool {
    match written {
        Ok(Ok(())) => return true,
        Ok(Err(why)) => tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot could not be saved"),
        Err(why) => tracing::error!(error = &why as &dyn std::error::Error, "saving the snapshot broke off"),
    }
    false
}

#[cfg(test)]
mod tests;
