//! Makes workloads of pods: whose address is whose, who is in the mesh, what binds whom.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{Identity, Membership, ObjectName, Workload};

use super::{Notes, policy::Bindings, telemetry::Recorded};
use crate::{
    diagnostic::Kind,
    world::{Life, Listener, Made, Network, Pod, Wish, World},
};

/// Which pod has which address. A pod that ended has none, and none has its node's; of two that claim one the living has
/// it, then the older, then the first by name: to claim an address takes it from nobody.
pub(super) struct Owners<'w>(BTreeMap<IpAddr, &'w Pod>);

impl<'w> Owners<'w> {
    pub(super) fn new(world: &'w World, notes: &mut Notes) -> Self {
        let mut owners: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
        let mut losers: Vec<(&Pod, IpAddr)> = Vec::new();
        let pods = || world.objects.pods.values().map(|pod| &**pod).filter(|p| is_workload(p));
        let of_nodes: BTreeMap<IpAddr, &Pod> = pods()
            .filter(|p| p.network == Network::Host)
            .flat_map(|pod| pod.addresses.iter().map(move |address| (*address, pod)))
            .collect();
        for pod in pods().filter(|p| p.network == Network::Own) {
            for address in &pod.addresses {
                // To take a node's address would take its traffic, and that of all who have it.
                if let Some(host) = of_nodes.get(address) {
                    let problem = format!("{address} is the address of a node, by pod {} in its network", host.name);
                    notes.add(Kind::Pod, &pod.name, ("status.podIPs", problem, "give the pod an address of its own"));
                    continue;
                }
                match owners.entry(*address) {
                    Entry::Vacant(entry) => drop(entry.insert(pod)),
                    Entry::Occupied(mut entry) if rank(pod) < rank(entry.get()) => {
                        losers.push((entry.insert(pod), *address));
                    }
                    Entry::Occupied(_) => losers.push((pod, *address)),
                }
            }
        }
        for (pod, address) in losers {
            // A pod on its way out whose address was given on already is nothing to tell of.
            if let (false, Some(owner)) = (is_going(pod), owners.get(&address)) {
                let problem = format!("{address} is an address of pod {} too, which has it", owner.name);
                notes.add(Kind::Pod, &pod.name, ("status.podIPs", problem, "give each pod addresses of its own"));
            }
        }
        Self(owners)
    }

    /// The pod that has this address.
    pub(super) fn of(&self, address: IpAddr) -> Option<&'w Pod> {
        self.0.get(&address).copied()
    }
}

fn rank(pod: &Pod) -> (bool, Made, &ObjectName) {
    (is_going(pod), pod.made, &pod.name)
}

/// True for a pod that was told to go.
fn is_going(pod: &Pod) -> bool {
    match pod.life {
        Life::Leaving | Life::Terminating => true,
        Life::Ready | Life::Unready | Life::Ended => false,
    }
}

/// A pod that has a node and has not ended.
pub(super) fn is_workload(pod: &Pod) -> bool {
    pod.node.is_some() && pod.life != Life::Ended
}

pub(super) fn workloads(
    world: &World,
    owners: &Owners<'_>,
    bindings: &Bindings<'_>,
    notes: &mut Notes,
) -> BTreeMap<ObjectName, Arc<Workload>> {
    let mut workloads = BTreeMap::new();
    let recorded = Recorded::new(world);
    for pod in world.objects.pods.values().filter(|p| is_workload(p)) {
        let Some(node) = &pod.node else { continue };
        if !world.objects.nodes.contains_key(node) {
            let problem = format!("there is no Node {node}");
            notes.add(Kind::Pod, &pod.name, ("spec.nodeName", problem, "add the Node, or correct the name"));
        }
        let has = |address: &&IpAddr| {
            pod.network == Network::Host || owners.of(**address).is_some_and(|owner| owner.name == pod.name)
        };
        let workload = Workload {
            name: pod.name.clone(),
            instance: pod.instance.clone(),
            identity: Identity {
                trust_domain: world.settings.trust_domain.clone(),
                namespace: pod.name.namespace.clone(),
                service_account: pod.service_account.clone(),
            },
            addresses: pod.addresses.iter().filter(has).copied().collect(),
            node: node.clone(),
            zone: world.objects.nodes.get(node).and_then(|node| node.zone.clone()),
            netns: pod.netns.clone(),
            membership: membership(world, pod, node),
            encryption: bindings.encryption(pod, notes),
            policies: bindings.access(pod),
            probe_ports: pod.probe_ports.clone(),
            telemetry: recorded.of(pod, bindings, notes),
        };
        workloads.insert(pod.name.clone(), Arc::new(workload));
    }
    check_namespaces(world, notes);
    workloads
}

/// Notes namespaces that are not there but have pods: what a label on one of them said is no longer in force.
fn check_namespaces(world: &World, notes: &mut Notes) {
    let mut left: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    let silent = |pod: &&Arc<Pod>| is_workload(pod) && pod.network == Network::Own && pod.mesh.is_none();
    for pod in world.objects.pods.values().filter(silent) {
        if !world.objects.namespaces.contains_key(&pod.name.namespace) {
            *left.entry(&pod.name.namespace).or_default() += 1;
        }
    }
    for (namespace, n) in left {
        let name = ObjectName { namespace: "".into(), name: namespace.clone() };
        let problem = format!("there is no such object, which leaves pods in it ({n}) outside the mesh");
        let mend = "add the Namespace, labelled millrace.dev/mesh: enabled or disabled, or label the pods";
        notes.add(Kind::Namespace, &name, ("metadata.name", problem, mend));
    }
}

fn membership(world: &World, pod: &Pod, node: &str) -> Membership {
    let wish = pod.mesh.or_else(|| world.objects.namespaces.get(&pod.name.namespace)?.mesh);
    match (wish, pod.network) {
        (None | Some(Wish::Disabled), _) => Membership::Outside,
        // It has its node's address and namespace: nothing that comes to it can be told from what comes to the node.
        (Some(Wish::Enabled), Network::Host) => Membership::Host,
        (Some(Wish::Enabled), Network::Own) => {
            let listener = Listener { name: pod.name.clone(), instance: pod.instance.clone() };
            let listens = world.listening.get(node).is_some_and(|open| open.contains(&listener));
            if listens { Membership::Enrolled } else { Membership::Pending }
        }
    }
}
