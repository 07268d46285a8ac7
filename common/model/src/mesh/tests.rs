//! The indexes of a Snapshot that follows another are those of the Snapshot alone.

use std::{net::IpAddr, sync::Arc};

use proptest::{collection::vec, option, prelude::*};

use super::Mesh;
use crate::{
    Encryption, Identity, Map, Membership, ObjectName, Protocol, Service, ServicePort, Snapshot, Traffic, Workload,
};

/// Few names, nodes and addresses, so that they are claimed by several, given up and taken again.
fn snapshot() -> impl Strategy<Value = Snapshot> {
    let pod = (vec(0..4_u8, 0..3), 0..3_u8, option::of(0..2_u8));
    let service = (vec(0..3_u8, 0..2), vec(80..83_u16, 0..3));
    (vec(option::of(pod), 6), vec(option::of(service), 4)).prop_map(|(pods, services)| {
        let pods = pods.into_iter().enumerate().filter_map(|(n, pod)| Some((n, pod?)));
        let services = services.into_iter().enumerate().filter_map(|(n, service)| Some((n, service?)));
        Snapshot {
            workloads: pods.map(|(n, pod)| workload(n, pod)).collect(),
            services: services.map(|(n, of)| made(n, &of)).collect(),
            ..Snapshot::default()
        }
    })
}

fn workload(n: usize, (addresses, node, zone): (Vec<u8>, u8, Option<u8>)) -> (ObjectName, Arc<Workload>) {
    let name = ObjectName::new("shop", &format!("p{n}"));
    let workload = Workload {
        name: name.clone(),
        instance: "1".into(),
        identity: Identity::new("td", "shop", &format!("sa{}", n % 2)),
        addresses: addresses.into_iter().map(|n| [10, 0, 0, n].into()).collect(),
        node: format!("n{node}").into(),
        zone: zone.map(|zone| format!("z{zone}").into()),
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    };
    (name, Arc::new(workload))
}

fn made(n: usize, (addresses, ports): &(Vec<u8>, Vec<u16>)) -> (ObjectName, Arc<Service>) {
    let name = ObjectName::new("shop", &format!("s{n}"));
    let port = |port: &u16| ServicePort { port: *port, protocol: Protocol::Tcp, name: "".into() };
    let service = Service {
        name: name.clone(),
        addresses: addresses.iter().map(|n| [10, 96, 0, *n].into()).collect(),
        ports: ports.iter().map(port).collect(),
        traffic: Traffic::default(),
    };
    (name, Arc::new(service))
}

/// Everything that a Mesh is asked.
fn answers(mesh: &Mesh) -> Vec<String> {
    let mut all = Vec::new();
    for n in 0..4_u8 {
        let at = |a, b| IpAddr::from([10, a, b, n]);
        all.push(format!("{:?}", mesh.workload_at(at(0, 0)).map(|w| &w.name)));
        for port in 80..83 {
            all.push(format!("{:?}", mesh.service_at(at(96, 0), port, Protocol::Tcp).map(|s| &s.name)));
        }
        let node = format!("n{n}");
        let local: Vec<_> = mesh.on(&node).map(|w| w.name.to_string()).collect();
        let runs = mesh.runs_on(&Identity::new("td", "shop", "sa1"), &node);
        all.push(format!("{local:?} {:?} {runs}", mesh.zone_of(&node)));
    }
    all
}

proptest! {
    #[test]
    fn what_a_mesh_turns_to_is_what_its_snapshot_alone_would_be(snapshots in vec(snapshot(), 1..8)) {
        let mut mesh = Mesh::default();
        for snapshot in snapshots.into_iter().map(Arc::new) {
            mesh = mesh.turned(snapshot.clone());
            let alone = Mesh::new(snapshot.clone());
            prop_assert_eq!(answers(&mesh), answers(&alone));
            prop_assert_eq!(&mesh.by_address, &alone.by_address);
            prop_assert_eq!(&mesh.by_virtual_address, &alone.by_virtual_address);
            prop_assert_eq!(&mesh.by_node, &alone.by_node);
            // By a look at all, which is how it once was found.
            for n in 0..4 {
                let address = IpAddr::from([10, 0, 0, n]);
                let first = snapshot.workloads.values().find(|w| w.addresses.contains(&address));
                prop_assert_eq!(mesh.workload_at(address), first);
            }
        }
    }
}

#[test]
fn an_empty_mesh_holds_nothing_of_what_was() {
    let full = Snapshot { workloads: Map::from([workload(1, (vec![1], 1, None))]), ..Snapshot::default() };
    let mesh = Mesh::new(Arc::new(full)).turned(Arc::default());
    assert!(mesh.by_address.is_empty() && mesh.by_node.is_empty());
}
