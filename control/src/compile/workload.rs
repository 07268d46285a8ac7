//! Makes workloads of pods: whose address is whose, who is in the mesh, what binds whom.

use std::{net::IpAddr, sync::Arc};

use millrace_model::{Identity, Map, Membership, ObjectName, Workload};

use super::{
    Notes,
    index::{Index, within},
    policy::Bindings,
    telemetry::Recorded,
};
use crate::{
    diagnostic::Kind,
    world::{Life, Listener, Made, Network, Pod, Wish, World, external},
};

/// Which pod has which address. A pod that ended has none, and none has its node's; of two that claim one the living has
/// it, then the older, then the first by name: to claim an address takes it from nobody.
#[derive(Clone, Copy)]
pub(super) struct Owners<'w> {
    pub(super) pods: &'w Map<ObjectName, Arc<Pod>>,
    pub(super) index: &'w Index,
}

impl<'w> Owners<'w> {
    fn claimants(self, address: IpAddr) -> impl DoubleEndedIterator<Item = &'w Pod> {
        self.index.claims.of(&address).iter().filter_map(move |name| self.pods.get(name)).map(|pod| &**pod)
    }

    /// The pod that shares its node's network and has this address with it.
    fn host(self, address: IpAddr) -> Option<&'w Pod> {
        self.claimants(address).rfind(|pod| pod.network == Network::Host)
    }

    /// The pod that has this address.
    pub(super) fn of(self, address: IpAddr) -> Option<&'w Pod> {
        match self.host(address) {
            // To take a node's address would take its traffic, and that of all who have it.
            Some(_) => None,
            None => self.claimants(address).min_by_key(|pod| rank(pod)),
        }
    }

    /// Notes what this pod claims and does not have.
    fn check(self, pod: &Pod, notes: &mut Notes) {
        for address in pod.addresses.iter().filter(|_| pod.network == Network::Own) {
            if let Some(host) = self.host(*address) {
                let problem = format!("{address} is the address of a node, by pod {} in its network", host.name);
                notes.add(Kind::Pod, &pod.name, ("status.podIPs", problem, "give the pod an address of its own"));
                continue;
            }
            // A pod on its way out whose address was given on already is nothing to tell of.
            if let (false, Some(owner)) = (is_going(pod), self.of(*address).filter(|owner| owner.name != pod.name)) {
                let problem = format!("{address} is an address of pod {} too, which has it", owner.name);
                notes.add(Kind::Pod, &pod.name, ("status.podIPs", problem, "give each pod addresses of its own"));
            }
        }
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

/// What workloads are made by.
pub(super) struct Making<'w> {
    pub(super) world: &'w World,
    pub(super) owners: Owners<'w>,
    pub(super) bindings: &'w Bindings<'w>,
    pub(super) recorded: &'w Recorded<'w>,
}

impl Making<'_> {
    /// The workload of this pod; None where it is none.
    pub(super) fn workload(&self, pod: &Pod, notes: &mut Notes) -> Option<Workload> {
        let Self { world, owners, bindings, recorded } = *self;
        let node = pod.node.as_ref().filter(|_| is_workload(pod))?;
        owners.check(pod, notes);
        if !world.objects.nodes.contains_key(node) && !external::is_outside(pod) {
            let problem = format!("there is no Node {node}");
            notes.add(Kind::Pod, &pod.name, ("spec.nodeName", problem, "add the Node, or correct the name"));
        }
        let has = |address: &&IpAddr| {
            pod.network == Network::Host || owners.of(**address).is_some_and(|owner| owner.name == pod.name)
        };
        let addresses: Vec<IpAddr> = pod.addresses.iter().filter(has).copied().collect();
        let (mut policies, network) = bindings.network.of(world, pod, &addresses);
        policies.append(&mut bindings.access(pod));
        Some(Workload {
            name: pod.name.clone(),
            instance: pod.instance.clone(),
            identity: Identity {
                trust_domain: world.settings.trust_domain.clone(),
                namespace: pod.name.namespace.clone(),
                service_account: pod.service_account.clone(),
            },
            addresses,
            node: node.clone(),
            zone: world.objects.nodes.get(node).and_then(|node| node.zone.clone()).or_else(|| pod.zone.clone()),
            netns: pod.netns.clone(),
            membership: membership(world, pod, node),
            encryption: bindings.encryption(pod, notes),
            policies,
            probe_ports: pod.probe_ports.clone(),
            telemetry: recorded.of(pod, bindings, notes),
            network,
        })
    }
}

/// Notes a namespace that is not there but has pods: what a label on it said is no longer in force.
pub(super) fn check_namespace(world: &World, namespace: &Arc<str>, notes: &mut Notes) {
    if world.objects.namespaces.contains_key(namespace) {
        return;
    }
    let silent = |pod: &Pod| is_workload(pod) && pod.network == Network::Own && pod.mesh.is_none();
    let n = within(&world.objects.pods, namespace).filter(|(_, pod)| silent(pod)).count();
    if n > 0 {
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
        // Nobody says of it whether it listens.
        (Some(Wish::Enabled), Network::Own) if external::is_outside(pod) => Membership::Enrolled,
        // It has its node's address and namespace: nothing that comes to it can be told from what comes to the node.
        (Some(Wish::Enabled), Network::Host) => Membership::Host,
        (Some(Wish::Enabled), Network::Own) => {
            let listener = Listener { name: pod.name.clone(), instance: pod.instance.clone() };
            let listens = world.listening.get(node).is_some_and(|open| open.contains(&listener));
            if listens { Membership::Enrolled } else { Membership::Pending }
        }
    }
}
