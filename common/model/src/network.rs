//! Judges by network policies: a second tier, which takes callers by their address, as Kubernetes' NetworkPolicies do.
//!
//! Selectors are resolved before: a workload knows which of them select it. So a pod that comes or goes is a change of one workload,
//! and of no policy. Where the kernel or a certificate says who calls, the address must be that workload's; where nobody does, the
//! address is believed, as far as such a policy asks for it.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{Facts, Ground, Mesh, ObjectName, Policy, Protocol, Rule, Source, Tier, Verdict, Workload};

/// What network policies make of a workload; none where there are no such policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The policies that bind what it calls.
    pub egress: BTreeSet<ObjectName>,
    /// The selectors of policies that select it, by their ids.
    pub peers: BTreeSet<u64>,
    /// The same for all workloads that no policy's egress tells apart; 0 where no policy binds what any workload calls.
    pub class: u64,
    /// It has its node's address: its own node's pods may always be called from there.
    #[serde(default)]
    pub is_host: bool,
}

/// How a NetworkPolicy is told from an AccessPolicy of the same name: no object's name has a colon.
pub const PREFIX: &str = "networkpolicy:";

/// The kind and the name of a policy, as its author wrote them.
pub fn written(name: &ObjectName) -> String {
    match name.name.strip_prefix(PREFIX) {
        Some(own) => format!("NetworkPolicy {}/{own}", name.namespace),
        None => format!("AccessPolicy {name}"),
    }
}

impl Workload {
    /// True where it, or who calls it, may be bound by a network policy, so that protocols are judged apart.
    pub fn judges_protocols(&self, mesh: &Mesh) -> bool {
        self.network.as_ref().is_some_and(|network| network.class != 0) || !bound(mesh, self).is_empty()
    }
}

/// What network policies say of a call to `workload`; None where none binds it.
pub(crate) fn judge(mesh: &Mesh, workload: &Workload, facts: &Facts, protocol: Protocol) -> Option<Verdict> {
    // Kubernetes lets a pod's own node through, whoever calls from there.
    let is_own_node = caller(mesh, facts).is_some_and(|caller| {
        caller.node == workload.node && caller.network.as_ref().is_some_and(|network| network.is_host)
    });
    let inward = if is_own_node { None } else { ingress(mesh, workload, facts, protocol) };
    if inward.as_ref().is_some_and(|verdict| !verdict.allows()) {
        return inward;
    }
    egress(mesh, workload, facts, protocol).or(inward)
}

/// What those that bind `workload` as the one called say.
pub(crate) fn ingress(mesh: &Mesh, workload: &Workload, facts: &Facts, protocol: Protocol) -> Option<Verdict> {
    let policies = bound(mesh, workload);
    let first = policies.first()?;
    let caller = caller(mesh, facts);
    let is_from = |source: &Source| match source {
        Source::Block(block) => block.contains(&facts.address),
        Source::Peers(id) => caller.is_some_and(|caller| selected(caller, *id)),
        Source::Identity(_) | Source::Namespace(_) => false,
    };
    let matched = policies.iter().find(|policy| any(&policy.rules, (facts.port, protocol), is_from));
    Some(match matched {
        Some(policy) => Verdict::Allow(Ground::Policy(policy.name.clone())),
        None => Verdict::Deny(Ground::NoneAllows(first.name.clone())),
    })
}

/// What those that bind the caller say.
fn egress(mesh: &Mesh, workload: &Workload, facts: &Facts, protocol: Protocol) -> Option<Verdict> {
    let network = caller(mesh, facts)?.network.as_ref()?;
    let first = network.egress.first()?;
    let mut allowed_by = None;
    for name in &network.egress {
        let Some(Tier::Network { egress }) = mesh.snapshot.policies.get(name).map(|policy| &policy.tier) else {
            return Some(Verdict::Deny(Ground::Missing(name.clone())));
        };
        let is_to = |source: &Source| match source {
            Source::Peers(id) => selected(workload, *id),
            Source::Block(_) | Source::Identity(_) | Source::Namespace(_) => false,
        };
        if allowed_by.is_none() && any(egress, (facts.port, protocol), is_to) {
            allowed_by = Some(name);
        }
    }
    Some(match allowed_by {
        Some(name) => Verdict::Allow(Ground::Policy(name.clone())),
        None => Verdict::Deny(Ground::NoneAllows(first.clone())),
    })
}

/// The ports that policies name which bind what `workload` calls: it is judged by each of them.
pub fn egress_ports(mesh: &Mesh, workload: &Workload) -> BTreeSet<u16> {
    let names = workload.network.iter().flat_map(|network| &network.egress);
    let tiers = names.filter_map(|name| mesh.snapshot.policies.get(name)).map(|policy| &policy.tier);
    let rules = tiers.flat_map(|tier| match tier {
        Tier::Network { egress } => egress.as_slice(),
        Tier::Access => &[],
    });
    rules.flat_map(|rule| rule.ports.iter().copied()).collect()
}

/// The addresses that a policy which binds `workload` knows callers by, beside blocks.
pub(crate) fn addresses(mesh: &Mesh, workload: &Workload) -> Vec<IpAddr> {
    let policies = bound(mesh, workload);
    if policies.is_empty() {
        return Vec::new();
    }
    let sources = policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.from);
    let peers = sources.filter_map(|source| match source {
        Source::Peers(id) => Some(*id),
        Source::Block(_) | Source::Identity(_) | Source::Namespace(_) => None,
    });
    let ids: BTreeSet<u64> = peers.collect();
    let is_named =
        |one: &&std::sync::Arc<Workload>| one.network.as_ref().is_some_and(|network| !network.peers.is_disjoint(&ids));
    mesh.snapshot.workloads.values().filter(is_named).flat_map(|one| one.addresses.iter().copied()).collect()
}

/// The network policies that bind a workload as the one called. One that is missing is the access tier's to refuse by.
fn bound<'m>(mesh: &'m Mesh, workload: &Workload) -> Vec<&'m Policy> {
    let named = workload.policies.iter().filter(|name| name.name.starts_with(PREFIX));
    named.filter_map(|name| mesh.snapshot.policies.get(name)).map(|policy| &**policy).collect()
}

/// The workload that calls, as far as its address says, and who it is does not belie.
fn caller<'m>(mesh: &'m Mesh, facts: &Facts) -> Option<&'m Workload> {
    let caller = mesh.workload_at(facts.address)?;
    let is_host = caller.network.as_ref().is_some_and(|network| network.is_host);
    // Of those that share a node's address any one may call: who it is says nothing of the address.
    let fits = is_host || facts.identity.as_ref().is_none_or(|identity| *identity == caller.identity);
    fits.then_some(&**caller)
}

fn selected(workload: &Workload, id: u64) -> bool {
    workload.network.as_ref().is_some_and(|network| network.peers.contains(&id))
}

fn any(rules: &[Rule], (port, protocol): (u16, Protocol), is_one: impl Fn(&Source) -> bool) -> bool {
    rules.iter().any(|rule| {
        (rule.ports.is_empty() || rule.ports.contains(&port))
            && rule.protocol.is_none_or(|only| only == protocol)
            && (rule.from.is_empty() || rule.from.iter().any(&is_one))
    })
}

#[cfg(test)]
mod tests;
