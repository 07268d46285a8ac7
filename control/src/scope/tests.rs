//! States that a node's update is exactly the difference of what it saw and what it sees, and nothing of others is in it.

use std::sync::Arc;

use millrace_model::{Delta, Encryption, Identity, Map, Membership, NodeProfile, ObjectName, Snapshot, Workload};
use proptest::prelude::*;

use super::Edition;

/// Few names, nodes and paths, so that pods come, go, move and change by chance.
fn snapshot(generation: u64) -> impl Strategy<Value = Snapshot> {
    let pod = (0..3usize, prop::option::of(0..3usize), any::<bool>());
    let profiles = prop::collection::btree_map(0..3usize, 0..2usize, 0..3);
    (prop::collection::btree_map(0..6usize, pod, 0..6), profiles).prop_map(move |(pods, profiles)| Snapshot {
        generation,
        trust_domain: "td".into(),
        workloads: pods
            .into_iter()
            .map(|(name, (node, netns, enrolled))| {
                let name = ObjectName::new("shop", &format!("pod-{name}"));
                let workload = Workload {
                    name: name.clone(),
                    instance: "u".into(),
                    identity: Identity::new("td", "shop", "default"),
                    addresses: Vec::new(),
                    node: format!("node-{node}").into(),
                    zone: None,
                    netns: netns.map(|n| format!("/run/netns/{n}").into()),
                    membership: if enrolled { Membership::Enrolled } else { Membership::Pending },
                    encryption: Encryption::default(),
                    policies: std::collections::BTreeSet::new(),
                    probe_ports: std::collections::BTreeSet::new(),
                    telemetry: None,
                    network: None,
                };
                (name, Arc::new(workload))
            })
            .collect(),
        profiles: profiles
            .into_iter()
            .map(|(node, name)| {
                let profile = NodeProfile { name: format!("profile-{name}").into(), ..NodeProfile::default() };
                (format!("node-{node}").into(), Arc::new(profile))
            })
            .collect(),
        ..Snapshot::default()
    })
}

fn ordered(mut delta: Delta) -> Delta {
    delta.workloads.set.sort_by(|a, b| a.0.cmp(&b.0));
    delta
}

proptest! {
    #[test]
    fn an_update_is_the_difference_of_the_two_views(one in snapshot(1), two in snapshot(2), three in snapshot(3)) {
        let one = Edition::new(one, None);
        let two = Edition::new(two, Some(&one));
        let three = Edition::new(three, Some(&two));
        for node in ["node-0", "node-1", "node-2", "node-9"] {
            for (have, now) in [(&one, &two), (&two, &three), (&one, &three)] {
                let expected = Delta::between(&have.view(node), &now.view(node));
                prop_assert_eq!(ordered(now.since(Some(have), node)), expected.clone());
                prop_assert_eq!(have.view(node).apply(&expected).unwrap(), now.view(node));
            }
            prop_assert_eq!(three.since(None, node), Delta::between(&Snapshot::default(), &three.view(node)));
        }
    }

    #[test]
    fn a_node_sees_no_others_network_namespace_nor_profile_and_all_else(whole in snapshot(1)) {
        let edition = Edition::new(whole.clone(), None);
        let view = edition.view("node-1");
        let blind = |w: &Map<ObjectName, Arc<Workload>>| -> Vec<Workload> {
            w.values().map(|w| Workload { netns: None, ..Workload::clone(w) }).collect()
        };
        prop_assert_eq!(blind(&view.workloads), blind(&whole.workloads));
        for (name, workload) in &view.workloads {
            let netns = if &*workload.node == "node-1" { whole.workloads[name].netns.clone() } else { None };
            prop_assert_eq!(&workload.netns, &netns);
        }
        prop_assert_eq!(view.profiles.get("node-1"), whole.profiles.get("node-1"));
        prop_assert!(view.profiles.keys().all(|node| &**node == "node-1"), "another node's profile is shown");
    }
}
