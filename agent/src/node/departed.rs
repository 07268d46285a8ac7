//! Knows which pods of other nodes left the mesh a moment ago: they are called by tunnel still.
//!
//! The caller's node may hear of it before the pod's own does. Plain text that it sent meanwhile would come to a pod that may be strict
//! still, and be reset. Its own node takes tunnels for it for [`crate::pods::LINGER`] after it has heard, so that there is no moment in which both
//! are wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::{Membership, Mesh, ObjectName, Workload, map::Differs};

/// How long: until its node has surely heard, which takes some hundred milliseconds, and less than that node takes tunnels for it.
const CALLED_BY_TUNNEL: Duration = Duration::from_secs(3);

const _: () = assert!(CALLED_BY_TUNNEL.as_secs() * 2 < crate::pods::LINGER.as_secs());

/// Pods of other nodes that left the mesh, and when this node heard of it.
#[derive(Debug, Default)]
pub(super) struct Departed(BTreeMap<ObjectName, Instant>);

impl Departed {
    /// The mesh turns from `before` to `after`.
    pub(super) fn turn(&mut self, (before, after): (&Mesh, &Mesh), node: &str, now: Instant) {
        let is_outside = |workload: &Arc<Workload>| workload.membership == Membership::Outside;
        self.0.retain(|name, _| after.snapshot.workloads.get(name).is_some_and(is_outside));
        // One that is as it was left before.
        let differ = before.snapshot.workloads.differences(&after.snapshot.workloads);
        for Differs { key: _, before: was, now: is } in differ {
            let Some(workload) = is.filter(|now| is_outside(now) && *now.node != *node) else { continue };
            if was.is_some_and(|was| was.membership == Membership::Enrolled && was.instance == workload.instance) {
                self.0.insert(workload.name.clone(), now);
            }
        }
    }

    /// Those that are called by tunnel still.
    pub(super) fn names(&self) -> BTreeSet<ObjectName> {
        self.0.keys().cloned().collect()
    }

    /// True where some are called plainly from now on: the kernel's tables don't say so yet.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let n_before = self.0.len();
        self.0.retain(|_, left| now.saturating_duration_since(*left) < CALLED_BY_TUNNEL);
        self.0.len() != n_before
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_model::{Encryption, Identity, Membership, Mesh, ObjectName, Snapshot, Workload};

    use super::{CALLED_BY_TUNNEL, Departed};

    fn mesh(membership: Membership) -> Mesh {
        let name = ObjectName::new("shop", "far");
        let far = Workload {
            name: name.clone(),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "far"),
            addresses: vec![[10, 0, 0, 1].into()],
            node: "b".into(),
            zone: None,
            netns: None,
            membership,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        };
        Mesh::new(Arc::new(Snapshot { workloads: [(name, Arc::new(far))].into(), ..Snapshot::default() }))
    }

    fn has(departed: &Departed, mesh: &Mesh) -> bool {
        mesh.snapshot.workloads.keys().all(|name| departed.names().contains(name))
    }

    #[test]
    fn a_pod_of_another_node_that_leaves_is_departed_for_a_while() {
        let (enrolled, outside) = (mesh(Membership::Enrolled), mesh(Membership::Outside));
        let (mut departed, now) = (Departed::default(), millrace_node::clock::now());
        departed.turn((&enrolled, &outside), "a", now);
        assert!(has(&departed, &outside));
        departed.turn((&outside, &outside), "a", now + CALLED_BY_TUNNEL / 2);
        assert!(!departed.is_over(now + CALLED_BY_TUNNEL / 2) && has(&departed, &outside));
        assert!(departed.is_over(now + CALLED_BY_TUNNEL), "however often the mesh changes meanwhile");
        assert!(!has(&departed, &outside) && !departed.is_over(now + CALLED_BY_TUNNEL));
    }

    #[test]
    fn one_of_this_node_or_that_comes_back_or_was_never_in_is_not() {
        let (enrolled, outside) = (mesh(Membership::Enrolled), mesh(Membership::Outside));
        let (mut departed, now) = (Departed::default(), millrace_node::clock::now());
        departed.turn((&enrolled, &outside), "b", now);
        assert!(!has(&departed, &outside), "its own node knows by itself");
        departed.turn((&mesh(Membership::Pending), &outside), "a", now);
        assert!(!has(&departed, &outside), "nobody called it by tunnel");
        departed.turn((&enrolled, &outside), "a", now);
        departed.turn((&outside, &enrolled), "a", now);
        assert!(!has(&departed, &enrolled));
    }
}
