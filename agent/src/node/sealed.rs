//! Holds what proxies are given to serve by: the difference to the Snapshot before, for those that were given that, and the whole for
//! all others, which is made when it is asked for.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use millrace_model::Snapshot;
use millrace_node::{handover::seal, wire::encode_snapshot};

use crate::control::Step;

/// A Snapshot for proxies.
pub struct Sealed {
    snapshot: Arc<Snapshot>,
    /// From which generation, and the difference; None where there is none.
    step: Option<(u64, Arc<OwnedFd>)>,
    whole: OnceLock<Option<Arc<OwnedFd>>>,
}

impl Sealed {
    /// What `step` leads to.
    pub fn new(step: Option<&Step>, now: &Arc<Snapshot>) -> Self {
        let step = step.filter(|step| step.from != now.generation);
        let step = step.and_then(|step| Some((step.from, sealed(&step.update)?)));
        Self { snapshot: now.clone(), step, whole: OnceLock::new() }
    }

    /// For a proxy that holds this generation, if any: from which it goes on, 0 for the whole.
    pub fn since(&self, held: Option<u64>) -> Option<(u64, Arc<OwnedFd>)> {
        match &self.step {
            Some((from, step)) if held == Some(*from) => Some((*from, step.clone())),
            Some(_) | None => {
                let whole = self.whole.get_or_init(|| sealed(&encode_snapshot(&self.snapshot)));
                whole.clone().map(|whole| (0, whole))
            }
        }
    }
}

fn sealed(bytes: &[u8]) -> Option<Arc<OwnedFd>> {
    match seal("millrace-snapshot", bytes) {
        Ok(sealed) => Some(Arc::new(sealed)),
        Err(why) => {
            tracing::error!(error = &why as &dyn std::error::Error, "the snapshot can't be passed to the proxy");
            None
        }
    }
}
