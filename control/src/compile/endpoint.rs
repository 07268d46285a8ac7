//! Makes services and what stands behind them: of EndpointSlices where a service has any, else of its selector and the pods.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{
    Endpoint, Endpoints, Map, Membership, ObjectName, Outliers, Place, Protocol, RetryBudget, Service, ServicePort,
    Traffic, Workload, service::Readiness,
};

use super::{
    Notes,
    index::within,
    place,
    workload::{Owners, is_workload},
};
use crate::{
    diagnostic::Kind,
    world::{self, Life, Pod, Slice, TargetPort, Unready, World, external},
};

/// The share of an endpoint that is no pod.
const WEIGHT: u32 = 1;

/// What policies say of how services are called, by service.
#[derive(Clone, Copy)]
pub(super) struct Said<'s> {
    pub(super) outliers: &'s BTreeMap<ObjectName, Outliers>,
    pub(super) retries: &'s BTreeMap<ObjectName, RetryBudget>,
}

/// The service, as nodes see it; None where it is nothing of the mesh.
pub(super) fn service(
    service: &world::Service,
    owners: Owners<'_>,
    said: Said<'_>,
    notes: &mut Notes,
) -> Option<Service> {
    if !is_served(service) {
        return None;
    }
    let mend = "give the service an address of its own";
    for (address, pod) in service.addresses.iter().filter_map(|a| Some((a, owners.of(*a)?))) {
        let problem = format!("{address} is pod {}'s: what calls the pod on these ports reaches the service", pod.name);
        notes.add(Kind::Service, &service.name, ("spec.clusterIPs", problem, mend));
    }
    for (address, port) in service.addresses.iter().flat_map(|a| service.ports.iter().map(move |p| (a, p))) {
        let claimants = owners.index.virtual_addresses.of(&(*address, port.port, port.protocol));
        if let Some(first) = claimants.first().filter(|first| **first != service.name) {
            let problem = format!("{address} port {} is Service {first}'s, which has it", port.port);
            notes.add(
                Kind::Service,
                &service.name,
                ("spec.clusterIPs", problem, "give each service an address of its own"),
            );
        }
    }
    Some(model(service, said))
}

/// An ExternalName has neither addresses nor ports: it is a name in DNS, and nothing of the mesh.
fn is_served(service: &world::Service) -> bool {
    !(service.addresses.is_empty() && service.ports.is_empty() && service.selector.is_none())
}

fn model(service: &world::Service, said: Said<'_>) -> Service {
    let world::Service { name, addresses, ports, selector: _, unready: _, traffic, distribution: _ } = service;
    Service {
        name: name.clone(),
        addresses: addresses.clone(),
        ports: ports
            .iter()
            .map(|world::ServicePort { port, protocol, name, target: _, speaks: _ }| ServicePort {
                port: *port,
                protocol: *protocol,
                name: name.clone(),
            })
            .collect(),
        traffic: Traffic {
            outliers: said.outliers.get(name).copied().unwrap_or_default(),
            retries: said.retries.get(name).copied().unwrap_or_default(),
            ..traffic.clone()
        },
    }
}

/// Notes a slice of a service that is not there.
pub(super) fn check_slice(world: &World, name: &ObjectName, slice: &Slice, notes: &mut Notes) {
    if !world.objects.services.contains_key(&slice.service) {
        let problem = format!("there is no Service {}", slice.service);
        let mend = "add the Service, or correct the label";
        notes.add(Kind::EndpointSlice, name, ("metadata.labels.kubernetes.io/service-name", problem, mend));
    }
}

/// What stands behind a service; None where it is nothing of the mesh.
pub(super) fn endpoints(
    world: &World,
    (owners, pods): (Owners<'_>, &mut Pods<'_>),
    workloads: &Map<ObjectName, Arc<Workload>>,
    service: &world::Service,
    notes: &mut Notes,
) -> Option<Endpoints> {
    if !is_served(service) {
        return None;
    }
    let names = owners.index.slices.of(&service.name);
    let slices: Vec<&Slice> = names.iter().filter_map(|name| world.objects.slices.get(name)).map(|s| &**s).collect();
    let found = match (slices.as_slice(), &service.selector) {
        ([], Some(selector)) => selected(service, &pods.with(&service.name.namespace, selector), workloads, notes),
        ([], None) => BTreeMap::new(),
        (slices, selector) => {
            let mut found = sliced(world, (service, slices), owners, workloads);
            // Whoever writes slices knows of pods alone.
            let outside: Vec<&Pod> = match selector {
                Some(selector) => external::within(&world.objects.pods, &service.name.namespace)
                    .filter(|pod| is_workload(pod))
                    .filter(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
                    .collect(),
                None => Vec::new(),
            };
            selected(service, &outside, workloads, notes).into_values().for_each(|one| merge(&mut found, one));
            found
        }
    };
    // They stay in the mesh, so that nobody speaks plainly to them; but no service sends anybody there.
    let is_out = |endpoint: &Endpoint| {
        let workload = endpoint.workload.as_ref().and_then(|name| workloads.get(name));
        workload.is_some_and(|workload| world.revoked.contains(&workload.node))
    };
    let endpoints = found.into_values().filter(|endpoint| !is_out(endpoint)).collect();
    Some(Endpoints { service: service.name.clone(), endpoints })
}

/// Namespaces' pods by label, so that a service looks at the pods of one of its labels and not at all there are. A namespace is
/// looked through when it is asked for.
pub(super) struct Pods<'w> {
    world: &'w World,
    known: BTreeMap<Arc<str>, ByLabel<'w>>,
}

/// By key and value.
type ByLabel<'w> = BTreeMap<(&'w str, &'w str), Vec<&'w Pod>>;

impl<'w> Pods<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        Self { world, known: BTreeMap::new() }
    }

    fn with(&mut self, namespace: &Arc<str>, selector: &BTreeMap<String, String>) -> Vec<&'w Pod> {
        let world = self.world;
        let by_label = self.known.entry(namespace.clone()).or_insert_with(|| {
            let mut by_label = ByLabel::new();
            for (_, pod) in within(&world.objects.pods, namespace).filter(|(_, pod)| is_workload(pod)) {
                for (key, value) in &pod.labels {
                    by_label.entry((key, value)).or_default().push(pod);
                }
            }
            by_label
        });
        let lists = selector.iter().map(|(key, value)| by_label.get(&(&**key, &**value)));
        let fewest = lists.min_by_key(|list| list.map_or(0, Vec::len)).flatten();
        fewest
            .into_iter()
            .flatten()
            .filter(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
            .copied()
            .collect()
    }
}

/// The endpoints of the pods that a service selects, by address.
fn selected(
    service: &world::Service,
    pods: &[&Pod],
    workloads: &Map<ObjectName, Arc<Workload>>,
    notes: &mut Notes,
) -> BTreeMap<IpAddr, Endpoint> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let Some(workload) = workloads.get(&pod.name) else { continue };
        let serves = match (pod.life, service.unready) {
            (Life::Ready, _) | (Life::Unready | Life::Leaving | Life::Terminating, Unready::Taken) => Readiness::Ready,
            (Life::Leaving, Unready::LeftOut) => Readiness::Leaving,
            (Life::Unready | Life::Terminating, Unready::LeftOut) | (Life::Ended, _) => Readiness::Unready,
        };
        let ports = pod_ports(service, pod, notes);
        // The workload's addresses: those that another pod has were taken from it.
        for address in &workload.addresses {
            found.insert(
                *address,
                Endpoint {
                    address: *address,
                    workload: Some(pod.name.clone()),
                    ports: ports.clone(),
                    weight: pod.weight,
                    readiness: reachable(serves, workload),
                    place: place::place(service.distribution, Some(&workload.node), workload.zone.as_ref()),
                },
            );
        }
    }
    found
}

fn pod_ports(service: &world::Service, pod: &Pod, notes: &mut Notes) -> BTreeMap<(u16, Protocol), u16> {
    let mut ports = BTreeMap::new();
    for world::ServicePort { port, protocol, name: _, target, speaks: _ } in &service.ports {
        let number = match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.ports.get(&(name.clone(), *protocol)).copied(),
        };
        match (number, target) {
            (Some(number), _) => drop(ports.insert((*port, *protocol), number)),
            (None, TargetPort::Name(name)) => {
                let problem =
                    format!("pod {} has no port named {name:?}, so port {port} does not lead to it", pod.name);
                let mend = "name the port in its containers, or write the number";
                notes.add(Kind::Service, &service.name, ("spec.ports.targetPort", problem, mend));
            }
            (None, TargetPort::Number(_)) => {}
        }
    }
    ports
}

/// The endpoints that a service's slices list, by address. Where two list one address, it has the ports of both, and serves
/// only if both say so.
fn sliced(
    world: &World,
    (service, slices): (&world::Service, &[&Slice]),
    owners: Owners<'_>,
    workloads: &Map<ObjectName, Arc<Workload>>,
) -> BTreeMap<IpAddr, Endpoint> {
    let mut found: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    let distribution = place::unwritten(service.distribution, slices);
    for slice in slices {
        let ports: BTreeMap<(u16, Protocol), u16> = service
            .ports
            .iter()
            .filter_map(|p| {
                let given = slice.ports.iter().find(|given| given.name == p.name && given.protocol == p.protocol)?;
                Some(((p.port, p.protocol), given.target))
            })
            .collect();
        for one in &slice.endpoints {
            for address in &one.addresses {
                let pod = owners.of(*address);
                let workload = pod.and_then(|pod| workloads.get(&pod.name));
                let ready = serves(service, pod, one.ready);
                let node = pod.and_then(|pod| pod.node.as_ref()).or(one.place.node.as_ref());
                let zone = node.and_then(|node| world.objects.nodes.get(node)?.zone.as_ref()).or(one.zone.as_ref());
                let endpoint = Endpoint {
                    address: *address,
                    workload: workload.map(|workload| workload.name.clone()),
                    ports: ports.clone(),
                    weight: pod.map_or(WEIGHT, |pod| pod.weight),
                    readiness: workload.map_or(ready, |workload| reachable(ready, workload)),
                    place: place::joined(place::place(distribution, node, zone), hints(&one.place)),
                };
                merge(&mut found, endpoint);
            }
        }
    }
    found
}

/// What a slice says of its endpoint, unless the pod is on its way out and the slice has not heard of it yet.
fn serves(service: &world::Service, pod: Option<&Pod>, said: Readiness) -> Readiness {
    match (pod.map(|pod| pod.life), said, service.unready) {
        (Some(Life::Ended), _, _) | (Some(Life::Terminating), _, Unready::LeftOut) => Readiness::Unready,
        (Some(Life::Leaving), Readiness::Ready, Unready::LeftOut) => Readiness::Leaving,
        (Some(Life::Ready | Life::Unready | Life::Leaving | Life::Terminating) | None, said, _) => said,
    }
}

fn hints(place: &Place) -> Place {
    Place { node: None, ..place.clone() }
}

fn merge(found: &mut BTreeMap<IpAddr, Endpoint>, endpoint: Endpoint) {
    match found.entry(endpoint.address) {
        Entry::Vacant(entry) => drop(entry.insert(endpoint)),
        Entry::Occupied(mut entry) => {
            let have = entry.get_mut();
            for (port, target) in endpoint.ports {
                // Two targets for one port of one address: the lower, so that order does not matter.
                have.ports.entry(port).and_modify(|t| *t = (*t).min(target)).or_insert(target);
            }
            have.readiness = match (have.readiness, endpoint.readiness) {
                (Readiness::Unready, _) | (_, Readiness::Unready) => Readiness::Unready,
                (Readiness::Leaving, _) | (_, Readiness::Leaving) => Readiness::Leaving,
                (Readiness::Ready, Readiness::Ready) => Readiness::Ready,
            };
            have.place = place::joined(std::mem::take(&mut have.place), endpoint.place);
        }
    }
}

/// A workload of the mesh is given nothing before its node holds its listeners.
fn reachable(ready: Readiness, workload: &Workload) -> Readiness {
    match workload.membership {
        Membership::Pending => Readiness::Unready,
        Membership::Outside | Membership::Enrolled | Membership::Host => ready,
    }
}
