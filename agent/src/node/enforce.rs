//! Makes the kernel do as the Snapshot says: writes its maps, lets go of pods that left, and closes live connections that
//! the maps would now refuse.

use millrace_node::clock;

use super::{Node, moment};
use crate::{
    flows,
    kernel::{
        plan::want,
        reconcile::{Outcome, reconcile},
    },
    pods::chain,
    revoke::{self, Revoked, may_revoke, revoked},
};

impl Node {
    /// Makes the kernel's maps hold what they should.
    pub(super) async fn enforce(&mut self) {
        self.due = None;
        let began = clock::now();
        self.have.listeners.extend(self.pods.steered());
        let wanted = want(&self.mesh, &self.name, &self.pods.namespaces());
        self.outcome = reconcile(&mut self.kernel, &mut self.have, &wanted);
        self.enforced = self.mesh.snapshot.generation;
        if let Err(why) = self.pods.detach(&mut self.kernel) {
            self.outcome.failures.insert(chain(&why), 1);
        }
        let took = clock::now().duration_since(began);
        self.outputs.metrics.planned(&self.outcome, took.as_secs_f64());
        let Outcome { n_written, n_judging, n_left_out, failures } = &self.outcome;
        let judges = *n_judging != 0;
        tracing::debug!(generation = self.enforced, n_written, ?took, "the kernel's maps were written");
        for (why, count) in failures {
            tracing::error!(why, count, n_left_out, "the kernel does not hold what it should");
        }
        self.publish();
        if judges {
            self.revoke().await;
        }
    }

    /// Closes connections between pods of this node that the maps would now refuse.
    pub(super) async fn revoke(&mut self) {
        self.judges_again = false;
        if !may_revoke(&self.have) {
            return;
        }
        let (seen, n_failed) = self.pods.within_each(revoke::see).await;
        self.judges_again = n_failed != 0;
        for Revoked { netns, connection, source, policy } in revoked(&self.have, &seen) {
            let remote = connection.remote;
            match self.pods.within(netns, move || revoke::close(&connection)).await {
                Ok(()) => {
                    self.outputs.metrics.revoked.inc();
                    let flow = flows::revoked((netns, source), remote, policy, &self.names, moment());
                    self.outputs.flows.record(&flow);
                }
                Err(why) => {
                    // A kernel that can't close any connection is not asked again: `check` names it.
                    self.judges_again |= why.raw_os_error() != Some(libc::EOPNOTSUPP);
                    let error = &why as &dyn std::error::Error;
                    tracing::error!(error, %remote, "a connection that policy now denies can't be closed");
                }
            }
        }
    }
}
