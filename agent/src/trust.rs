//! Keeps what the control plane last said of roots and revoked nodes: on disk too, for an agent that starts while it is away.

use std::sync::Arc;

use millrace_node::{credentials::Trust, wire::mesh};
use prost::Message as _;

use crate::state_dir::StateDir;

const FILE: &str = "trust";

/// What is on disk; None where there is nothing that can be used.
pub(crate) fn load(dir: &StateDir) -> Option<Arc<Trust>> {
    let bytes = dir.read(FILE).unwrap_or_else(|why| {
        tracing::warn!(error = &why as &dyn std::error::Error, "what is believed can't be read from disk");
        None
    })?;
    let message = mesh::Trust::decode(&*bytes).ok();
    let trust = message.and_then(|message| Trust::try_from(message).ok());
    if trust.is_none() {
        tracing::warn!("what is believed can't be used as it is on disk");
    }
    trust.map(Arc::new)
}

/// Puts it on disk.
pub(crate) fn save(dir: &StateDir, trust: &Trust) {
    if let Err(why) = dir.write(FILE, &mesh::Trust::from(trust).encode_to_vec()) {
        tracing::warn!(error = &why as &dyn std::error::Error, "what is believed could not be saved");
    }
}
