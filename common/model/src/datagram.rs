//! Decides on datagrams from where nobody is attested: between nodes, and from outside. UDP has no identity there.
//!
//! Who sends is not known, and whom a policy denies may be the one: a Deny that names identities matches everybody here, an
//! Allow that does matches nobody. Addresses are believed as far as a policy asks for them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    Action, Facts, Ground, Membership, Mesh, ObjectName, Policy, Protocol, Rule, Service, Source, Tier, UdpMode,
    Verdict, Workload, authorize::both, network,
};

/// What becomes of datagrams of a caller without identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// The workload's encryption policy takes none.
    Refused,
    /// Access policies say.
    Judged(Verdict),
}

/// What `workload` does with datagrams to its `port` from `address`, of nobody knows whom.
pub fn stranger(mesh: &Mesh, workload: &Workload, address: IpAddr, port: u16) -> Stranger {
    match workload.encryption.udp {
        UdpMode::Deny => Stranger::Refused,
        UdpMode::Allow => Stranger::Judged(authorize_stranger(mesh, workload, address, port)),
    }
}

/// What its policies alone say of that. Whom the sender may call is its own node's CNI's to say: no datagram between nodes is captured.
pub fn authorize_stranger(mesh: &Mesh, workload: &Workload, address: IpAddr, port: u16) -> Verdict {
    let facts = Facts { identity: None, address, port };
    both(by_access(mesh, workload, address, port), || network::ingress(mesh, workload, &facts, Protocol::Udp))
}

fn by_access(mesh: &Mesh, workload: &Workload, address: IpAddr, port: u16) -> Verdict {
    let mut first_allow: Option<&ObjectName> = None;
    let mut allowed_by: Option<&ObjectName> = None;
    for name in &workload.policies {
        let Some(policy) = mesh.snapshot.policies.get(name) else {
            return Verdict::Deny(Ground::Missing(name.clone()));
        };
        if policy.tier != Tier::Access {
            continue;
        }
        match (policy.action, matches(policy, address, port)) {
            (Action::Deny, true) => return Verdict::Deny(Ground::Policy(name.clone())),
            (Action::Deny, false) => {}
            (Action::Allow, true) => allowed_by = allowed_by.or(Some(name)),
            (Action::Allow, false) => first_allow = first_allow.or(Some(name)),
        }
    }
    match (allowed_by, first_allow) {
        (Some(name), _) => Verdict::Allow(Ground::Policy(name.clone())),
        (None, Some(name)) => Verdict::Deny(Ground::NoneAllows(name.clone())),
        (None, None) => Verdict::Allow(Ground::Unselected),
    }
}

fn matches(policy: &Policy, address: IpAddr, port: u16) -> bool {
    policy.rules.iter().any(|Rule { from, ports, protocol: _ }| {
        (ports.is_empty() || ports.contains(&port))
            && (from.is_empty() || from.iter().any(|source| is_from(source, policy.action, address)))
    })
}

fn is_from(source: &Source, action: Action, address: IpAddr) -> bool {
    match source {
        Source::Identity(_) | Source::Namespace(_) => action == Action::Deny,
        Source::Block(block) => block.contains(&address),
        // Of network policies alone.
        Source::Peers(_) => false,
    }
}

/// Addresses that every policy of a workload takes alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The network and its prefix's length; None: every address.
    pub block: Option<(IpAddr, u8)>,
    /// One of them, which no smaller part holds.
    pub address: IpAddr,
}

/// All addresses of a family, in parts by the blocks and callers that `workload`'s policies name. A smaller part within another counts for
/// itself.
pub fn parts(mesh: &Mesh, workload: &Workload, is_v4: bool) -> Vec<Part> {
    let root = if is_v4 { IpNet::from(Ipv4Net::default()) } else { IpNet::from(Ipv6Net::default()) };
    let policies = workload.policies.iter().filter_map(|name| mesh.snapshot.policies.get(name));
    let sources = policies.flat_map(|policy| &policy.rules).flat_map(|rule| &rule.from);
    let blocks = sources.filter_map(|source| match source {
        Source::Block(block) => Some(*block),
        Source::Identity(_) | Source::Namespace(_) | Source::Peers(_) => None,
    });
    let peers = network::addresses(mesh, workload).into_iter().map(IpNet::from);
    let mut all: Vec<IpNet> = blocks.chain(peers).filter(|block| root.contains(block)).chain([root]).collect();
    all.sort();
    all.dedup();
    all.iter()
        .filter_map(|part| {
            let block = (*part != root).then(|| (part.network(), part.prefix_len()));
            Some(Part { block, address: witness(*part, &all)? })
        })
        .collect()
}

/// An address of `part` that no smaller part holds; None where they hold all of it.
fn witness(part: IpNet, all: &[IpNet]) -> Option<IpAddr> {
    let mut address = part.network();
    loop {
        let within = all.iter().filter(|other| **other != part && part.contains(*other) && other.contains(&address));
        // The largest of them ends last.
        let Some(last) = within.map(|other| other.broadcast()).max() else { return Some(address) };
        address = after(last)?;
        if !part.contains(&address) {
            return None;
        }
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// True where the mesh carries a service's datagrams: one of its endpoints is of the mesh, or nothing stands behind it at all.
/// One whose endpoints are all outside (a cluster's DNS, most often) is left to whoever serves it.
pub fn is_carried(mesh: &Mesh, service: &Service) -> bool {
    let Some(endpoints) = mesh.endpoints_of(&service.name) else { return true };
    let is_of_mesh =
        |address: IpAddr| mesh.workload_at(address).is_some_and(|workload| workload.membership != Membership::Outside);
    endpoints.endpoints.is_empty() || endpoints.endpoints.iter().any(|endpoint| is_of_mesh(endpoint.address))
}

#[cfg(test)]
mod tests;
