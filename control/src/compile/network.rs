//! Makes policies of NetworkPolicies, and says what they make of pods: who is bound, and which of their selectors selects whom.
//!
//! A selector has an id of what it says, so that many policies share it, and a pod that comes or goes is told by its own workload. What
//! a named port is depends on the pod: a policy with some is compiled once for each answer that its pods give.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{
    Action, ObjectName, Policy, Protocol, Rule, Source, Tier,
    name::stable_id,
    network::{Network, PREFIX},
};

use super::profile::selects;
use crate::{
    source::object::NAME_LABEL,
    world::{
        LabelRule, Network as Whose, Pod, World, external,
        network::{Gate, NetworkPolicy, Peer, Which},
    },
};

/// All policies, and all their selectors.
#[derive(Default)]
pub(super) struct Networks<'w> {
    by_namespace: BTreeMap<&'w str, Vec<&'w NetworkPolicy>>,
    selectors: BTreeMap<u64, Selector<'w>>,
    has_egress: bool,
}

/// One way to say who calls or is called.
struct Selector<'w> {
    /// The namespace of the policy.
    own: &'w str,
    peer: &'w Peer,
    /// Some policy names whom it selects as called.
    is_egress: bool,
}

impl<'w> Networks<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut all = Self::default();
        for policy in world.objects.network.values() {
            let own = &*policy.name.namespace;
            all.by_namespace.entry(own).or_default().push(policy);
            all.has_egress |= policy.egress.is_some();
            let inward = policy.ingress.iter().flatten().map(|gate| (gate, false));
            for (gate, is_egress) in inward.chain(policy.egress.iter().flatten().map(|gate| (gate, true))) {
                // A block of callers is compared with their address as it is.
                let named = |peer: &&Peer| is_egress || matches!(peer, Peer::Pods { .. });
                for peer in gate.peers.iter().flatten().filter(named) {
                    let one = all.selectors.entry(id(own, peer)).or_insert(Selector { own, peer, is_egress });
                    one.is_egress |= is_egress;
                }
            }
        }
        all
    }

    /// The policies that bind calls to this pod, and what all make of it.
    pub(super) fn of(
        &self,
        world: &World,
        pod: &Pod,
        addresses: &[IpAddr],
    ) -> (BTreeSet<ObjectName>, Option<Arc<Network>>) {
        if self.by_namespace.is_empty() {
            return (BTreeSet::new(), None);
        }
        if pod.network == Whose::Host {
            // Kubernetes binds no pod that has its node's address: nobody could tell it from the node.
            return (BTreeSet::new(), Some(Arc::new(Network { is_host: true, ..Network::default() })));
        }
        let binding = self.by_namespace.get(&*pod.name.namespace).into_iter().flatten();
        // A machine outside Kubernetes is none of the pods that a policy selects.
        let is_pod = !external::is_outside(pod);
        let binding: Vec<_> = binding.filter(|policy| is_pod && selects(&policy.selector, &pod.labels)).collect();
        let inward = binding.iter().filter(|policy| policy.ingress.is_some()).map(|policy| name_for(policy, pod));
        let outward = binding.iter().filter(|policy| policy.egress.is_some()).map(|policy| name(&policy.name));
        let own = self.selectors.iter().filter(|(_, one)| one.selects(world, pod, addresses));
        let (mut peers, mut class) = (BTreeSet::new(), Vec::new());
        for (id, one) in own {
            peers.insert(*id);
            class.extend(one.is_egress.then(|| id.to_be_bytes()).into_iter().flatten());
        }
        // 0 is for where nobody is bound.
        let class = if self.has_egress { stable_id(&[b"class", &class]).max(1) } else { 0 };
        let network = Network { egress: outward.collect(), peers, class, is_host: false };
        (inward.collect(), Some(Arc::new(network)))
    }
}

impl Selector<'_> {
    fn selects(&self, world: &World, pod: &Pod, addresses: &[IpAddr]) -> bool {
        match self.peer {
            // It is not known by which address a pod will be called: it must have none elsewhere.
            Peer::Blocks(blocks) => {
                let within = |address: &IpAddr| blocks.iter().any(|block| block.contains(address));
                !addresses.is_empty() && addresses.iter().all(within)
            }
            Peer::Pods { .. } if external::is_outside(pod) => false,
            Peer::Pods { namespaces: None, pods } => *pod.name.namespace == *self.own && selects(pods, &pod.labels),
            Peer::Pods { namespaces: Some(namespaces), pods } => {
                // One that nobody wrote has the label that every namespace has.
                let unwritten = BTreeMap::from([(NAME_LABEL.to_owned(), pod.name.namespace.to_string())]);
                let namespace = world.objects.namespaces.get(&pod.name.namespace);
                let labels = namespace.map_or(&unwritten, |one| &one.labels);
                selects(namespaces, labels) && selects(pods, &pod.labels)
            }
        }
    }
}

/// The policy's name among all policies.
pub(super) fn name(own: &ObjectName) -> ObjectName {
    ObjectName { namespace: own.namespace.clone(), name: format!("{PREFIX}{}", own.name).into() }
}

/// The same, where it names ports by names of this pod's.
fn name_for(policy: &NetworkPolicy, pod: &Pod) -> ObjectName {
    let mut found = BTreeSet::new();
    let ports = policy.ingress.iter().flatten().flat_map(|gate| gate.ports.iter().flatten());
    for port in ports {
        if let Which::Named(wanted) = &port.which
            && let Some(number) = pod.ports.get(&(wanted.clone(), port.protocol))
        {
            found.insert(meaning(wanted, port.protocol, *number));
        }
    }
    let plain = name(&policy.name);
    if found.is_empty() {
        return plain;
    }
    let found: Vec<String> = found.into_iter().collect();
    ObjectName { name: format!("{}({})", plain.name, found.join(",")).into(), ..plain }
}

/// What a name of a port means, in the name of a policy.
fn meaning(name: &str, protocol: Protocol, number: u16) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{name}={number}/{protocol}")
}

/// The policy that is called so among all; None where there is none. `is_bound` says whether some workload has it.
pub(super) fn policy(world: &World, called: &ObjectName, is_bound: bool) -> Option<Policy> {
    let own = called.name.strip_prefix(PREFIX)?;
    let (own, meanings) = match own.split_once('(') {
        Some((own, meanings)) if is_bound => (own, meanings.trim_end_matches(')')),
        Some(_) => return None,
        None => (own, ""),
    };
    let policy = world.objects.network.get(&ObjectName::new(&called.namespace, own))?;
    let meanings: BTreeSet<&str> = meanings.split(',').collect();
    let means = |name: &str, protocol: Protocol| {
        let all = meanings.iter().filter_map(|one| one.split_once('=')).filter(|(one, _)| *one == name);
        let numbers = all.filter_map(|(_, rest)| rest.split_once('/')?.0.parse::<u16>().ok());
        numbers.into_iter().find(|number| meanings.contains(&*meaning(name, protocol, *number)))
    };
    let namespace = &*policy.name.namespace;
    let inward = policy.ingress.iter().flatten().flat_map(|gate| rules(gate, (namespace, Way::In), means));
    let outward = policy.egress.iter().flatten().flat_map(|gate| rules(gate, (namespace, Way::Out), means));
    Some(Policy {
        name: called.clone(),
        action: Action::Allow,
        rules: inward.collect(),
        tier: Tier::Network { egress: outward.collect() },
    })
}

/// Whose calls.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

/// One rule for each protocol that the gate tells apart.
fn rules(gate: &Gate, (namespace, way): (&str, Way), means: impl Fn(&str, Protocol) -> Option<u16>) -> Vec<Rule> {
    let from: Vec<Source> = gate.peers.iter().flatten().flat_map(|peer| sources(peer, namespace, way)).collect();
    let Some(given) = &gate.ports else {
        return vec![Rule { from, ports: BTreeSet::new(), protocol: None }];
    };
    let of = |protocol: Protocol| {
        let own = || given.iter().filter(move |port| port.protocol == protocol).map(|port| &port.which);
        let ports: BTreeSet<u16> = own()
            .flat_map(|which| match which {
                Which::All => BTreeSet::new(),
                Which::Numbers(numbers) => numbers.clone(),
                Which::Named(name) => means(name, protocol).into_iter().collect(),
            })
            .collect();
        let is_all = own().any(|which| *which == Which::All);
        let ports = if is_all { BTreeSet::new() } else { ports };
        // Of ports that no pod has, nothing is let through: an empty set would mean every port.
        (is_all || !ports.is_empty()).then(|| Rule { from: from.clone(), ports, protocol: Some(protocol) })
    };
    [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(of).collect()
}

fn sources(peer: &Peer, namespace: &str, way: Way) -> Vec<Source> {
    match (peer, way) {
        (Peer::Blocks(blocks), Way::In) => blocks.iter().copied().map(Source::Block).collect(),
        (Peer::Blocks(_), Way::Out) | (Peer::Pods { .. }, _) => vec![Source::Peers(id(namespace, peer))],
    }
}

/// By what a selector says, and of which namespace where that matters.
fn id(own: &str, peer: &Peer) -> u64 {
    let text = match peer {
        Peer::Blocks(blocks) => {
            let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            format!("blocks {}", texts.join(" "))
        }
        Peer::Pods { namespaces: None, pods } => format!("own {own} pods {}", words(pods)),
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            format!("namespaces {} pods {}", words(namespaces), words(pods))
        }
    };
    stable_id(&[b"peers", text.as_bytes()])
}

/// Labels have neither spaces nor these signs: two selectors that differ read differently.
fn words(rules: &[LabelRule]) -> String {
    let mut text = String::new();
    for rule in rules {
        let (key, sign, values) = match rule {
            LabelRule::In(key, values) => (key, "=", Some(values)),
            LabelRule::NotIn(key, values) => (key, "!=", Some(values)),
            LabelRule::Exists(key) => (key, "?", None),
            LabelRule::Absent(key) => (key, "!", None),
        };
        let values: Vec<&str> = values.into_iter().flatten().map(String::as_str).collect();
        text.push_str(&format!("{key}{sign}{};", values.join("|")));
    }
    text
}
