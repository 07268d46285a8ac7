//! States which endpoint a connection tries, and in what order.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use millrace_model::{
    Ejected, Endpoint, Endpoints, Identity, Membership, Mesh, ObjectName, Protocol, Service, ServicePort, Snapshot,
    Workload, outlier::Pool, service::Readiness,
};
use proptest::prelude::*;

use super::{Candidate, Turn, candidates, pick};
use crate::{
    fault::Why,
    maps::{Asked, Pick},
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn workload(name: &str, address: &str, node: &str, membership: Membership) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: name.into(),
        identity: Identity::new("cluster.local", "shop", name),
        addresses: vec![address.parse().unwrap()],
        node: node.into(),
        zone: Some(format!("zone-{node}").into()),
        netns: None,
        membership,
        encryption: Default::default(),
        policies: Default::default(),
        probe_ports: Default::default(),
        telemetry: None,
        network: None,
    }
}

/// A service with one endpoint on each of the nodes a, b, c, and one that is pending.
fn mesh() -> Mesh {
    let mut snapshot = Snapshot { generation: 1, trust_domain: "cluster.local".into(), ..Snapshot::default() };
    let mut endpoints = Vec::new();
    for (name, address, node, membership) in [
        ("on-a", "10.0.0.1", "a", Membership::Enrolled),
        ("on-b", "10.0.1.1", "b", Membership::Enrolled),
        ("on-c", "10.0.2.1", "c", Membership::Enrolled),
        ("not-yet", "10.0.3.1", "d", Membership::Pending),
        ("outside", "10.0.4.1", "d", Membership::Outside),
    ] {
        let workload = workload(name, address, node, membership);
        endpoints.push(Endpoint {
            address: workload.addresses[0],
            workload: Some(workload.name.clone()),
            ports: BTreeMap::from([((80, Protocol::Tcp), 8080)]),
            weight: 1,
            readiness: Readiness::Ready,
            place: Default::default(),
        });
        snapshot.workloads.insert(workload.name.clone(), Arc::new(workload));
    }
    let name = ObjectName::new("shop", "web");
    let port = ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() };
    let addresses = vec!["10.96.0.1".parse().unwrap()];
    let service = Service { name: name.clone(), addresses, ports: vec![port], traffic: Default::default() };
    snapshot.services.insert(name.clone(), Arc::new(service));
    snapshot.endpoints.insert(name.clone(), Arc::new(Endpoints { service: name, endpoints }));
    Mesh::new(Arc::new(snapshot))
}

fn addresses(candidates: &[Candidate]) -> Vec<String> {
    candidates.iter().map(|candidate| candidate.address.to_string()).collect()
}

#[test]
fn a_service_is_reached_at_its_endpoints_on_other_nodes() {
    let asked = Asked { address: at("10.96.0.1:80"), backend: at("10.0.1.1:8080"), pick: Default::default() };
    assert_eq!(
        addresses(&candidates(&mesh(), "a", asked, |_| Ejected::default()).unwrap()),
        ["10.0.1.1:8080", "10.0.2.1:8080"]
    );
}

#[test]
fn an_address_is_reached_by_tunnel_or_refused_by_name() {
    for (backend, answer) in [
        ("10.0.1.1:8080", Ok(vec!["10.0.1.1:8080".to_owned()])),
        ("10.0.0.1:8080", Err(Why::BackendLocal)),
        ("10.0.3.1:8080", Err(Why::BackendPending)),
        // It has just left: its node takes tunnels still.
        ("10.0.4.1:8080", Ok(vec!["10.0.4.1:8080".to_owned()])),
        ("192.0.2.1:8080", Err(Why::BackendOutside)),
    ] {
        let asked = Asked { address: at(backend), backend: at(backend), pick: Default::default() };
        assert_eq!(
            candidates(&mesh(), "a", asked, |_| Ejected::default()).map(|found| addresses(&found)),
            answer,
            "{backend}"
        );
    }
}

/// The service lost its last remote endpoint after the kernel picked it: the kernel's pick says why.
#[test]
fn a_service_without_remote_endpoints_falls_back_to_the_kernels_pick() {
    let mesh = mesh();
    let mut snapshot = (*mesh.snapshot).clone();
    snapshot.endpoints.clear();
    let mesh = Mesh::new(Arc::new(snapshot));
    let asked = Asked { address: at("10.96.0.1:80"), backend: at("10.0.1.1:8080"), pick: Default::default() };
    assert_eq!(addresses(&candidates(&mesh, "a", asked, |_| Ejected::default()).unwrap()), ["10.0.1.1:8080"]);
}

fn weighted(weights: &[u32]) -> Vec<Candidate> {
    let asked = Asked { address: at("10.0.1.1:1"), backend: at("10.0.1.1:1"), pick: Default::default() };
    let one = candidates(&mesh(), "a", asked, |_| Ejected::default()).unwrap().remove(0);
    let number = |i: usize| u16::try_from(i + 1).unwrap();
    let each = |(i, weight): (usize, &u32)| Candidate {
        address: SocketAddr::new(one.address.ip(), number(i)),
        weight: *weight,
        peer: one.peer.clone(),
        turn: Turn::First,
    };
    weights.iter().enumerate().map(each).collect()
}

#[test]
fn the_nearer_endpoint_goes_first_and_the_others_after_it() {
    let mut snapshot = (*mesh().snapshot).clone();
    for name in snapshot.endpoints.clone().keys() {
        let endpoints = snapshot.endpoints.get_mut(name).unwrap();
        for (endpoint, zone) in Arc::make_mut(endpoints).endpoints.iter_mut().zip(["a", "b", "a", "d", "d"]) {
            endpoint.place.for_zones = [format!("zone-{zone}").into()].into();
        }
    }
    let mesh = Mesh::new(Arc::new(snapshot));
    let asked = Asked { address: at("10.96.0.1:80"), backend: at("10.0.1.1:8080"), pick: Default::default() };
    for draw in 0..10 {
        let mut left = candidates(&mesh, "a", asked, |_| Ejected::default()).unwrap();
        let first = pick(&mut left, [draw, draw + 1], |_| [0, 0]).unwrap();
        assert_eq!(first.address, at("10.0.2.1:8080"), "it is for clients of zone a, as on-a is");
        let second = pick(&mut left, [draw, draw + 1], |_| [0, 0]).unwrap();
        assert_eq!(second.address, at("10.0.1.1:8080"));
        assert_eq!(pick(&mut left, [draw, draw], |_| [0, 0]), None);
    }
}

#[test]
fn an_endpoint_that_is_left_out_is_no_candidate_unless_there_is_no_other() {
    let asked = Asked { address: at("10.96.0.1:80"), backend: at("10.0.1.1:8080"), pick: Pick::Free };
    let without = |gone: &[&str]| {
        let out = |pool: &Pool| {
            let mut out = Ejected::default();
            gone.iter().for_each(|one| out.insert(pool.clone(), at(one)));
            out
        };
        addresses(&candidates(&mesh(), "a", asked, out).unwrap())
    };
    assert_eq!(without(&["10.0.1.1:8080"]), ["10.0.2.1:8080"]);
    // Of the remote ones none is left, and this connection left the node: the kernel's pick is tried.
    assert_eq!(without(&["10.0.1.1:8080", "10.0.2.1:8080"]), ["10.0.1.1:8080"]);
}

/// The client was given this one for hours: another would not know its session.
#[test]
fn a_pick_that_binds_is_the_only_candidate() {
    let asked = Asked { address: at("10.96.0.1:80"), backend: at("10.0.2.1:8080"), pick: Pick::Binding };
    assert_eq!(addresses(&candidates(&mesh(), "a", asked, |_| Ejected::default()).unwrap()), ["10.0.2.1:8080"]);
}

#[test]
fn of_two_the_one_with_less_open_per_weight_is_picked() {
    let open = |n: [usize; 2]| move |of: [SocketAddr; 2]| of.map(|a| if a.port() == 1 { n[0] } else { n[1] });
    // Draws 0 and 10 fall on the first and second of weights 10 and 1.
    assert_eq!(pick(&mut weighted(&[10, 1]), [0, 10], open([9, 1])).unwrap().address.port(), 1);
    assert_eq!(pick(&mut weighted(&[10, 1]), [0, 10], open([11, 1])).unwrap().address.port(), 2);
    assert_eq!(pick(&mut weighted(&[10, 1]), [10, 0], open([0, 0])).unwrap().address.port(), 2);
}

proptest! {
    /// With connections that end at once, the shares are the weights'.
    #[test]
    fn idle_endpoints_are_picked_as_their_weights_say(weights in prop::collection::vec(0u32..5, 1..6)) {
        let total: u32 = weights.iter().sum();
        let mut seen = vec![0u32; weights.len()];
        for draw in 0..u64::from(total) {
            let picked = pick(&mut weighted(&weights), [draw, draw + 1], |_| [0, 0]).unwrap();
            seen[usize::from(picked.address.port()) - 1] += 1;
        }
        prop_assert_eq!(seen, if total == 0 { vec![0; weights.len()] } else { weights });
    }
}
