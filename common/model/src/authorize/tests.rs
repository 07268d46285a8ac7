//! States what a verdict is, by example and by property.

use std::{collections::BTreeSet, sync::Arc};

use super::{Facts, Ground, Verdict, authorize};
use crate::{
    Action, Encryption, Identity, Membership, Mesh, ObjectName, Policy, Rule, Snapshot, Source, Tier, Workload,
};

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy { name: ObjectName::new("shop", name), action, rules, tier: Tier::Access }
}

fn from(source: Source) -> Vec<Rule> {
    vec![Rule { from: vec![source], ports: BTreeSet::new(), protocol: None }]
}

fn verdict(policies: Vec<Policy>, facts: &Facts) -> Verdict {
    let names = policies.iter().map(|p| p.name.clone()).collect();
    let snapshot = Snapshot {
        trust_domain: "td".into(),
        policies: policies.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        ..Snapshot::default()
    };
    let workload = Workload {
        name: ObjectName::new("shop", "db"),
        instance: "1".into(),
        identity: Identity::new("td", "shop", "db"),
        addresses: Vec::new(),
        node: "a".into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: names,
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    };
    authorize(&Mesh::new(Arc::new(snapshot)), &workload, facts)
}

fn web() -> Facts {
    Facts { identity: Some(Identity::new("td", "shop", "web")), address: [10, 0, 0, 1].into(), port: 80 }
}

#[test]
fn a_workload_that_no_policy_selects_is_open_to_all() {
    assert_eq!(verdict(vec![], &web()), Verdict::Allow(Ground::Unselected));
}

#[test]
fn one_allow_closes_a_workload_to_everybody_else() {
    let only_api = policy("only-api", Action::Allow, from(Source::Identity(Identity::new("td", "shop", "api"))));
    assert_eq!(verdict(vec![only_api.clone()], &web()), Verdict::Deny(Ground::NoneAllows(only_api.name.clone())));
}

/// A deny and an allow that both match: order in the API server must not matter.
#[test]
fn deny_wins_whatever_the_order() {
    let allow = |name| policy(name, Action::Allow, from(Source::Namespace("shop".into())));
    let deny = |name| policy(name, Action::Deny, from(Source::Identity(Identity::new("td", "shop", "web"))));
    for policies in [vec![allow("a"), deny("b")], vec![deny("a"), allow("b")]] {
        assert!(!verdict(policies, &web()).allows());
    }
}

#[test]
fn a_caller_without_identity_is_in_no_namespace() {
    let shop = policy("shop", Action::Allow, from(Source::Namespace("shop".into())));
    assert!(verdict(vec![shop.clone()], &web()).allows());
    assert!(!verdict(vec![shop], &Facts { identity: None, ..web() }).allows());
}

#[test]
fn a_namespace_of_another_trust_domain_is_another_namespace() {
    let shop = policy("shop", Action::Allow, from(Source::Namespace("shop".into())));
    let foreign = Facts { identity: Some(Identity::new("other", "shop", "web")), ..web() };
    assert!(!verdict(vec![shop], &foreign).allows());
}

#[test]
fn an_allow_without_rules_denies_all() {
    assert!(!verdict(vec![policy("none", Action::Allow, vec![])], &web()).allows());
}

#[test]
fn a_rule_binds_only_the_ports_it_names() {
    let on_80 = policy("p", Action::Allow, vec![Rule { from: vec![], ports: BTreeSet::from([80]), protocol: None }]);
    assert!(verdict(vec![on_80.clone()], &web()).allows());
    assert!(!verdict(vec![on_80], &Facts { port: 81, ..web() }).allows());
}

#[test]
fn a_block_matches_with_or_without_identity() {
    let block = policy("b", Action::Deny, from(Source::Block("10.0.0.0/24".parse().unwrap())));
    assert!(!verdict(vec![block.clone()], &web()).allows());
    assert!(!verdict(vec![block.clone()], &Facts { identity: None, ..web() }).allows());
    assert!(verdict(vec![block], &Facts { address: [10, 0, 1, 1].into(), ..web() }).allows());
}
