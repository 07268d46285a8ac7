//! Keeps the last Snapshot on disk, so that a node that starts without a control plane knows what it knew.

use std::{sync::Arc, time::Duration};

use millrace_model::{Mesh, Snapshot};
use millrace_node::wire::{decode_snapshot, encode_snapshot};
use tokio::sync::watch;

use crate::state_dir::StateDir;

const FILE: &str = "snapshot";

/// At most one write a second: each is the whole Snapshot and two fsyncs, and only the last one is ever read.
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

/// Writes each new Snapshot until the process ends.
pub async fn save(dir: StateDir, mut mesh: watch::Receiver<Arc<Mesh>>) {
    while mesh.changed().await.is_ok() {
        let snapshot = mesh.borrow_and_update().snapshot.clone();
        let dir = dir.clone();
        let written = tokio::task::spawn_blocking(move || dir.write(FILE, &encode_snapshot(&snapshot))).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(error = &why as &dyn std::error::Error, "the snapshot could not be saved"),
            Err(why) => tracing::error!(error = &why as &dyn std::error::Error, "saving the snapshot broke off"),
        }
        tokio::time::sleep(PACE).await;
    }
}
