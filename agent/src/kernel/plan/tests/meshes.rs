//! States what the tables should hold for a mesh, by example, and that plans between real meshes keep the rules.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use millrace_abi::{DestKind, PodKind, ProbeKey, Reason};
use millrace_model::{
    Action, Encryption, Endpoint, Endpoints, Identity, Membership, Mesh, ObjectName, Policy, Protocol, Rule, Service,
    ServicePort, Snapshot, Source, Tier, Traffic, Workload, service::Readiness,
};
use proptest::prelude::*;

use super::super::{Namespace, Namespaces, want};
use super::{State, addr as v4, decides, drawn, is_safe};
use crate::kernel::plan::addr;

const HOST: u64 = 1000;

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn workload(pod: &str, node: &str, addresses: &[&str]) -> Workload {
    Workload {
        name: name(pod),
        instance: pod.into(),
        identity: Identity::new("td", "shop", pod),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        node: node.into(),
        zone: None,
        netns: Some(format!("/run/netns/{pod}").into()),
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: BTreeSet::new(),
        probe_ports: BTreeSet::new(),
        telemetry: None,
        network: None,
    }
}

fn only(policy: &str, action: Action, from: Source, ports: &[u16]) -> Policy {
    let rules = vec![Rule { from: vec![from], ports: ports.iter().copied().collect(), protocol: None }];
    Policy { name: name(policy), action, rules, tier: Tier::Access }
}

fn mesh(workloads: Vec<Workload>, policies: Vec<Policy>, services: Vec<(Service, Vec<Endpoint>)>) -> Mesh {
    let endpoints = services.iter().map(|(service, endpoints)| {
        let endpoints = Endpoints { service: service.name.clone(), endpoints: endpoints.clone() };
        (service.name.clone(), Arc::new(endpoints))
    });
    Mesh::new(Arc::new(Snapshot {
        generation: 1,
        trust_domain: "td".into(),
        endpoints: endpoints.collect(),
        workloads: workloads.into_iter().map(|w| (w.name.clone(), Arc::new(w))).collect(),
        services: services.into_iter().map(|(s, _)| (s.name.clone(), Arc::new(s))).collect(),
        policies: policies.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        ..Snapshot::default()
    }))
}

/// Cookie 1 is web, 2 is db, 3 is batch.
fn namespaces(pods: &[(u64, &str)]) -> Namespaces {
    let pods = pods.iter().map(|(cookie, pod)| (*cookie, Namespace::Mesh(name(pod))));
    pods.chain([(HOST, Namespace::Host)]).collect()
}

fn asks(state: &State, cookie: u64, to: &str) -> Reason {
    let to: std::net::SocketAddr = to.parse().unwrap();
    decides(state, cookie, addr(to.ip()), to.port().to_be_bytes())
}

#[test]
fn pods_addresses_and_kinds_are_as_the_node_sees_them() {
    let pending = Workload { membership: Membership::Pending, ..workload("new", "b", &["10.0.1.9"]) };
    let outside = Workload { membership: Membership::Outside, ..workload("old", "a", &["10.0.0.9"]) };
    let local = workload("web", "a", &["10.0.0.1", "fd00::1"]);
    let mesh = mesh(vec![local, workload("db", "b", &["10.0.1.2"]), pending, outside], vec![], vec![]);
    let mut known = namespaces(&[(1, "web")]);
    known.insert(2, Namespace::Outside(name("old")));
    let state = want(&mesh, "a", &known);
    let kinds: Vec<u32> = state.pods.values().map(|pod| pod.kind).collect();
    assert_eq!(kinds, [PodKind::Mesh as u32, PodKind::Outside as u32, PodKind::Host as u32]);
    let dest = |at: &str| state.dests.get(&addr(at.parse().unwrap())).map(|dest| dest.kind);
    assert_eq!(dest("10.0.0.1"), Some(DestKind::Local as u32));
    assert_eq!(dest("fd00::1"), Some(DestKind::Local as u32));
    assert_eq!(dest("10.0.1.2"), Some(DestKind::Remote as u32));
    assert_eq!(dest("10.0.1.9"), Some(DestKind::Pending as u32));
    assert_eq!(dest("10.0.0.9"), None, "an address outside the mesh is left alone");
    assert_eq!(state.listeners.len(), 4, "plaintext and tunnel, of each family");
}

#[test]
fn verdicts_are_the_models_for_each_port_that_a_policy_names() {
    let db = Workload { policies: [name("only-web")].into(), ..workload("db", "b", &["10.0.1.2"]) };
    let web = Source::Identity(Identity::new("td", "shop", "web"));
    let mesh = mesh(
        vec![workload("web", "a", &["10.0.0.1"]), workload("batch", "a", &["10.0.0.3"]), db],
        vec![only("only-web", Action::Allow, web, &[5432])],
        vec![],
    );
    let state = want(&mesh, "a", &namespaces(&[(1, "web"), (3, "batch")]));
    assert_eq!(asks(&state, 1, "10.0.1.2:5432"), Reason::Proxied);
    assert_eq!(asks(&state, 1, "10.0.1.2:80"), Reason::Denied);
    assert_eq!(asks(&state, 3, "10.0.1.2:5432"), Reason::Denied);
    assert!(state.verdicts.values().all(|verdict| verdict.policy == name("only-web").id()));
}

/// A block of IPv4 addresses says nothing of the same caller's IPv6 one.
#[test]
fn a_policy_by_address_is_judged_for_each_family() {
    let db = Workload { policies: [name("by-block")].into(), ..workload("db", "a", &["10.0.0.2", "fd00::2"]) };
    let block = Source::Block("10.0.0.1/32".parse().unwrap());
    let mesh = mesh(
        vec![workload("web", "a", &["10.0.0.1", "fd00::1"]), db],
        vec![only("by-block", Action::Allow, block, &[])],
        vec![],
    );
    let state = want(&mesh, "a", &namespaces(&[(1, "web"), (2, "db")]));
    assert_eq!(asks(&state, 1, "10.0.0.2:80"), Reason::Direct);
    assert_eq!(asks(&state, 1, "[fd00::2]:80"), Reason::Denied);
}

/// The node's kubelet probes what its own node runs, and nothing of another.
#[test]
fn the_host_may_reach_the_probes_of_its_own_nodes_workloads() {
    let probed = |pod: &str, node: &str, addresses: &[&str]| Workload {
        probe_ports: [8080, 9090].into(),
        telemetry: None,
        network: None,
        ..workload(pod, node, addresses)
    };
    let outside = Workload { membership: Membership::Outside, ..probed("old", "a", &["10.0.0.9"]) };
    let pending = Workload { membership: Membership::Pending, ..probed("new", "a", &["10.0.0.3"]) };
    let workloads =
        vec![probed("web", "a", &["10.0.0.1", "fd00::1"]), probed("db", "b", &["10.0.1.2"]), outside, pending];
    let state = want(&mesh(workloads, vec![], vec![]), "a", &namespaces(&[(1, "web")]));
    let key =
        |at: &str, port: u16| ProbeKey { addr: addr(at.parse().unwrap()), port: port.to_be_bytes(), reserved: [0; 2] };
    let expected = ["10.0.0.1", "fd00::1", "10.0.0.3"].into_iter().flat_map(|at| [key(at, 8080), key(at, 9090)]);
    assert_eq!(state.probes, expected.collect());
}

#[test]
fn a_policy_that_is_not_there_lets_nobody_in() {
    let db = Workload { policies: [name("unknown")].into(), ..workload("db", "a", &["10.0.0.2"]) };
    let mesh = mesh(vec![workload("web", "a", &["10.0.0.1"]), db], vec![], vec![]);
    let state = want(&mesh, "a", &namespaces(&[(1, "web"), (2, "db")]));
    assert_eq!(asks(&state, 1, "10.0.0.2:80"), Reason::Denied);
}

fn service(vip: &str, backends: &[(&str, u32, Readiness)]) -> (Service, Vec<Endpoint>) {
    let ports = vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }];
    let endpoint = |(address, weight, readiness): &(&str, u32, Readiness)| Endpoint {
        address: address.parse().unwrap(),
        workload: None,
        ports: [((80, Protocol::Tcp), 8080)].into(),
        weight: *weight,
        readiness: *readiness,
        place: Default::default(),
    };
    let addresses = vec![vip.parse::<IpAddr>().unwrap()];
    let service = Service { name: name("svc"), addresses, ports, traffic: Traffic::default() };
    (service, backends.iter().map(endpoint).collect())
}

#[test]
fn a_service_draws_from_its_ready_backends_by_weight_and_refuses_without_any() {
    let ready =
        [("10.0.0.2", 1, Readiness::Ready), ("10.0.1.2", 3, Readiness::Ready), ("10.0.1.3", 5, Readiness::Unready)];
    let state = want(&mesh(vec![], vec![], vec![service("10.96.0.1", &ready)]), "a", &namespaces(&[]));
    let [slots] = &drawn(&state).into_values().collect::<Vec<_>>()[..] else { panic!() };
    let mut backends: Vec<_> = slots.iter().map(|slot| slot.unwrap().addr).collect();
    backends.sort_unstable();
    assert_eq!(backends, [v4(2), addr("10.0.1.2".parse().unwrap())]);
    let none = [("10.0.0.2", 1, Readiness::Unready), ("10.0.1.2", 0, Readiness::Ready)];
    let state = want(&mesh(vec![], vec![], vec![service("10.96.0.1", &none)]), "a", &namespaces(&[]));
    let [value] = state.services.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(value.n_slots, 0);
}

/// Meshes of one node in which labels, policies, memberships and namespaces change at will.
fn meshes() -> impl Strategy<Value = State> {
    let bound = prop::collection::btree_set(0usize..3, 0..3);
    let pod = (bound, 0u8..3, any::<bool>(), any::<bool>());
    let rules = prop::collection::vec(
        (0usize..4, prop::collection::btree_set(prop::sample::select(vec![80u16, 443]), 0..2)),
        0..3,
    );
    let policy = (any::<bool>(), rules);
    (prop::collection::vec(pod, 4), prop::collection::vec(policy, 3)).prop_map(|(pods, policies)| {
        let id = |n: usize| name(&format!("p{n}"));
        let mut known = namespaces(&[]);
        let workloads = pods.into_iter().enumerate().map(|(n, (bound, membership, is_local, is_found))| {
            let last = n + 1;
            let mut pod = workload(&format!("w{n}"), if is_local { "a" } else { "b" }, &[&format!("10.0.0.{last}")]);
            pod.policies = bound.into_iter().map(id).collect();
            pod.probe_ports = if membership == 2 { [80].into() } else { [].into() };
            pod.membership = [Membership::Outside, Membership::Pending, Membership::Enrolled][usize::from(membership)];
            if is_local && is_found {
                let namespace = match pod.membership {
                    Membership::Outside => Namespace::Outside(pod.name.clone()),
                    Membership::Pending | Membership::Enrolled | Membership::Host => Namespace::Mesh(pod.name.clone()),
                };
                known.insert(last as u64, namespace);
            }
            pod
        });
        let workloads = workloads.collect();
        let policies = policies.into_iter().enumerate().map(|(n, (is_deny, rules))| {
            let source = |caller: usize| match caller {
                3 => Source::Block("10.0.0.0/31".parse().unwrap()),
                n => Source::Identity(Identity::new("td", "shop", &format!("w{n}"))),
            };
            let rules =
                rules.into_iter().map(|(caller, ports)| Rule { from: vec![source(caller)], ports, protocol: None });
            Policy {
                name: id(n),
                action: if is_deny { Action::Deny } else { Action::Allow },
                rules: rules.collect(),
                tier: Tier::Access,
            }
        });
        let backends = [("10.0.0.1", 1, Readiness::Ready), ("10.0.0.2", 2, Readiness::Ready)];
        want(&mesh(workloads, policies.collect(), vec![service("10.96.0.1", &backends)]), "a", &known)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn plans_between_real_meshes_keep_the_rules(have in meshes(), next in meshes()) {
        is_safe(&have, &next)?;
    }
}
