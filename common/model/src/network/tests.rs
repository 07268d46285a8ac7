//! Who is bound takes and makes what some network policy names, by protocol and address, and nothing else.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{Network, PREFIX};
use crate::{
    Action, Encryption, Facts, Ground, Identity, Membership, Mesh, ObjectName, Policy, Protocol, Rule, Snapshot,
    Source, Tier, Verdict, Workload, authorize_by, datagram,
};

const WEB: &str = "10.0.0.1";
const DB: &str = "10.0.0.2";
const OTHER: &str = "10.0.0.3";
const NODE: &str = "192.168.0.1";
/// Selects web.
const WEBS: u64 = 7;
/// Selects db.
const DBS: u64 = 8;

fn named(policy: &str) -> ObjectName {
    ObjectName::new("shop", &format!("{PREFIX}{policy}"))
}

fn rule(from: &[Source], ports: &[u16], protocol: Option<Protocol>) -> Rule {
    Rule { from: from.to_vec(), ports: ports.iter().copied().collect(), protocol }
}

fn policy(name: &str, rules: Vec<Rule>, egress: Vec<Rule>) -> Policy {
    Policy { name: named(name), action: Action::Allow, rules, tier: Tier::Network { egress } }
}

fn workload(name: &str, node: &str, address: &str, network: Network) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: name.into(),
        identity: Identity::new("td", "shop", name),
        addresses: vec![address.parse().unwrap()],
        node: node.into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: BTreeSet::new(),
        probe_ports: BTreeSet::new(),
        telemetry: None,
        network: Some(Arc::new(network)),
    }
}

/// web and another call db, which `inward` binds; `outward` binds what web calls.
fn mesh(inward: &[Policy], outward: &[Policy]) -> Mesh {
    let names = |all: &[Policy]| all.iter().map(|policy| policy.name.clone()).collect::<BTreeSet<_>>();
    let web = Network { egress: names(outward), peers: [WEBS].into(), class: 1, is_host: false };
    let db = Network { peers: [DBS].into(), class: 2, ..Network::default() };
    let host = Network { is_host: true, ..Network::default() };
    let all = [
        workload("web", "a", WEB, web),
        Workload { policies: names(inward), ..workload("db", "b", DB, db) },
        workload("other", "a", OTHER, Network { class: 3, ..Network::default() }),
        Workload { membership: Membership::Outside, ..workload("kube-proxy", "b", NODE, host) },
    ];
    Mesh::new(Arc::new(Snapshot {
        trust_domain: "td".into(),
        workloads: all.into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect(),
        policies: inward.iter().chain(outward).map(|one| (one.name.clone(), Arc::new(one.clone()))).collect(),
        ..Snapshot::default()
    }))
}

/// What db answers a call from this address, by whoever has it.
fn verdict(mesh: &Mesh, from: &str, port: u16, protocol: Protocol) -> Verdict {
    let address: IpAddr = from.parse().unwrap();
    let identity = mesh.workload_at(address).filter(|one| one.membership.is_captured());
    let facts = Facts { identity: identity.map(|one| one.identity.clone()), address, port };
    authorize_by(mesh, &mesh.snapshot.workloads[&ObjectName::new("shop", "db")], &facts, protocol)
}

fn lets_in(mesh: &Mesh, from: &str, port: u16) -> bool {
    verdict(mesh, from, port, Protocol::Tcp).allows()
}

#[test]
fn who_is_bound_takes_what_some_policy_names_and_nothing_else() {
    let none = mesh(&[policy("none", vec![], vec![])], &[]);
    assert_eq!(verdict(&none, WEB, 80, Protocol::Tcp), Verdict::Deny(Ground::NoneAllows(named("none"))));
    let webs = policy("webs", vec![rule(&[Source::Peers(WEBS)], &[80], None)], vec![]);
    let both = mesh(&[policy("none", vec![], vec![]), webs], &[]);
    assert_eq!(verdict(&both, WEB, 80, Protocol::Tcp), Verdict::Allow(Ground::Policy(named("webs"))));
    assert!(!lets_in(&both, WEB, 81) && !lets_in(&both, OTHER, 80) && !lets_in(&both, "10.9.9.9", 80));
}

#[test]
fn who_calls_with_anothers_address_is_not_taken_for_it() {
    let mesh = mesh(&[policy("webs", vec![rule(&[Source::Peers(WEBS)], &[], None)], vec![])], &[]);
    let db = &mesh.snapshot.workloads[&ObjectName::new("shop", "db")];
    let facts = |identity| Facts { identity, address: WEB.parse().unwrap(), port: 80 };
    assert!(authorize_by(&mesh, db, &facts(None), Protocol::Tcp).allows(), "by its address, as Kubernetes does");
    let other = Some(Identity::new("td", "shop", "other"));
    assert!(!authorize_by(&mesh, db, &facts(other), Protocol::Tcp).allows());
}

#[test]
fn both_tiers_must_let_a_call_through() {
    let access = |from| Policy {
        name: ObjectName::new("shop", "p"),
        action: Action::Allow,
        rules: vec![rule(&[Source::Identity(Identity::new("td", "shop", from))], &[], None)],
        tier: Tier::Access,
    };
    let webs = || policy("webs", vec![rule(&[Source::Peers(WEBS)], &[], None)], vec![]);
    assert!(lets_in(&mesh(&[access("web"), webs()], &[]), WEB, 80));
    assert!(!lets_in(&mesh(&[access("web"), policy("none", vec![], vec![])], &[]), WEB, 80));
    let refused = mesh(&[access("other"), webs()], &[]);
    assert_eq!(
        verdict(&refused, WEB, 80, Protocol::Tcp),
        Verdict::Deny(Ground::NoneAllows(ObjectName::new("shop", "p")))
    );
}

#[test]
fn whom_a_workload_may_call_is_asked_where_it_calls_and_where_it_is_heard() {
    let to_dbs = |ports: &[u16]| policy("out", vec![], vec![rule(&[Source::Peers(DBS)], ports, None)]);
    assert!(lets_in(&mesh(&[], &[to_dbs(&[5432])]), WEB, 5432));
    let bound = mesh(&[], &[to_dbs(&[5432])]);
    assert_eq!(verdict(&bound, WEB, 80, Protocol::Tcp), Verdict::Deny(Ground::NoneAllows(named("out"))));
    assert!(lets_in(&bound, OTHER, 80), "nothing binds what it calls");
    let nobody = policy("nobody", vec![], vec![rule(&[Source::Peers(WEBS)], &[], None)]);
    assert!(!lets_in(&mesh(&[], std::slice::from_ref(&nobody)), WEB, 80));
    assert!(lets_in(&mesh(&[], &[nobody, to_dbs(&[])]), WEB, 80), "of two that bind it, one is enough");
}

#[test]
fn protocols_are_told_apart() {
    let dns = policy("dns", vec![rule(&[], &[53], Some(Protocol::Udp))], vec![]);
    let mesh = mesh(&[dns], &[]);
    assert!(verdict(&mesh, WEB, 53, Protocol::Udp).allows());
    assert!(!verdict(&mesh, WEB, 53, Protocol::Tcp).allows());
    let db = &mesh.snapshot.workloads[&ObjectName::new("shop", "db")];
    assert!(db.judges_protocols(&mesh));
    assert!(datagram::authorize_stranger(&mesh, db, "10.9.9.9".parse().unwrap(), 53).allows());
    assert!(!datagram::authorize_stranger(&mesh, db, "10.9.9.9".parse().unwrap(), 54).allows());
}

#[test]
fn a_pods_own_node_may_always_call_it() {
    let mesh = mesh(&[policy("none", vec![], vec![])], &[]);
    assert!(lets_in(&mesh, NODE, 80));
    let far = ObjectName::new("shop", "other");
    let bound = Workload { policies: [named("none")].into(), ..Workload::clone(&mesh.snapshot.workloads[&far]) };
    let facts = Facts { identity: None, address: NODE.parse().unwrap(), port: 80 };
    assert!(!authorize_by(&mesh, &bound, &facts, Protocol::Tcp).allows(), "another node is anybody");
}

#[test]
fn a_policy_that_is_not_there_lets_nothing_through() {
    let out = policy("out", vec![], vec![rule(&[], &[], None)]);
    let whole = mesh(&[], &[out]);
    assert!(lets_in(&whole, WEB, 80));
    let mut snapshot = Snapshot::clone(&whole.snapshot);
    snapshot.policies.remove(&named("out"));
    let torn = Mesh::new(Arc::new(snapshot));
    assert_eq!(verdict(&torn, WEB, 80, Protocol::Tcp), Verdict::Deny(Ground::Missing(named("out"))));
}

/// Every address is judged by the part that holds it, as it is by itself.
#[test]
fn callers_known_by_address_are_parts_of_their_own() {
    let webs = policy("webs", vec![rule(&[Source::Peers(WEBS)], &[], None)], vec![]);
    let mesh = mesh(&[webs], &[]);
    let db = &mesh.snapshot.workloads[&ObjectName::new("shop", "db")];
    let parts = datagram::parts(&mesh, db, true);
    for address in [WEB, OTHER, DB, NODE, "10.9.9.9"] {
        let address: IpAddr = address.parse().unwrap();
        let of = |part: &&datagram::Part| part.block == Some((address, 32));
        let part = parts.iter().find(of).or_else(|| parts.iter().find(|part| part.block.is_none())).unwrap();
        assert_eq!(
            datagram::authorize_stranger(&mesh, db, part.address, 53),
            datagram::authorize_stranger(&mesh, db, address, 53),
            "{address}"
        );
    }
}
