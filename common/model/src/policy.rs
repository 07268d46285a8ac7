//! Says what a policy is, once its selectors are resolved: an action and the callers it speaks of.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Identity, ObjectName, Protocol};

/// One AccessPolicy or NetworkPolicy. Which workloads it binds stands on the workloads ([`crate::Workload::policies`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What a match means.
    pub action: Action,
    /// It matches when any rule does; without a rule it matches nothing, so an Allow without rules denies all.
    pub rules: Vec<Rule>,
    /// What it is beside others: a call must pass each tier that binds it.
    #[serde(default)]
    pub tier: Tier,
}

/// Policies that are weighed against one another. What one tier lets through another may refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// AccessPolicies: who may call, by identity.
    #[default]
    Access,
    /// NetworkPolicies: who may call, by address, and whom a workload may call.
    Network {
        /// The calls that the workloads it binds may make ([`crate::network::Network::egress`]); `from` says whom they call.
        egress: Vec<Rule>,
    },
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Lets it through, and denies what no Allow matches.
    Allow,
    /// Refuses it, whatever any Allow says.
    Deny,
}

/// Callers, and the ports they call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Any of these; empty: everybody, callers without identity too.
    pub from: Vec<Source>,
    /// Any of these ports of the application; empty: every port.
    pub ports: BTreeSet<u16>,
    /// Only what is called by this protocol; None: by any.
    #[serde(default)]
    pub protocol: Option<Protocol>,
}

/// One way to say who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Exactly this identity.
    Identity(Identity),
    /// Any identity in this namespace of the mesh's trust domain.
    Namespace(Arc<str>),
    /// Any caller from this block of addresses, with or without identity.
    Block(IpNet),
    /// Any workload that a NetworkPolicy's selector of this id selects ([`crate::network::Network::peers`]), known by its address.
    Peers(u64),
}
