//! Explains connections in a small mesh, and holds each explanation against what the data plane would do.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{Absence, Answer, Explanation, Outcome, Way, explain, explain_datagram};
use crate::{
    Action, Encryption, EncryptionMode, Endpoint, Endpoints, Ground, Identity, Membership, Mesh, ObjectName, Policy,
    Protocol, Rule, Service, ServicePort, Snapshot, Source, Tier, UdpMode, Workload, service::Readiness,
};

fn shop(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn workload(name: &str, node: &str, last: u8) -> Workload {
    Workload {
        name: shop(name),
        instance: name.into(),
        identity: Identity::new("td", "shop", name),
        addresses: vec![[10, 0, 0, last].into(), format!("fd10::{last}").parse().unwrap()],
        node: node.into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    }
}

fn endpoint(name: &str, last: u8, weight: u32) -> Endpoint {
    Endpoint {
        address: [10, 0, 0, last].into(),
        workload: Some(shop(name)),
        ports: BTreeMap::from([((80, Protocol::Tcp), 8080)]),
        weight,
        readiness: Readiness::Ready,
        place: Default::default(),
    }
}

/// web on a; api on a (behind only-web); db on b (behind only-api); new on b, not enrolled; old on b, outside.
fn mesh(endpoints: Vec<Endpoint>, change: impl FnOnce(&mut BTreeMap<&str, Workload>)) -> Mesh {
    let mut pods = BTreeMap::from([
        ("web", workload("web", "a", 1)),
        ("api", workload("api", "a", 2)),
        ("db", workload("db", "b", 3)),
        ("new", Workload { membership: Membership::Pending, ..workload("new", "b", 4) }),
        ("old", Workload { membership: Membership::Outside, ..workload("old", "b", 5) }),
    ]);
    for (pod, policy) in [("api", "only-web"), ("db", "only-api")] {
        pods.get_mut(pod).unwrap().policies = [shop(policy)].into();
    }
    change(&mut pods);
    let allow = |name: &str, account: &str| Policy {
        name: shop(name),
        action: Action::Allow,
        rules: vec![Rule {
            from: vec![Source::Identity(Identity::new("td", "shop", account))],
            ports: [].into(),
            protocol: None,
        }],
        tier: Tier::Access,
    };
    let service = Service {
        name: shop("store"),
        addresses: vec![[10, 96, 0, 1].into()],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
        traffic: Default::default(),
    };
    let policies = [allow("only-web", "web"), allow("only-api", "api")];
    Mesh::new(Arc::new(Snapshot {
        generation: 7,
        trust_domain: "td".into(),
        workloads: pods.into_values().map(|w| (w.name.clone(), Arc::new(w))).collect(),
        services: [(shop("store"), Arc::new(service))].into(),
        endpoints: [(shop("store"), Arc::new(Endpoints { service: shop("store"), endpoints }))].into(),
        policies: policies.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        ..Snapshot::default()
    }))
}

fn ask(mesh: &Mesh, from: &str, to: &str) -> Explanation {
    let to: SocketAddr = to.parse().unwrap();
    explain(mesh, mesh.snapshot.workloads.get(&shop(from)).unwrap(), to)
}

fn only_route(explanation: &Explanation) -> (&Way, &Answer) {
    let [route] = explanation.routes.as_slice() else { panic!("one route: {explanation:?}") };
    (&route.way, &route.answer)
}

fn last_sentence(explanation: &Explanation) -> &str {
    &explanation.steps.last().unwrap().text
}

#[test]
fn a_call_on_one_node_goes_straight() {
    let explanation = ask(&mesh(vec![], |_| ()), "web", "10.0.0.2:8080");
    assert_eq!(only_route(&explanation), (&Way::Direct, &Answer::Allowed(Ground::Policy(shop("only-web")))));
    assert_eq!(explanation.outcome, Outcome::Allowed);
    assert_eq!(last_sentence(&explanation), "shop/web may call 10.0.0.2:8080.");
    let topics: Vec<&str> = explanation.steps.iter().map(|s| s.topic.as_str()).collect();
    assert_eq!(topics, ["caller", "address", "way", "encryption", "policy", "outcome"]);
}

#[test]
fn a_call_to_another_node_is_tunnelled_in_either_family() {
    for (to, tunnel) in [("10.0.0.3:5432", "10.0.0.3:15008"), ("[fd10::3]:5432", "[fd10::3]:15008")] {
        let explanation = ask(&mesh(vec![], |_| ()), "api", to);
        let (way, answer) = only_route(&explanation);
        assert_eq!(way, &Way::Tunnel(tunnel.parse().unwrap()));
        assert!(answer.lets_through());
    }
}

#[test]
fn a_denied_call_names_the_policy_and_fails_in_connect() {
    let explanation = ask(&mesh(vec![], |_| ()), "web", "10.0.0.3:5432");
    assert_eq!(only_route(&explanation).1, &Answer::Denied(Ground::NoneAllows(shop("only-api"))));
    assert!(explanation.steps.iter().any(|s| s.topic == "policy" && s.text.contains("shop/only-api")));
    assert_eq!(last_sentence(&explanation), "shop/web may not call 10.0.0.3:5432: connect() fails at once.");
}

#[test]
fn a_service_shows_each_backend_with_its_share_and_who_is_left_out() {
    let endpoints = vec![
        endpoint("api", 2, 3),
        endpoint("db", 3, 1),
        endpoint("new", 4, 1),
        Endpoint { readiness: Readiness::Unready, ..endpoint("x", 6, 1) },
        endpoint("y", 7, 0),
        Endpoint { address: "fd10::8".parse().unwrap(), ..endpoint("z", 8, 1) },
        Endpoint { ports: BTreeMap::new(), ..endpoint("w", 9, 1) },
    ];
    let explanation = ask(&mesh(endpoints, |_| ()), "web", "10.96.0.1:80");
    assert_eq!(explanation.service, Some(shop("store")));
    let shares: Vec<f64> = explanation.routes.iter().map(|r| r.share).collect();
    assert_eq!(shares, [0.75, 0.25]);
    let why: Vec<Absence> = explanation.left_out.iter().map(|l| l.why).collect();
    assert_eq!(
        why,
        [Absence::NotEnrolled, Absence::Unready, Absence::NoWeight, Absence::OtherFamily, Absence::NoSuchPort]
    );
    // web may call api, but not db.
    assert_eq!(explanation.outcome, Outcome::Mixed);
    assert!(last_sentence(&explanation).contains("25.0 % of its connections are refused"));
}

#[test]
fn a_service_without_a_backend_refuses_at_once() {
    let explanation = ask(&mesh(vec![endpoint("new", 4, 1)], |_| ()), "web", "10.96.0.1:80");
    assert_eq!(explanation.outcome, Outcome::NoBackend);
    assert!(!explanation.outcome.lets_through());
}

#[test]
fn what_is_not_of_the_mesh_is_left_alone() {
    for to in ["192.0.2.1:443", "10.0.0.5:80", "10.96.0.1:81"] {
        let explanation = ask(&mesh(vec![], |_| ()), "web", to);
        assert_eq!(explanation.outcome, Outcome::Untouched, "{to}");
        assert_eq!(only_route(&explanation), (&Way::Plain, &Answer::Unasked), "{to}");
    }
}

#[test]
fn the_meshs_own_ports_and_the_not_enrolled_are_refused() {
    let mesh = mesh(vec![], |_| ());
    assert_eq!(only_route(&ask(&mesh, "web", "10.0.0.2:15008")).1, &Answer::MeshPort);
    assert_eq!(only_route(&ask(&mesh, "web", "10.0.0.1:15801")).1, &Answer::MeshPort);
    assert_eq!(only_route(&ask(&mesh, "web", "10.0.0.4:80")).1, &Answer::NotEnrolled);
    assert_eq!(only_route(&ask(&mesh, "web", "10.0.0.1:80")), (&Way::Own, &Answer::Unasked));
}

#[test]
fn a_caller_outside_the_mesh_is_nobody() {
    let strict = |pods: &mut BTreeMap<&str, Workload>| {
        let modes = BTreeMap::from([(8443, EncryptionMode::Strict)]);
        pods.get_mut("web").unwrap().encryption =
            Encryption { default: EncryptionMode::Permissive, ports: modes, ..Encryption::default() };
    };
    let mesh = mesh(vec![], strict);
    assert_eq!(only_route(&ask(&mesh, "old", "10.0.0.1:80")), (&Way::Plain, &Answer::Allowed(Ground::Unselected)));
    assert_eq!(only_route(&ask(&mesh, "old", "10.0.0.1:8443")).1, &Answer::PlainTextRefused);
    // Its service account is the one allowed, but nobody vouches for it.
    assert!(!only_route(&ask(&mesh, "old", "10.0.0.2:80")).1.lets_through());
    assert_eq!(ask(&mesh, "old", "10.96.0.1:80").outcome, Outcome::Untouched);
}

#[test]
fn a_v4_mapped_address_is_its_ipv4_one() {
    let mesh = mesh(vec![], |_| ());
    assert_eq!(ask(&mesh, "web", "[::ffff:10.0.0.2]:80"), ask(&mesh, "web", "10.0.0.2:80"));
}

fn ask_by_udp(mesh: &Mesh, from: &str, to: &str) -> Explanation {
    explain_datagram(mesh, mesh.snapshot.workloads.get(&shop(from)).unwrap(), to.parse().unwrap())
}

#[test]
fn a_datagram_has_an_identity_on_one_node_alone() {
    let mesh = mesh(vec![], |_| ());
    let near = ask_by_udp(&mesh, "web", "10.0.0.2:53");
    assert_eq!(only_route(&near), (&Way::Direct, &Answer::Allowed(Ground::Policy(shop("only-web")))));
    let far = ask_by_udp(&mesh, "api", "[fd10::3]:53");
    assert_eq!(only_route(&far), (&Way::Clear, &Answer::NoIdentity(Ground::NoneAllows(shop("only-api")))));
    assert!(far.steps.iter().any(|step| step.topic == "policy" && step.text.contains("shop/only-api")));
    assert_eq!(last_sentence(&far), "shop/api may not call [fd10::3]:53: sendto() or connect() fails at once.");
    // By TCP it is another matter.
    assert!(ask(&mesh, "api", "[fd10::3]:53").outcome.lets_through());
}

#[test]
fn a_workload_that_takes_no_datagrams_takes_those_of_its_own_node() {
    let mesh = mesh(vec![], |pods| {
        for pod in ["api", "db"] {
            let pod = pods.get_mut(pod).unwrap();
            pod.encryption.udp = UdpMode::Deny;
            pod.policies.clear();
        }
    });
    assert_eq!(
        only_route(&ask_by_udp(&mesh, "web", "10.0.0.2:53")),
        (&Way::Direct, &Answer::Allowed(Ground::Unselected))
    );
    assert_eq!(only_route(&ask_by_udp(&mesh, "web", "10.0.0.3:53")), (&Way::Clear, &Answer::NoDatagrams));
    assert_eq!(only_route(&ask_by_udp(&mesh, "old", "10.0.0.2:53")), (&Way::Plain, &Answer::NoDatagrams));
    assert_eq!(only_route(&ask_by_udp(&mesh, "web", "10.0.0.1:53")), (&Way::Own, &Answer::Unasked));
    assert_eq!(only_route(&ask_by_udp(&mesh, "web", "10.0.0.4:53")).1, &Answer::NotEnrolled);
    assert_eq!(ask_by_udp(&mesh, "web", "10.96.0.1:80").outcome, Outcome::Untouched, "a service by TCP is none by UDP");
}
