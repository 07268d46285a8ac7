//! Keeps the last Snapshot on disk, so that a node that starts without a control plane knows what it knew.

use std::{io, sync::Arc, time::Duration};

use millrace_model::{Mesh, Snapshot};
use millrace_node::wire::decode_snapshot;
use tokio::{sync::watch, task::JoinError};

use crate::state_dir::StateDir;

const FILE: &str = "snapshot";

/// At most one sync a second: what is not synced is lost with the machine alone, and the kernel's maps are lost with it.
const PACE: Duration = Duration::from_secs(1);

/// The Snapshot on disk; the empty one where there is none that can be read.
pub fn load(dir: &StateDir) -> Snapshot {
    match dir.read(FILE) {
        Ok(None) => Snapshot::default(),
        Ok(Some(bytes)) => decode_snapshot(&bytes).unwrap_or_else(|why| {
            tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot on disk can't be read");
            Snapshot::default()
        }),
        Err(why) => {
            tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot on disk can't be read");
            Snapshot::default()
        }
    }
}

/// Puts the Snapshot on disk. Called before anything acts by it: an agent that is killed at any moment finds nothing
/// in the kernel's maps that is newer than what it finds here, and so turns nothing back.
pub async fn replace(dir: &StateDir, bytes: Vec<u8>) {
    let dir = dir.clone();
    told(tokio::task::spawn_blocking(move || dir.replace(FILE, &bytes)).await);
}

/// Makes each Snapshot that was put on disk outlive a crash of the machine, until the process ends.
pub async fn sync(dir: StateDir, mut mesh: watch::Receiver<Arc<Mesh>>) {
    while mesh.changed().await.is_ok() {
        tokio::time::sleep(PACE).await;
        if mesh.borrow_and_update().snapshot.generation == 0 {
            continue;
        }
        let dir = dir.clone();
        told(tokio::task::spawn_blocking(move || dir.sync(FILE)).await);
    }
}

fn told(written: Result<io::Result<()>, JoinError>) {
    match written {
        Ok(Ok(())) => {}
        Ok(Err(why)) => tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot could not be saved"),
        Err(why) => tracing::error!(error = &why as &dyn std::error::Error, "saving the snapshot broke off"),
    }
}
