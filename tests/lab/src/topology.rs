//! A plan with its addresses given out: what network, manifests and hosts files are made from.

use anyhow::{Context as _, Result, ensure};
use millrace_model::ObjectName;

use crate::plan::{self, Addresses, Plan};

/// The most nodes, and pods on a node, that the lab's address ranges have room for.
const MAX: usize = 200;

/// A plan with addresses.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// All nodes' pods.
    pub pods: Vec<Pod>,
    /// The services.
    pub services: Vec<Service>,
}

/// Where the names of services lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// To their virtual addresses, which nobody answers without the mesh.
    Services,
    /// Straight to their first pod, as for one who has no mesh.
    Pods,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// From 1.
    pub number: u8,
    /// On the wire.
    pub addresses: Addresses,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// Its node's number.
    pub node: u8,
    /// From 1 on each node.
    pub number: u8,
    /// Its addresses.
    pub addresses: Addresses,
    /// The rest of what was planned.
    pub plan: plan::Pod,
}

impl Pod {
    /// Its name in one piece for files and namespaces.
    pub fn path(&self) -> String {
        format!("{}-{}", self.name.namespace, self.name.name)
    }
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// Its virtual addresses.
    pub addresses: Addresses,
    /// Its ports, and the pods' port that each stands for.
    pub ports: Vec<(u16, u16)>,
}

impl Topology {
    /// Gives out addresses in the order of the plan.
    pub fn new(plan: &Plan) -> Result<Self> {
        let mut topology = Self { nodes: Vec::new(), pods: Vec::new(), services: Vec::new() };
        for (number, node) in numbered(&plan.nodes)? {
            let addresses = plan::node_addresses(number);
            topology.nodes.push(Node { name: node.name.clone(), number, addresses });
            for (pod_number, pod) in numbered(&node.pods)? {
                topology.pods.push(Pod {
                    name: plan::object_name(&pod.name)?,
                    node: number,
                    number: pod_number,
                    addresses: if pod.host_network { addresses } else { plan::pod_addresses(number, pod_number) },
                    plan: pod.clone(),
                });
            }
        }
        for (number, service) in numbered(&plan.services)? {
            topology.services.push(Service {
                name: plan::object_name(&service.name)?,
                addresses: plan::service_addresses(number),
                ports: service.ports.clone(),
            });
        }
        Ok(topology)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("the lab has no node {name}"))
    }

    /// The pod of this `namespace/name`.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.plan.name == name);
        found.with_context(|| format!("the lab has no pod {name}"))
    }

    /// The service of this `namespace/name`.
    pub fn service(&self, name: &str) -> Result<&Service> {
        let found = self.services.iter().find(|service| service.name.to_string() == name);
        found.with_context(|| format!("the lab has no service {name}"))
    }

    /// Every namespace of pods and services, once.
    pub fn namespaces(&self) -> Vec<&str> {
        let pods = self.pods.iter().map(|pod| &*pod.name.namespace);
        let mut all: Vec<&str> = pods.chain(self.services.iter().map(|service| &*service.name.namespace)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every pod that shares its node's network, by the name it has within the lab.
    pub fn in_hosts_network(&self) -> impl Iterator<Item = &str> {
        self.pods.iter().filter(|pod| pod.plan.host_network).map(|pod| pod.plan.name.as_str())
    }

    /// Every network namespace, by the name it has within the lab.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter().map(|node| node.name.as_str());
        let pods = self.pods.iter().filter(|pod| !pod.plan.host_network).map(|pod| pod.plan.name.as_str());
        std::iter::once("wire").chain(nodes).chain(pods)
    }

    /// What a pod of `namespace` has as /etc/hosts.
    pub fn hosts(&self, namespace: &str, names: Names) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for service in &self.services {
            let (name, of) = (&service.name.name, &service.name.namespace);
            let short = if **of == *namespace { format!("{name} ") } else { String::new() };
            let addresses = match names {
                Names::Services => Some(service.addresses),
                Names::Pods => self.endpoint(service).map(|pod| pod.addresses),
            };
            for address in addresses.iter().flat_map(|addresses| addresses.both()) {
                text.push_str(&format!("{address} {short}{name}.{of} {name}.{of}.svc {name}.{of}.svc.cluster.local\n"));
            }
        }
        text
    }

    fn endpoint(&self, service: &Service) -> Option<&Pod> {
        let serves = |pod: &&Pod| {
            pod.name.namespace == service.name.namespace
                && pod.plan.labels.get("app").is_some_and(|app| **app == *service.name.name)
        };
        self.pods.iter().find(serves)
    }
}

fn numbered<T>(items: &[T]) -> Result<impl Iterator<Item = (u8, &T)>> {
    ensure!(items.len() <= MAX, "{} are more than the {MAX} that a lab has addresses for", items.len());
    Ok((1u8..).zip(items))
}
