//! States what callers without identity get, by example, and that parts stand for every address of theirs.

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{Part, Stranger, parts, stranger};
use crate::{
    Action, Encryption, Ground, Identity, Membership, Mesh, ObjectName, Policy, Rule, Snapshot, Source, Tier, UdpMode,
    Verdict, Workload,
};

fn policy(name: &str, action: Action, from: Vec<Source>, ports: &[u16]) -> Policy {
    let rules = vec![Rule { from, ports: ports.iter().copied().collect(), protocol: None }];
    Policy { name: ObjectName::new("shop", name), action, rules, tier: Tier::Access }
}

fn identity() -> Source {
    Source::Identity(Identity::new("td", "shop", "web"))
}

fn block(text: &str) -> Source {
    Source::Block(text.parse().unwrap())
}

fn mesh(policies: Vec<Policy>, udp: UdpMode) -> (Mesh, Workload) {
    let workload = Workload {
        name: ObjectName::new("shop", "db"),
        instance: "1".into(),
        identity: Identity::new("td", "shop", "db"),
        addresses: Vec::new(),
        node: "a".into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption { udp, ..Encryption::default() },
        policies: policies.iter().map(|p| p.name.clone()).collect(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    };
    let snapshot = Snapshot {
        trust_domain: "td".into(),
        policies: policies.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        ..Snapshot::default()
    };
    (Mesh::new(Arc::new(snapshot)), workload)
}

fn asks(policies: Vec<Policy>, address: &str, port: u16) -> Verdict {
    let (mesh, workload) = mesh(policies, UdpMode::Allow);
    match stranger(&mesh, &workload, address.parse().unwrap(), port) {
        Stranger::Judged(verdict) => verdict,
        Stranger::Refused => panic!("encryption takes datagrams here"),
    }
}

#[test]
fn a_workload_that_no_policy_selects_takes_datagrams_of_everybody() {
    assert_eq!(asks(vec![], "10.0.0.1", 53), Verdict::Allow(Ground::Unselected));
}

#[test]
fn a_policy_that_names_identities_closes_its_ports_to_who_has_none() {
    for action in [Action::Allow, Action::Deny] {
        for source in [identity(), Source::Namespace("shop".into())] {
            let verdict = |port| asks(vec![policy("p", action, vec![source.clone()], &[53])], "10.0.0.1", port);
            assert!(!verdict(53).allows(), "{action:?} {source:?}");
            // A Deny speaks of its ports alone; an Allow closes all others too.
            assert_eq!(verdict(54).allows(), action == Action::Deny);
        }
    }
}

#[test]
fn an_address_is_believed_where_a_policy_asks_for_one() {
    let lan = || policy("lan", Action::Allow, vec![identity(), block("10.0.0.0/8")], &[]);
    assert!(asks(vec![lan()], "10.1.2.3", 53).allows());
    assert!(!asks(vec![lan()], "11.1.2.3", 53).allows());
    let not_here = policy("not-here", Action::Deny, vec![block("10.1.0.0/16")], &[]);
    assert!(!asks(vec![lan(), not_here], "10.1.2.3", 53).allows());
}

#[test]
fn a_rule_for_everybody_lets_in_who_has_no_identity() {
    assert!(asks(vec![policy("open", Action::Allow, vec![], &[53])], "10.0.0.1", 53).allows());
    assert!(!asks(vec![policy("shut", Action::Deny, vec![], &[53])], "10.0.0.1", 53).allows());
}

#[test]
fn a_policy_that_cannot_be_read_lets_nobody_in() {
    let (mesh, mut workload) = mesh(vec![], UdpMode::Allow);
    workload.policies.insert(ObjectName::new("shop", "lost"));
    let verdict = stranger(&mesh, &workload, [10, 0, 0, 1].into(), 53);
    assert_eq!(verdict, Stranger::Judged(Verdict::Deny(Ground::Missing(ObjectName::new("shop", "lost")))));
}

#[test]
fn encryption_that_takes_no_datagrams_asks_no_policy() {
    let (mesh, workload) = mesh(vec![policy("open", Action::Allow, vec![], &[])], UdpMode::Deny);
    assert_eq!(stranger(&mesh, &workload, [10, 0, 0, 1].into(), 53), Stranger::Refused);
    assert_ne!(workload.policy_group(), 0, "a workload without policies is bound all the same");
}

#[test]
fn a_part_that_smaller_ones_fill_is_left_out() {
    let halves = vec![block("10.0.0.0/9"), block("10.128.0.0/9"), block("10.0.0.0/8")];
    let (mesh, workload) = mesh(vec![policy("p", Action::Allow, halves, &[])], UdpMode::Allow);
    let blocks: Vec<_> = parts(&mesh, &workload, true).into_iter().map(|part| part.block).collect();
    let net = |last: u8| Some((IpAddr::from([10, last, 0, 0]), 9));
    assert_eq!(blocks, [None, net(0), net(128)]);
}

/// What a look-up by the longest prefix finds.
fn longest(parts: &[Part], address: IpAddr) -> &Part {
    let holds = |part: &&Part| match part.block {
        None => true,
        Some((network, bits)) => ipnet::IpNet::new(network, bits).unwrap().contains(&address),
    };
    parts.iter().filter(holds).max_by_key(|part| part.block.map_or(-1, |(_, bits)| i16::from(bits))).unwrap()
}

proptest! {
    /// Few high bits, so that blocks nest and meet.
    #[test]
    fn a_part_answers_for_every_address_of_its_own(
        allowed in prop::collection::vec((0u8..8, 1u8..=4), 0..5),
        denied in prop::collection::vec((0u8..8, 1u8..=4), 0..5),
        asked in any::<u32>(),
    ) {
        let block = |(top, bits): &(u8, u8)| {
            Source::Block(ipnet::IpNet::new([top << 5, 0, 0, 0].into(), *bits).unwrap().trunc())
        };
        let policies = [("a", Action::Allow, &allowed), ("d", Action::Deny, &denied)].map(|(name, action, blocks)| {
            // Without blocks a rule is for everybody: such a policy has no rule here.
            let rules = (!blocks.is_empty()).then(|| Rule { from: blocks.iter().map(block).collect(), ports: [].into(), protocol: None });
            Policy { name: ObjectName::new("shop", name), action, rules: rules.into_iter().collect(), tier: Tier::Access }
        });
        let (mesh, workload) = mesh(policies.to_vec(), UdpMode::Allow);
        let all = parts(&mesh, &workload, true);
        let asked = IpAddr::from(std::net::Ipv4Addr::from_bits(asked));
        let by_part = stranger(&mesh, &workload, longest(&all, asked).address, 53);
        prop_assert_eq!(by_part, stranger(&mesh, &workload, asked, 53));
    }
}
