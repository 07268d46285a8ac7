//! Says what a lab shall be: nodes, pods on them, services over those. A value; nothing here touches the machine.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use millrace_model::ObjectName;

/// A lab to be: what [`crate::Lab::up`] makes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is for, in a word: shown where labs are listed.
    pub name: String,
    /// The nodes, in order of their numbers from 1.
    pub nodes: Vec<Node>,
    /// The services.
    pub services: Vec<Service>,
}

/// A node and its pods.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its pods, in order of their numbers from 1.
    pub pods: Vec<Pod>,
}

/// The label that says who is in the mesh.
pub const MESH: &str = "millrace.dev/mesh";

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace and name, `shop/web`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account: the other half of its identity.
    pub service_account: String,
    /// Its share as an endpoint.
    pub weight: Option<u32>,
    /// True where it shares its node's network.
    pub host_network: bool,
    /// True where it is not there until [`crate::Lab::create_pod`].
    pub is_later: bool,
}

/// A service over the pods of its namespace whose `app` label is its name.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace and name.
    pub name: String,
    /// Its ports, and the pods' port that each stands for.
    pub ports: Vec<(u16, u16)>,
}

impl Pod {
    /// A pod whose app label and service account are its own name.
    pub fn new(name: &str) -> Self {
        let short = name.rsplit('/').next().unwrap_or(name).to_owned();
        let labels = BTreeMap::from([("app".to_owned(), short.clone())]);
        Self {
            name: name.to_owned(),
            labels,
            service_account: short,
            weight: None,
            host_network: false,
            is_later: false,
        }
    }

    /// An endpoint of the service `app`, and of that service account.
    pub fn app(self, app: &str) -> Self {
        self.label("app", app).account(app)
    }

    /// With a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Under a service account.
    pub fn account(self, service_account: &str) -> Self {
        Self { service_account: service_account.to_owned(), ..self }
    }

    /// In its node's network.
    pub fn host_network(self) -> Self {
        Self { host_network: true, ..self }
    }

    /// Made by the test, when it comes to it.
    pub fn later(self) -> Self {
        Self { is_later: true, ..self }
    }

    /// Not in the mesh, though its namespace is.
    pub fn outside(self) -> Self {
        self.label(MESH, "disabled")
    }

    /// Whether it is in the mesh.
    pub fn is_in_mesh(&self) -> bool {
        self.labels.get(MESH).is_none_or(|says| says != "disabled")
    }

    /// With a weight as an endpoint.
    pub fn weight(self, weight: u32) -> Self {
        Self { weight: Some(weight), ..self }
    }
}

impl Plan {
    /// An empty lab.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), nodes: Vec::new(), services: Vec::new() }
    }

    /// With one more node.
    pub fn node(mut self, name: &str, pods: impl IntoIterator<Item = Pod>) -> Self {
        self.nodes.push(Node { name: name.to_owned(), pods: pods.into_iter().collect() });
        self
    }

    /// With one more service; its ports, and the pods' port that each stands for.
    pub fn service(mut self, name: &str, ports: &[(u16, u16)]) -> Self {
        self.services.push(Service { name: name.to_owned(), ports: ports.to_owned() });
        self
    }
}

/// Addresses, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The IPv4 one.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The IPv4 one as an IPv6 socket writes it.
    pub fn mapped(self) -> IpAddr {
        self.v4.to_ipv6_mapped().into()
    }
}

/// Node and pod numbers start here in the last part of their addresses: below are routers.
const FIRST: u8 = 10;

/// The wire between the nodes, and the control plane on it.
pub const WIRE: Addresses =
    Addresses { v4: Ipv4Addr::new(172, 30, 0, 1), v6: Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 1) };

/// A node's address on the wire; nodes count from 1.
pub fn node_addresses(node: u8) -> Addresses {
    let last = FIRST.saturating_add(node);
    Addresses { v4: Ipv4Addr::new(172, 30, 0, last), v6: Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, last.into()) }
}

/// A pod's address, or with pod 0 its node's on the pods' bridge.
pub fn pod_addresses(node: u8, pod: u8) -> Addresses {
    let last = if pod == 0 { 1 } else { FIRST.saturating_add(pod) };
    Addresses {
        v4: Ipv4Addr::new(10, 10, node, last),
        v6: Ipv6Addr::new(0xfd10, node.into(), 0, 0, 0, 0, 0, last.into()),
    }
}

/// A service's virtual addresses.
pub fn service_addresses(service: u8) -> Addresses {
    let last = FIRST.saturating_add(service);
    Addresses { v4: Ipv4Addr::new(10, 96, 0, last), v6: Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, last.into()) }
}

/// Reads `namespace/name`.
pub fn object_name(text: &str) -> Result<ObjectName> {
    let (namespace, name) = text.split_once('/').with_context(|| format!("{text:?} is not namespace/name"))?;
    Ok(ObjectName::new(namespace, name))
}
