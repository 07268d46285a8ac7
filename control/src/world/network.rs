//! What a NetworkPolicy says, read and checked: whom it selects, who may call them and whom they may call.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use millrace_model::{ObjectName, Protocol};

use super::LabelRule;

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What must hold of the labels of a pod of its namespace that it binds.
    pub selector: Vec<LabelRule>,
    /// The calls that they take; None: it does not say.
    pub ingress: Option<Vec<Gate>>,
    /// The calls that they may make; None: it does not say.
    pub egress: Option<Vec<Gate>>,
}

/// Calls that are let through: from or to any of these peers, at any of these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// None: everybody.
    pub peers: Option<Vec<Peer>>,
    /// None: every port.
    pub ports: Option<Vec<Port>>,
}

/// Who calls, or is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Who has an address in one of these.
    Blocks(Vec<IpNet>),
    /// Pods.
    Pods {
        /// What must hold of their namespace's labels; None: they are in the policy's own.
        namespaces: Option<Vec<LabelRule>>,
        /// What must hold of theirs.
        pods: Vec<LabelRule>,
    },
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub which: Which,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// These.
    Numbers(BTreeSet<u16>),
    /// The one that the called pod's container gives this name.
    Named(Arc<str>),
}
