//! States what holds of the values: a difference applied gives what it was made from, and a connection goes where its workload is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use millrace_model::{
    Delta, Destination, Encryption, Endpoint, Endpoints, Identity, Map, Membership, Mesh, ObjectName, Protocol,
    Service, ServicePort, Snapshot, Workload,
    resolve::{Hop, hop, resolve},
    service::Readiness,
};
use proptest::prelude::*;

fn pod(name: &str, node: &str, address: [u8; 4], membership: Membership) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: name.into(),
        identity: Identity::new("td", "shop", name),
        addresses: vec![address.into()],
        node: node.into(),
        zone: None,
        netns: None,
        membership,
        encryption: Encryption::default(),
        policies: BTreeSet::new(),
        probe_ports: BTreeSet::new(),
        telemetry: None,
        network: None,
    }
}

fn endpoint(address: [u8; 4], weight: u32, readiness: Readiness) -> Endpoint {
    Endpoint {
        address: address.into(),
        workload: None,
        ports: BTreeMap::from([((80, Protocol::Tcp), 8080)]),
        weight,
        readiness,
        place: Default::default(),
    }
}

/// One service, 10.96.0.1:80, with these endpoints, over these pods.
fn mesh(pods: Vec<Workload>, endpoints: Vec<Endpoint>) -> Mesh {
    let name = ObjectName::new("shop", "web");
    let service = Service {
        name: name.clone(),
        addresses: vec![[10, 96, 0, 1].into()],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
        traffic: Default::default(),
    };
    Mesh::new(Arc::new(Snapshot {
        generation: 1,
        trust_domain: "td".into(),
        workloads: pods.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        services: Map::from([(name.clone(), Arc::new(service))]),
        endpoints: Map::from([(name.clone(), Arc::new(Endpoints { service: name, endpoints }))]),
        policies: Map::new(),
        profiles: Map::new(),
        routes: Map::new(),
        telemetry: Map::new(),
    }))
}

fn to(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address), port)
}

#[test]
fn a_pod_on_this_node_is_reached_straight_and_one_elsewhere_by_tunnel() {
    let mesh = mesh(
        vec![
            pod("here", "a", [10, 0, 0, 1], Membership::Enrolled),
            pod("there", "b", [10, 0, 1, 1], Membership::Enrolled),
        ],
        vec![],
    );
    assert!(matches!(hop(&mesh, "a", to([10, 0, 0, 1], 80)), Hop::Local(w) if &*w.name.name == "here"));
    assert!(matches!(
        hop(&mesh, "a", to([10, 0, 1, 1], 80)),
        Hop::Tunnel(peer) if peer.identity == Identity::new("td", "shop", "there") && peer.tunnel == to([10, 0, 1, 1], 15008)
    ));
}

#[test]
fn a_pod_whose_listeners_are_not_open_yet_is_never_dialled_in_the_clear() {
    let mesh = mesh(
        vec![pod("new", "b", [10, 0, 1, 1], Membership::Pending)],
        vec![endpoint([10, 0, 1, 1], 1, Readiness::Ready)],
    );
    assert!(matches!(hop(&mesh, "a", to([10, 0, 1, 1], 80)), Hop::Pending(_)));
    assert!(
        matches!(resolve(&mesh, "a", to([10, 96, 0, 1], 80)), Destination::Service { backends, .. } if backends.is_empty())
    );
}

#[test]
fn a_pod_outside_the_mesh_is_left_alone() {
    let mesh = mesh(vec![pod("out", "b", [10, 0, 1, 1], Membership::Outside)], vec![]);
    assert_eq!(resolve(&mesh, "a", to([10, 0, 1, 1], 80)), Destination::Untouched);
}

#[test]
fn an_unready_backend_and_one_of_weight_zero_take_nothing() {
    let mesh = mesh(
        vec![],
        vec![
            endpoint([1, 1, 1, 1], 1, Readiness::Ready),
            endpoint([1, 1, 1, 2], 0, Readiness::Ready),
            endpoint([1, 1, 1, 3], 1, Readiness::Unready),
        ],
    );
    let Destination::Service { backends, .. } = resolve(&mesh, "a", to([10, 96, 0, 1], 80)) else {
        panic!("a virtual address is a service")
    };
    assert_eq!(backends.iter().map(|b| b.address).collect::<Vec<_>>(), [to([1, 1, 1, 1], 8080)]);
}

/// An application with a dual-stack socket asks for `::ffff:10.96.0.1`, and means 10.96.0.1.
#[test]
fn a_v4_mapped_address_is_its_ipv4_one() {
    let mesh = mesh(vec![], vec![endpoint([1, 1, 1, 1], 1, Readiness::Ready)]);
    let mapped = "[::ffff:10.96.0.1]:80".parse().unwrap();
    assert_eq!(resolve(&mesh, "a", mapped), resolve(&mesh, "a", to([10, 96, 0, 1], 80)));
}

#[test]
fn another_port_of_a_virtual_address_is_nothing_of_the_mesh() {
    let mesh = mesh(vec![], vec![endpoint([1, 1, 1, 1], 1, Readiness::Ready)]);
    assert_eq!(resolve(&mesh, "a", to([10, 96, 0, 1], 81)), Destination::Untouched);
}

#[test]
fn a_pod_made_again_under_its_old_name_is_somebody_else() {
    let first = pod("web-0", "a", [10, 0, 0, 1], Membership::Enrolled);
    let second = Workload { instance: "another".into(), ..first.clone() };
    assert_ne!(first.id(), second.id());
}

fn snapshots() -> impl Strategy<Value = Snapshot> {
    let pods = prop::collection::btree_map(0u8..12, (any::<bool>(), 0u8..4), 0..12);
    (1u64..5, pods).prop_map(|(generation, pods)| Snapshot {
        generation,
        trust_domain: "td".into(),
        workloads: pods
            .into_iter()
            .map(|(n, (enrolled, last))| {
                let membership = if enrolled { Membership::Enrolled } else { Membership::Pending };
                let pod = pod(&format!("pod-{n}"), "a", [10, 0, n, last], membership);
                (pod.name.clone(), Arc::new(pod))
            })
            .collect(),
        ..Snapshot::default()
    })
}

proptest! {
    #[test]
    fn a_difference_applied_gives_what_it_was_made_from(have in snapshots(), now in snapshots()) {
        prop_assert_eq!(&have.apply(&Delta::between(&have, &now)).unwrap(), &now);
    }

    #[test]
    fn a_difference_from_empty_applies_to_anything(have in snapshots(), now in snapshots()) {
        prop_assert_eq!(&have.apply(&Delta::between(&Snapshot::default(), &now)).unwrap(), &now);
    }

    #[test]
    fn nothing_changed_is_an_empty_difference(now in snapshots()) {
        prop_assert!(Delta::between(&now, &now).is_empty());
    }

    #[test]
    fn a_difference_for_another_generation_is_refused(have in snapshots(), now in snapshots()) {
        let delta = Delta { from: have.generation + 1, ..Delta::between(&have, &now) };
        prop_assert!(have.apply(&delta).is_err());
    }
}
