//! Says on which nodes each policy has pods of the mesh to hold for, and which each NodeProfile tunes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Membership, ObjectName, RouteName, Snapshot};

use super::policy::selects;
use crate::{
    diagnostic::{Key, Kind},
    world::{
        Objects, Settings, Target, external,
        route::{RouteFilter, Rule},
    },
};

/// The nodes of each policy, by what this Snapshot of these objects says of their pods. A policy without nodes is left out.
pub fn bound_nodes(objects: &Objects, snapshot: &Snapshot, settings: &Settings) -> BTreeMap<Key, BTreeSet<Arc<str>>> {
    let targets = Targets::new(objects);
    let mut bound: BTreeMap<Key, BTreeSet<Arc<str>>> = BTreeMap::new();
    for (name, workload) in &snapshot.workloads {
        let Some(pod) = objects.pods.get(name) else { continue };
        if workload.membership == Membership::Outside || external::is_outside(pod) {
            continue;
        }
        let root = (*name.namespace != *settings.root_namespace).then_some(&*settings.root_namespace);
        for namespace in [Some(&*name.namespace), root].into_iter().flatten() {
            for (kind, policy, target) in targets.by_namespace.get(namespace).into_iter().flatten() {
                if selects(target, pod) {
                    let key = Key { kind: *kind, name: (*policy).clone() };
                    bound.entry(key).or_default().insert(workload.node.clone());
                }
            }
        }
    }
    bound.extend(for_services(objects, snapshot));
    for (node, profile) in &snapshot.profiles {
        let name = ObjectName { namespace: "".into(), name: profile.name.clone() };
        bound.entry(Key { kind: Kind::NodeProfile, name }).or_default().insert(node.clone());
    }
    bound
}

/// What says how a service is called holds for all who may call it: on every node that has pods of the mesh.
fn for_services(objects: &Objects, snapshot: &Snapshot) -> BTreeMap<Key, BTreeSet<Arc<str>>> {
    let in_the_mesh =
        snapshot.workloads.values().filter(|one| one.membership != Membership::Outside && !one.node.is_empty());
    let nodes: BTreeSet<Arc<str>> = in_the_mesh.map(|workload| workload.node.clone()).collect();
    let is_there = |namespace: &Arc<str>, name: &Arc<str>| {
        objects.services.contains_key(&ObjectName { namespace: namespace.clone(), name: name.clone() })
    };
    let with_a_service = objects
        .traffic
        .values()
        .filter(|policy| policy.services.iter().any(|name| is_there(&policy.name.namespace, name)));
    let held = with_a_service.map(|policy| Key { kind: Kind::TrafficPolicy, name: policy.name.clone() });
    let used = used_faults(objects, snapshot).map(|name| Key { kind: Kind::HttpFault, name: name.clone() });
    let services = objects.services.keys().map(|name| external::written(Kind::Service, name));
    let machines = objects.pods.keys().map(|name| external::written(Kind::Pod, name));
    let outside = services.chain(machines).filter(|key| key.kind.is_own());
    held.chain(used).chain(outside).filter(|_| !nodes.is_empty()).map(|key| (key, nodes.clone())).collect()
}

/// The HTTPFaults that a route which is bound to a service names.
fn used_faults<'o>(objects: &'o Objects, snapshot: &'o Snapshot) -> impl Iterator<Item = &'o ObjectName> {
    // Looked for once, and not at all where no fault is there to be named.
    let all = snapshot.routes.values().filter(|_| !objects.faults.is_empty());
    let bound: BTreeSet<&RouteName> = all.flat_map(|all| &all.bound).map(|one| &one.route).collect();
    let named = |filter: &'o RouteFilter| match filter {
        RouteFilter::Fault(name) => Some(name),
        RouteFilter::Whole(_) | RouteFilter::Mirror(..) => None,
    };
    let naming = objects.routes.values().flat_map(move |route| {
        let of_rule = |rule: &'o Rule| rule.filters.iter().chain(rule.backends.iter().flat_map(|one| &one.filters));
        let names: BTreeSet<&ObjectName> = route.rules.iter().flat_map(of_rule).filter_map(named).collect();
        names.into_iter().map(move |name| (&route.name, name))
    });
    naming
        .filter(|(_, name)| objects.faults.contains_key(*name))
        .filter(move |(route, _)| bound.contains(route))
        .map(|(_, name)| name)
}

/// What policies select, by the namespace they stand in.
struct Targets<'o> {
    by_namespace: BTreeMap<&'o str, Vec<Policy<'o>>>,
}

type Policy<'o> = (Kind, &'o ObjectName, &'o Target);

impl<'o> Targets<'o> {
    fn new(objects: &'o Objects) -> Self {
        let access = objects.access.values().map(|p| (Kind::AccessPolicy, &p.name, &p.target));
        let encryption = objects.encryption.values().map(|p| (Kind::EncryptionPolicy, &p.name, &p.target));
        let telemetry = objects.telemetry.values().map(|p| (Kind::TelemetryPolicy, &p.says.name, &p.target));
        let mut by_namespace: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (kind, name, target) in access.chain(encryption).chain(telemetry) {
            by_namespace.entry(&*name.namespace).or_default().push((kind, name, target));
        }
        Self { by_namespace }
    }
}
