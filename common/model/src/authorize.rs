//! Decides whether a caller may reach a workload. The kernel's verdict tables, both proxies and `explain` all ask here.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Action, Identity, Mesh, ObjectName, Policy, Protocol, Rule, Source, Tier, Workload, network};

/// What is known of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who it is: attested by the kernel or by its certificate; None for plain text. An address never yields one.
    pub identity: Option<Identity>,
    /// Where it calls from.
    pub address: IpAddr,
    /// The application's port that it calls.
    pub port: u16,
}

/// May it, and on what ground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It may.
    Allow(Ground),
    /// It may not.
    Deny(Ground),
}

/// What a verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ground {
    /// This policy matched.
    Policy(ObjectName),
    /// No policy selects the workload.
    Unselected,
    /// Allow policies select the workload, this one first by name, and none matched.
    NoneAllows(ObjectName),
    /// A policy that selects the workload is not in the snapshot: what can't be read is not let through.
    Missing(ObjectName),
}

impl Verdict {
    /// True where the call may go on.
    pub fn allows(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// What it rests on.
    pub fn ground(&self) -> &Ground {
        match self {
            Self::Allow(ground) | Self::Deny(ground) => ground,
        }
    }
}

impl Ground {
    /// The policy to name to whoever asks why.
    pub fn policy(&self) -> Option<&ObjectName> {
        match self {
            Self::Policy(name) | Self::NoneAllows(name) | Self::Missing(name) => Some(name),
            Self::Unselected => None,
        }
    }
}

/// The verdict on a TCP connection with these facts to `workload`.
pub fn authorize(mesh: &Mesh, workload: &Workload, facts: &Facts) -> Verdict {
    authorize_by(mesh, workload, facts, Protocol::Tcp)
}

/// The verdict on a call by this protocol: access policies and network policies must both let it through.
pub fn authorize_by(mesh: &Mesh, workload: &Workload, facts: &Facts, protocol: Protocol) -> Verdict {
    both(by_access(mesh, workload, facts), || network::judge(mesh, workload, facts, protocol))
}

/// What access policies and network policies say together: who is refused by either is refused, and who is let in is so by the first
/// that speaks of him.
pub(crate) fn both(access: Verdict, network: impl FnOnce() -> Option<Verdict>) -> Verdict {
    if !access.allows() {
        return access;
    }
    match network() {
        Some(verdict) if !verdict.allows() || *access.ground() == Ground::Unselected => verdict,
        Some(_) | None => access,
    }
}

/// What access policies say: deny wins; one Allow that selects it closes it to all others.
fn by_access(mesh: &Mesh, workload: &Workload, facts: &Facts) -> Verdict {
    let mut first_allow: Option<&ObjectName> = None;
    let mut allowed_by: Option<&ObjectName> = None;
    for name in &workload.policies {
        let Some(policy) = mesh.snapshot.policies.get(name) else {
            return Verdict::Deny(Ground::Missing(name.clone()));
        };
        if policy.tier != Tier::Access {
            continue;
        }
        match (policy.action, matches(policy, facts, &mesh.snapshot.trust_domain)) {
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

fn matches(policy: &Policy, facts: &Facts, trust_domain: &Arc<str>) -> bool {
    policy.rules.iter().any(|Rule { from, ports, protocol: _ }| {
        (ports.is_empty() || ports.contains(&facts.port))
            && (from.is_empty() || from.iter().any(|source| is_from(source, facts, trust_domain)))
    })
}

fn is_from(source: &Source, facts: &Facts, trust_domain: &Arc<str>) -> bool {
    match source {
        Source::Identity(identity) => facts.identity.as_ref() == Some(identity),
        Source::Namespace(namespace) => {
            facts.identity.as_ref().is_some_and(|id| id.namespace == *namespace && id.trust_domain == *trust_domain)
        }
        Source::Block(block) => block.contains(&facts.address),
        // Of network policies alone.
        Source::Peers(_) => false,
    }
}

#[cfg(test)]
mod tests;
