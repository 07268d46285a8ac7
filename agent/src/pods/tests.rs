//! States which namespaces stay captured while a pod's own can't be found, and when its listeners close.

use std::{collections::BTreeMap, fs::File, net::TcpListener, path::Path, sync::Arc};

use millrace_abi::{Pod as Entry, PodKind};
use millrace_model::{Encryption, Identity, Membership, Mesh, ObjectName, Snapshot, Workload};
use millrace_node::wire::node::ListenerKind;

use super::{Left, Pod, Pods, listener};
use crate::{config::Switch, kernel::plan::Namespace};

fn workload(name: &str, membership: Membership) -> Arc<Workload> {
    Arc::new(Workload {
        name: ObjectName::new("shop", name),
        instance: "1".into(),
        identity: Identity::new("td", "shop", name),
        addresses: vec![[10, 0, 0, 1].into()],
        node: "a".into(),
        zone: None,
        netns: Some("/run/netns/x".into()),
        membership,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    })
}

/// An agent that has just begun, after one that had captured `inherited`: cookies, and whose each was.
fn restarted(inherited: &[(u64, Option<&Workload>)], pods: impl IntoIterator<Item = Pod>) -> Pods {
    let entry = |id| Entry { id, v4: [0; 16], v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 };
    let entries: BTreeMap<u64, Entry> =
        inherited.iter().filter_map(|(cookie, of)| Some((*cookie, entry(of.as_ref()?.id())))).collect();
    let attached = inherited.iter().map(|(cookie, _)| *cookie).collect();
    let left = Left {
        attached,
        entries: &entries,
        guards: BTreeMap::new(),
        cgroup: Path::new("/"),
        logs: Path::new("/nowhere"),
    };
    let mut begun = Pods::new("a".into(), left, Switch::On).unwrap();
    begun.pods = pods.into_iter().map(|pod| (pod.workload.name.clone(), pod)).collect();
    begun
}

/// Its path was unmounted while its processes live: to let go of it would let plain text in to a strict pod.
#[test]
fn a_pod_that_cannot_be_found_after_a_restart_stays_captured() {
    let web = workload("web", Membership::Enrolled);
    let pods = restarted(&[(7, Some(&*web))], [Pod::new(web.clone())]);
    assert_eq!(pods.namespaces().get(&7), Some(&Namespace::Mesh(web.name.clone())));
    assert!(pods.stale().is_empty());
}

#[test]
fn while_a_pod_is_unknown_no_link_that_nobody_claims_is_removed() {
    let (web, db) = (workload("web", Membership::Enrolled), workload("db", Membership::Enrolled));
    let found = || Pod::new(db.clone()).found_at(8);
    let unknown = restarted(&[(7, None), (8, Some(&*db))], [Pod::new(web.clone()), found()]);
    assert!(unknown.stale().is_empty());
    let known = restarted(&[(7, None), (8, Some(&*db))], [Pod::new(web).found_at(9), found()]);
    assert_eq!(known.stale(), [7], "every pod is accounted for");
}

#[test]
fn a_pod_that_left_the_mesh_is_let_go_though_another_is_unknown() {
    let (web, db) = (workload("web", Membership::Enrolled), workload("db", Membership::Outside));
    for left in [Pod::new(db.clone()), Pod::new(db.clone()).found_at(8)] {
        assert_eq!(restarted(&[(8, Some(&*db))], [Pod::new(web.clone()), left]).stale(), [8]);
    }
}

/// The kernel sends its connections to them until its maps say otherwise.
#[test]
fn a_pod_that_leaves_the_mesh_keeps_its_listeners_until_they_are_released() {
    let web = workload("web", Membership::Enrolled);
    let mut pod = Pod::new(web.clone());
    pod.listeners.insert(ListenerKind::OutboundV4, Arc::new(File::open("/dev/null").unwrap().into()));
    let mut pods = restarted(&[], [pod]);
    let outside = workload("web", Membership::Outside);
    let snapshot = Snapshot { workloads: [(web.name.clone(), outside.clone())].into(), ..Snapshot::default() };
    assert!(!pods.forget(&Mesh::new(Arc::new(snapshot))));
    let held = |pods: &Pods| pods.get(&web.name, "1").unwrap().listeners.len();
    assert_eq!(held(&pods), 1);
    pods.release();
    assert_eq!(held(&pods), 1, "what is still in the mesh is not touched");
    pods.pods.get_mut(&web.name).unwrap().workload = outside;
    pods.release();
    assert_eq!(held(&pods), 0);
}

/// Between the end of its time and the tables that say so, its listeners are steered to still.
#[test]
fn a_pod_that_left_is_served_until_the_tables_are_written_without_it() {
    let web = workload("web", Membership::Enrolled);
    let mut pod = Pod::new(web.clone()).found_at(7);
    pod.listeners.insert(ListenerKind::OutboundV4, Arc::new(File::open("/dev/null").unwrap().into()));
    pod.turns(workload("web", Membership::Outside));
    let left = pod.left.unwrap();
    let mut pods = restarted(&[(7, Some(&*web))], [pod]);
    let over = left + super::LINGER;
    for is_over in [false, true] {
        pods.release();
        assert_eq!(pods.get(&web.name, "1").unwrap().listeners.len(), 1);
        assert_eq!(pods.namespaces().get(&7), Some(&Namespace::Mesh(web.name.clone())));
        assert_eq!(pods.has_left(if is_over { over } else { left }), is_over);
    }
    assert_eq!(pods.namespaces().get(&7), Some(&Namespace::Outside(web.name.clone())));
    assert!(!pods.has_left(over), "once");
    pods.release();
    assert_eq!(pods.get(&web.name, "1").unwrap().listeners.len(), 0);
}

/// What a proxy holds of an older namespace of the pod is not taken for what is open in the one it has.
#[test]
fn a_listener_of_another_namespace_is_not_taken_back_though_its_kind_is_open() {
    let web = workload("web", Membership::Enrolled);
    let here = listener::cookie().unwrap();
    let mut pod = Pod::new(web.clone()).found_at(here + 1);
    pod.listeners.insert(ListenerKind::TunnelV4, Arc::new(File::open("/dev/null").unwrap().into()));
    let mut pods = restarted(&[], [pod]);
    let brought = TcpListener::bind("127.0.0.1:0").unwrap().into();
    assert_eq!(pods.adopt(&web.name, "1", ListenerKind::TunnelV4, brought).unwrap_err(), "it is in another namespace");
}
