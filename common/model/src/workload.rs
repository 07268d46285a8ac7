//! Says what a workload is: a pod, its addresses, its identity, and what was decided for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{Identity, ObjectName, network::Network};

/// One pod, as the data plane sees it. Selectors are resolved before it is made: nothing below reads a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The pod's namespace and name.
    pub name: ObjectName,
    /// Tells this pod from one made again under its name: by what they would not share, its node, account, namespace path and addresses.
    /// Not its uid, nor when it was made: one world is one Snapshot, whichever source told of it.
    pub instance: Arc<str>,
    /// Who it is.
    pub identity: Identity,
    /// Its addresses, first the primary one. IPv4 ones are never v4-mapped here.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// The node's `topology.kubernetes.io/zone`, if it has one.
    pub zone: Option<Arc<str>>,
    /// Path of its network namespace, or, where it shares its node's network, of its cgroup; told to its own node only.
    pub netns: Option<Arc<str>>,
    /// Whether it is in the mesh, and reachable by tunnel.
    pub membership: Membership,
    /// What it accepts in plain text.
    pub encryption: Encryption,
    /// The access policies and network policies that bind calls to it.
    pub policies: BTreeSet<ObjectName>,
    /// The ports that its probes name: its node's own processes reach them whatever policy and encryption say.
    pub probe_ports: BTreeSet<u16>,
    /// The policy that says what is recorded of its requests.
    #[serde(default)]
    pub telemetry: Option<ObjectName>,
    /// What network policies make of it.
    #[serde(default)]
    pub network: Option<Arc<Network>>,
}

/// Whether a workload is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// Not in the mesh: connections to it are left alone.
    Outside,
    /// In the mesh, but its node has not reported its listeners open: not dialled yet.
    Pending,
    /// In the mesh, with its listeners open.
    Enrolled,
    /// In the mesh as a caller alone, for it shares its node's network: on its own node it calls as itself; connections to it are
    /// left alone.
    Host,
}

impl Membership {
    /// True where connections to it are the mesh's.
    pub fn is_captured(self) -> bool {
        match self {
            Self::Pending | Self::Enrolled => true,
            Self::Outside | Self::Host => false,
        }
    }
}

/// Whether plain text is accepted from where the kernel attested nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncryptionMode {
    /// Only mTLS from other nodes.
    Strict,
    /// mTLS, and plain text where policy allows a caller without identity.
    #[default]
    Permissive,
}

/// Whether datagrams are taken from where the kernel attested nobody: they are in the clear there, and have no identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UdpMode {
    /// Where access policy lets a caller without identity in.
    #[default]
    Allow,
    /// None: only from pods of the same node, and answers.
    Deny,
}

/// A workload's encryption modes by port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// For every port not named below.
    pub default: EncryptionMode,
    /// By the port the application listens on.
    pub ports: BTreeMap<u16, EncryptionMode>,
    /// For datagrams, which nothing encrypts between nodes.
    pub udp: UdpMode,
}

impl Encryption {
    /// The mode of the application's `port`.
    pub fn mode(&self, port: u16) -> EncryptionMode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }
}

/// What tells a pod from one made again under its name: its node, its service account, and where its network is. That is the path of its
/// namespace, or of its cgroup; without one, its addresses: until somebody says where it is no node listens for it.
pub fn instance(node: &str, service_account: &str, netns: Option<&str>, addresses: &[IpAddr]) -> Arc<str> {
    let addresses: Vec<String> = match netns {
        Some(_) => Vec::new(),
        None => addresses.iter().map(ToString::to_string).collect(),
    };
    let mut parts = vec![node.as_bytes(), service_account.as_bytes(), netns.unwrap_or_default().as_bytes()];
    parts.extend(addresses.iter().map(String::as_bytes));
    format!("{:016x}", crate::name::stable_id(&parts)).into()
}

impl Workload {
    /// Its id in kernel maps: of name and instance, so that a pod's successor is somebody else.
    pub fn id(&self) -> u64 {
        crate::name::stable_id(&[self.name.namespace.as_bytes(), self.name.name.as_bytes(), self.instance.as_bytes()])
    }

    /// The id that all workloads share which are judged alike: those with this same set of policies, and class. 0 where nobody judges.
    pub fn policy_group(&self) -> u64 {
        let class = self.network.as_ref().map_or(0, |network| network.class);
        if self.policies.is_empty() && class == 0 {
            return 0;
        }
        let names: Vec<String> = self.policies.iter().map(ToString::to_string).collect();
        let class = class.to_be_bytes();
        let mut parts: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        if class != [0; 8] {
            parts.push(&class);
        }
        crate::name::stable_id(&parts)
    }
}
