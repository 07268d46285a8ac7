//! States which endpoints clients of a node are given: as Kubernetes documents hints, traffic policies and conditions.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use proptest::prelude::*;

use super::{Standing, survey};
use crate::{
    Ejected, Encryption, Endpoint, Endpoints, Identity, Membership, Mesh, ObjectName, Place, Protocol, Reach, Service,
    ServicePort, Snapshot, Traffic, Workload, explain::Absence, outlier::Pool, service::Readiness,
};

/// Node a1 and a2 are in zone a, b1 in zone b, c1 in none.
fn zone(node: &str) -> Option<Arc<str>> {
    match node.get(..1) {
        Some("c") | None => None,
        Some(zone) => Some(zone.into()),
    }
}

fn workload(node: &str, last: u8) -> Workload {
    Workload {
        name: ObjectName::new("shop", &format!("w{last}")),
        instance: format!("w{last}").into(),
        identity: Identity::new("td", "shop", "w"),
        addresses: vec![[10, 0, 0, last].into()],
        node: node.into(),
        zone: zone(node),
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    }
}

fn endpoint(node: &str, last: u8) -> Endpoint {
    Endpoint {
        address: [10, 0, 0, last].into(),
        workload: Some(ObjectName::new("shop", &format!("w{last}"))),
        ports: BTreeMap::from([((80, Protocol::Tcp), 8080)]),
        weight: 1,
        readiness: Readiness::Ready,
        place: Place { node: Some(node.into()), ..Place::default() },
    }
}

/// With the hints that Kubernetes writes for `trafficDistribution: PreferSameNode`.
fn near(node: &str, last: u8) -> Endpoint {
    let for_zones = zone(node).into_iter().collect();
    let place = Place { node: Some(node.into()), for_nodes: [node.into()].into(), for_zones };
    Endpoint { place, ..endpoint(node, last) }
}

fn mesh(reach: Reach, endpoints: Vec<Endpoint>) -> Mesh {
    let mut snapshot = Snapshot { generation: 1, trust_domain: "td".into(), ..Snapshot::default() };
    let idle = ["a1", "a2", "b1", "c1"].into_iter().zip(200..).map(|(node, last)| workload(node, last));
    let behind = endpoints.iter().filter_map(|e| match e.address {
        std::net::IpAddr::V4(v4) => Some(workload(e.place.node.as_deref().unwrap_or("c1"), v4.octets()[3])),
        std::net::IpAddr::V6(_) => None,
    });
    snapshot.workloads = idle.chain(behind).map(|w| (w.name.clone(), Arc::new(w))).collect();
    let name = ObjectName::new("shop", "web");
    let service = Service {
        name: name.clone(),
        addresses: vec![[10, 96, 0, 1].into()],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
        traffic: Traffic { reach, ..Traffic::default() },
    };
    snapshot.services.insert(name.clone(), Arc::new(service));
    snapshot.endpoints.insert(name.clone(), Arc::new(Endpoints { service: name, endpoints }));
    Mesh::new(Arc::new(snapshot))
}

fn seen(mesh: &Mesh, node: &str) -> String {
    seen_without(mesh, node, &[])
}

/// What each endpoint is to clients of `node`: `+` chosen, `~` spare, else why it is left out. These addresses' last bytes are ejected.
fn seen_without(mesh: &Mesh, node: &str, out: &[u8]) -> String {
    let at: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let service = mesh.service_at(at.ip(), 80, Protocol::Tcp).unwrap();
    let mut ejected = Ejected::default();
    for last in out {
        ejected.insert(Pool::at(&service.name, at), SocketAddr::new([10, 0, 0, *last].into(), 8080));
    }
    let each = survey(mesh, node, service, at, &ejected).into_iter().map(|(_, standing)| match standing {
        Standing::Chosen(_) => "+".to_owned(),
        Standing::Spare(_) => "~".to_owned(),
        Standing::LeftOut(why) => format!("{why:?}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

#[test]
fn without_hints_every_endpoint_is_as_near_as_another() {
    let mesh = mesh(Reach::Cluster, vec![endpoint("a1", 1), endpoint("b1", 2)]);
    assert_eq!([seen(&mesh, "a1"), seen(&mesh, "c1")], ["+ +", "+ +"]);
}

#[test]
fn the_own_node_goes_before_the_own_zone_and_that_before_all() {
    let all = vec![near("a1", 1), near("a2", 2), near("b1", 3)];
    let mesh = mesh(Reach::Cluster, all);
    assert_eq!(seen(&mesh, "a1"), "+ ~ ~");
    assert_eq!(seen(&mesh, "a3"), "+ + +", "a node of no known zone has no near one");
    assert_eq!(seen(&mesh, "c1"), "+ + +");
    assert_eq!(seen(&mesh, "b1"), "~ ~ +");
}

#[test]
fn an_endpoint_that_stops_to_serve_leaves_its_clients_to_the_next_level() {
    let unready = |e: Endpoint| Endpoint { readiness: Readiness::Unready, ..e };
    let mesh_of = |all| mesh(Reach::Cluster, all);
    let own = mesh_of(vec![unready(near("a1", 1)), near("a2", 2), near("b1", 3)]);
    assert_eq!(seen(&own, "a1"), "Unready + ~", "its zone");
    let zone = mesh_of(vec![unready(near("a1", 1)), unready(near("a2", 2)), near("b1", 3)]);
    assert_eq!(seen(&zone, "a1"), "Unready Unready +", "any");
    let weight = mesh_of(vec![Endpoint { weight: 0, ..near("a1", 1) }, near("a2", 2)]);
    assert_eq!(seen(&weight, "a1"), "NoWeight +", "one of weight 0 is near to nobody");
}

/// As kube-proxy does: a set of hints that is half written would send all to those that have one.
#[test]
fn hints_that_some_lack_count_for_nothing() {
    let zones = |e: Endpoint| Endpoint { place: Place { for_nodes: [].into(), ..e.place.clone() }, ..e };
    let half = mesh(Reach::Cluster, vec![near("a1", 1), zones(near("a2", 2)), near("b1", 3)]);
    assert_eq!(seen(&half, "a1"), "+ + ~", "one has no node's hint: zones are asked");
    let none = mesh(Reach::Cluster, vec![near("a1", 1), endpoint("b1", 3)]);
    assert_eq!(seen(&none, "a1"), "+ +");
    let unready = Endpoint { readiness: Readiness::Unready, ..endpoint("b1", 3) };
    let mesh = mesh(Reach::Cluster, vec![near("a1", 1), near("a2", 2), unready]);
    assert_eq!(seen(&mesh, "a1"), "+ ~ Unready", "what is not ready need not have any");
}

#[test]
fn a_local_service_keeps_to_the_node_whatever_hints_say() {
    let mesh = mesh(Reach::Local, vec![near("a1", 1), endpoint("a1", 2), near("a2", 3)]);
    assert_eq!(seen(&mesh, "a1"), "+ + OtherNode");
    assert_eq!(seen(&mesh, "b1"), "OtherNode OtherNode OtherNode");
}

/// An EndpointSlice's `serving` and `terminating`: better one that leaves than none at all.
#[test]
fn those_that_leave_serve_where_nobody_is_ready() {
    let leaving = |e: Endpoint| Endpoint { readiness: Readiness::Leaving, ..e };
    let beside = mesh(Reach::Cluster, vec![leaving(endpoint("a1", 1)), endpoint("b1", 2)]);
    assert_eq!(seen(&beside, "a1"), "Leaving +");
    let alone = mesh(Reach::Cluster, vec![leaving(endpoint("a1", 1)), leaving(endpoint("b1", 2))]);
    assert_eq!(seen(&alone, "a1"), "+ +");
    let local = mesh(Reach::Local, vec![leaving(endpoint("a1", 1)), endpoint("b1", 2)]);
    assert_eq!(seen(&local, "a1"), "+ OtherNode", "ready ones elsewhere are none of this node's");
    let near_one = mesh(Reach::Cluster, vec![leaving(near("a1", 1)), near("a2", 2)]);
    assert_eq!(seen(&near_one, "a1"), "Leaving +", "a ready one farther away goes before one that leaves");
}

#[test]
fn one_that_fails_leaves_its_clients_to_the_next_level_but_never_to_nobody() {
    let mesh = mesh(Reach::Cluster, vec![near("a1", 1), near("a2", 2), near("b1", 3)]);
    assert_eq!(seen_without(&mesh, "a1", &[1]), "Ejected + ~");
    assert_eq!(seen_without(&mesh, "a1", &[1, 2]), "Ejected Ejected +");
    assert_eq!(seen_without(&mesh, "a1", &[1, 2, 3]), "+ ~ ~", "all there is");
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let readiness = prop::sample::select(vec![Readiness::Ready, Readiness::Leaving, Readiness::Unready]);
    let nodes = || prop::collection::btree_set(prop::sample::select(vec!["a1", "a2", "b1"]), 0..3);
    let zones = prop::collection::btree_set(prop::sample::select(vec!["a", "b"]), 0..2);
    (prop::sample::select(vec!["a1", "a2", "b1", "c1"]), nodes(), zones, readiness, 0..3u32).prop_map(
        |(node, for_nodes, for_zones, readiness, weight)| Endpoint {
            readiness,
            weight,
            place: Place {
                node: Some(node.into()),
                for_nodes: for_nodes.into_iter().map(Into::into).collect(),
                for_zones: for_zones.into_iter().map(Into::into).collect(),
            },
            ..endpoint(node, 0)
        },
    )
}

proptest! {
    /// No preference and no hint ever leaves a client with nobody where somebody could take it.
    #[test]
    fn somebody_is_chosen_wherever_somebody_could_be(
        endpoints in prop::collection::vec(any_endpoint(), 0..8), node in prop::sample::select(vec!["a1", "b1", "c1"]),
    ) {
        let numbered = endpoints.into_iter().zip(1..).map(|(e, last)| Endpoint {
            address: [10, 0, 0, last].into(),
            workload: None,
            ..e
        });
        let mesh = mesh(Reach::Cluster, numbered.collect());
        let could = mesh.snapshot.endpoints.values().next().unwrap().endpoints.iter();
        let n_could = could.filter(|e| e.weight > 0 && e.readiness != Readiness::Unready).count();
        let seen = seen(&mesh, node);
        prop_assert_eq!(seen.contains('+'), n_could > 0, "{}", seen);
        let other = format!("{:?}", Absence::OtherNode);
        prop_assert!(!seen.contains(&other), "{}", seen);
    }
}
