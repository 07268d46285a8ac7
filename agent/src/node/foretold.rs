//! Has the node work by what it sees of its own pods before the control plane has heard of it: a pod's address is on its network before
//! its first container starts, and in the API server a second after.
//!
//! What is put in is what the control plane will say, to the letter: as it does, nothing changes. Proxies are told nothing of it; what
//! a pod sends through them meanwhile waits in its listeners.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::{Membership, Mesh, ObjectName, Snapshot, Workload, workload::instance};

use super::Node;
use crate::{
    kubelet::{Company, Sandboxes},
    pods::Pod,
};

impl Node {
    /// The Mesh that was heard, with what is seen here.
    pub(super) fn seen(&self, heard: &Arc<Mesh>) -> Arc<Mesh> {
        foretold(heard, &self.name, &self.sandboxes)
    }

    /// Has those pods looked for whose manifests don't say where they are.
    pub(super) fn seek(&self) {
        let local = self.heard.on(&self.name);
        let sought: BTreeSet<ObjectName> = local.filter(|w| self.pods.is_sought(w)).map(|w| w.name.clone()).collect();
        self.outputs.sought.send_if_modified(|held| {
            let is_new = **held != sought;
            if is_new {
                *held = Arc::new(sought);
            }
            is_new
        });
    }

    /// Takes in where pods are.
    pub(super) async fn found(&mut self, sandboxes: Arc<Sandboxes>) {
        self.sandboxes = sandboxes.clone();
        self.pods.hear(sandboxes);
        if self.heard.snapshot.generation == 0 {
            return;
        }
        self.mesh = self.seen(&self.heard);
        self.names.turn(&self.mesh);
        if self.pods.sync(&self.mesh, &mut self.kernel).await {
            self.due.get_or_insert_with(millrace_node::clock::now);
        }
        self.offer();
    }
}

/// Whether the control plane has said of this pod what is held here.
pub(super) fn is_told(heard: &Mesh, pod: &Pod) -> bool {
    let told = heard.snapshot.workloads.get(&pod.workload.name);
    told.is_some_and(|told| told.instance == pod.workload.instance)
}

/// `heard`, with the addresses of this node's pods that were found and have none in it.
fn foretold(heard: &Arc<Mesh>, node: &str, sandboxes: &Sandboxes) -> Arc<Mesh> {
    let local = heard.on(node);
    let told: Vec<Workload> = local.filter_map(|workload| addressed(heard, workload, sandboxes)).collect();
    if told.is_empty() {
        return heard.clone();
    }
    let mut snapshot = Snapshot::clone(&heard.snapshot);
    snapshot.workloads.extend(told.into_iter().map(|workload| (workload.name.clone(), Arc::new(workload))));
    Arc::new(heard.turned(Arc::new(snapshot)))
}

/// The workload as the control plane will tell it. None where it has told, where there is nothing to tell, where what is there may be the
/// pod's own doing, and where somebody has the address.
fn addressed(heard: &Mesh, workload: &Workload, sandboxes: &Sandboxes) -> Option<Workload> {
    if workload.netns.is_some() || !workload.addresses.is_empty() {
        return None;
    }
    let own = sandboxes.own(&workload.name)?;
    let may = match (workload.membership, own.company) {
        (Membership::Host, _) => false,
        // Nobody goes by its address.
        (Membership::Outside, _) | (Membership::Pending | Membership::Enrolled, Company::Nobody) => true,
        (Membership::Pending | Membership::Enrolled, Company::Others) => false,
    };
    let is_free = own.addresses.iter().all(|address| heard.workload_at(*address).is_none());
    (may && is_free && !own.addresses.is_empty()).then(|| Workload {
        instance: instance(&workload.node, &workload.identity.service_account, None, &own.addresses),
        addresses: own.addresses.clone(),
        ..workload.clone()
    })
}

#[cfg(test)]
mod tests;
