//! Says when open connections are to be judged again: a mesh changes many times a second, and there may be ten thousand of them.

use millrace_model::{Mesh, map::Differs};
use tokio::sync::watch;

/// Wakes whoever waits for another verdict than he has.
#[derive(Debug)]
pub(crate) struct Judged(watch::Sender<()>);

impl Default for Judged {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Judged {
    /// Hears of what may be judged otherwise from now on. Who has heard asks the mesh that is current then.
    pub(crate) fn hear(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// The mesh that is current became `now`, which `was` before, on this node.
    pub(crate) fn turn(&self, (was, now): (&Mesh, &Mesh), node: &str) {
        if may_differ((was, now), node) {
            self.0.send_replace(());
        }
    }
}

/// Whether a connection to a workload of this node may be judged otherwise. What is asked there is the workload and the policies that it names, and
/// of who calls, whose identity was attested as the connection was made, what network policies make of him.
fn may_differ((was, now): (&Mesh, &Mesh), node: &str) -> bool {
    let is_same = was.snapshot.trust_domain == now.snapshot.trust_domain
        && was.snapshot.policies == now.snapshot.policies
        && was.on(node).eq(now.on(node))
        && callers_are_the_same(was, now);
    !is_same
}

/// Whether network policies, which know callers by their addresses, take everybody for who he was.
fn callers_are_the_same(was: &Mesh, now: &Mesh) -> bool {
    let differ = was.snapshot.workloads.differences(&now.snapshot.workloads);
    differ.into_iter().all(|Differs { key: _, before, now }| match (before, now) {
        (Some(before), Some(now)) => {
            let is_known = before.network.is_some() || now.network.is_some();
            let as_before = || {
                before.network == now.network && before.addresses == now.addresses && before.identity == now.identity
            };
            !is_known || as_before()
        }
        (one, other) => one.into_iter().chain(other).all(|workload| workload.network.is_none()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_model::{
        Action, Encryption, Endpoints, Identity, Membership, Mesh, ObjectName, Policy, Snapshot, Tier, Workload,
        network::Network,
    };

    use super::{Judged, may_differ};

    fn name(name: &str) -> ObjectName {
        ObjectName::new("shop", name)
    }

    fn with(mesh: &Mesh, change: impl Fn(&mut Snapshot)) -> Mesh {
        let mut snapshot = Snapshot::clone(&mesh.snapshot);
        change(&mut snapshot);
        mesh.turned(Arc::new(snapshot))
    }

    fn with_workload(mesh: &Mesh, node: &str, membership: Membership) -> Mesh {
        let workload = Workload {
            name: name(node),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "own"),
            addresses: vec![],
            node: node.into(),
            zone: None,
            netns: None,
            membership,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        };
        with(mesh, |snapshot| drop(snapshot.workloads.insert(name(node), Arc::new(workload.clone()))))
    }

    #[test]
    fn connections_are_judged_again_by_what_may_refuse_them_and_by_nothing_else() {
        let mesh = with_workload(&Mesh::default(), "a", Membership::Enrolled);
        let differs = |now: &Mesh| may_differ((&mesh, now), "a");
        let endpoints = Endpoints { service: name("web"), endpoints: vec![] };
        let policy = Policy { name: name("none"), action: Action::Allow, rules: vec![], tier: Tier::Access };
        assert!(!differs(&with(&mesh, |now| drop(now.endpoints.insert(name("web"), Arc::new(endpoints.clone()))))));
        assert!(!differs(&with_workload(&mesh, "b", Membership::Enrolled)), "another node's");
        let selected = with_workload(&mesh, "b", Membership::Enrolled);
        let selected = with(&selected, |now| {
            let held = now.workloads.get(&name("b")).expect("it is there");
            let network = Network { egress: [].into(), peers: [7].into(), class: 0, is_host: false };
            let selected = Workload { network: Some(Arc::new(network)), ..Workload::clone(held) };
            now.workloads.insert(name("b"), Arc::new(selected));
        });
        assert!(differs(&selected), "a network policy selects one that may call");
        assert!(differs(&with_workload(&mesh, "a", Membership::Outside)), "one of this node");
        assert!(differs(&with(&mesh, |now| drop(now.policies.insert(name("none"), Arc::new(policy.clone()))))));
        assert!(differs(&with(&mesh, |now| now.trust_domain = "other".into())));
    }

    #[tokio::test]
    async fn who_hears_is_woken_once_it_may_differ() {
        let (judged, mesh) = (Judged::default(), Mesh::default());
        let heard = judged.hear();
        judged.turn((&mesh, &mesh), "a");
        assert!(!heard.has_changed().unwrap());
        judged.turn((&mesh, &with_workload(&mesh, "a", Membership::Enrolled)), "a");
        assert!(heard.has_changed().unwrap());
    }
}
