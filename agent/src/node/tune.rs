//! Tunes the node by its NodeProfile, and puts this version's kernel programs in force where an older one's were.

use std::sync::Arc;

use millrace_abi::Tuning;
use millrace_model::NodeProfile;
use millrace_node::wire::node::Settings;

use super::{Node, Settled};
use crate::{
    kernel::tune::has_algorithm,
    pods::chain,
    tuning::{self, Tuned},
};

/// What the kernel's programs were asked, and by which profile.
#[derive(Default)]
pub(super) struct Asked {
    profile: Option<Arc<NodeProfile>>,
    /// None until it was written once: an older agent may have written something else.
    tuning: Option<Tuning>,
    /// What can't be had.
    pub(super) failures: Vec<String>,
}

impl Node {
    fn profile(&self) -> Option<&Arc<NodeProfile>> {
        self.mesh.snapshot.profiles.get(&self.name)
    }

    /// What the proxy is asked.
    pub(super) fn settings(&self) -> Settings {
        self.profile().map_or_else(Settings::default, |profile| tuning::settings(profile))
    }

    /// Has the kernel's programs tune connections as the profile says.
    pub(super) fn tune(&mut self) {
        let profile = self.profile().cloned();
        if self.asked.tuning.is_some() && self.asked.profile == profile {
            return;
        }
        let (tuning, failures) = tuning::of_kernel(&profile.clone().unwrap_or_default(), has_algorithm);
        for failure in &failures {
            tracing::error!("{failure}");
        }
        match self.kernel.tune(&tuning) {
            Ok(()) => self.asked = Asked { profile, tuning: Some(tuning), failures },
            Err(why) => self.asked.failures = vec![chain(&why)],
        }
    }

    /// How the node is tuned.
    pub(super) fn tuned(&self) -> Tuned {
        let proxy = self.proxies.serving().map(|peer| peer.in_force.as_slice());
        let kernel = self.asked.tuning.unwrap_or_default();
        tuning::tuned(self.profile().map(|profile| &**profile), proxy, (self.kernel.capacities(), &kernel))
    }

    /// Once the maps say what they should of every pod: this version's programs, in place of an older set's.
    pub(super) fn take_over(&mut self) {
        if self.kernel.older().is_none() || self.settled == Settled::No || self.due.is_some() {
            return;
        }
        if let Err(why) = self.kernel.take_over() {
            tracing::error!(error = &why as &dyn std::error::Error, "the older kernel programs can't be replaced yet");
        }
    }

    /// What is not as it should be of the node's own making.
    pub(super) fn tuning_failures(&self) -> Vec<String> {
        let older = self.kernel.older().map(|older| {
            format!(
                "the kernel programs of pins {older} are in force until this version's maps say all that they should"
            )
        });
        self.asked.failures.iter().cloned().chain(older).collect()
    }
}
