//! Compiles the World to a Snapshot. Pure, total and order-blind: equal Worlds give equal Snapshots, whatever their past.
//!
//! It knows no file, no node's connection and no generation: whoever publishes sets that. Whatever can't be honoured as it is
//! written is a diagnostic on its object, and the rest is compiled.

use std::{collections::BTreeMap, sync::Arc};

use millrace_model::{ObjectName, Policy, Snapshot};

use crate::{
    diagnostic::{Diagnostic, Effect, Key, Kind, Object},
    world::World,
};

mod again;
mod bound;
mod endpoint;
mod place;
mod policy;
mod profile;
pub mod route;
mod telemetry;
mod traffic;
mod workload;

pub use again::Last;
pub use bound::bound_nodes;

/// The Snapshot of this World, at generation 0, and what is wrong with the World. Diagnostics come sorted.
pub fn compile(world: &World) -> (Snapshot, Vec<Diagnostic>) {
    let mut notes = Notes::default();
    let bindings = policy::Bindings::new(world);
    let owners = workload::Owners::new(world, &mut notes);
    let workloads = workload::workloads(world, &owners, &bindings, &mut notes);
    telemetry::check(world, workloads.values(), &mut notes);
    let services = endpoint::services(world, &owners, &mut notes);
    let endpoints = endpoint::endpoints(world, &owners, &workloads, &mut notes);
    policy::check(world, &workloads, &bindings, &mut notes);
    let routes = route::routes(world, &services, &mut notes);
    let policies = world.objects.access.values().map(|p| {
        let policy = Policy { name: p.name.clone(), action: p.action, rules: p.rules.clone() };
        (p.name.clone(), Arc::new(policy))
    });
    let snapshot = Snapshot {
        generation: 0,
        trust_domain: world.settings.trust_domain.clone(),
        workloads,
        services,
        endpoints,
        policies: policies.collect(),
        profiles: profile::profiles(world, &mut notes),
        routes,
        telemetry: world.objects.telemetry.iter().map(|(name, p)| (name.clone(), p.says.clone())).collect(),
    };
    notes.0.sort();
    notes.0.dedup();
    (snapshot, notes.0)
}

/// `next`, made of the Arcs of `previous` where an object is as it was: a diff of the two then asks pointers first.
pub fn reuse(previous: &Snapshot, next: Snapshot) -> Snapshot {
    let Snapshot { generation, trust_domain, workloads, services, endpoints, policies, profiles, routes, telemetry } =
        next;
    Snapshot {
        generation,
        trust_domain,
        workloads: share(&previous.workloads, workloads),
        services: share(&previous.services, services),
        endpoints: share(&previous.endpoints, endpoints),
        policies: share(&previous.policies, policies),
        profiles: share(&previous.profiles, profiles),
        routes: share(&previous.routes, routes),
        telemetry: share(&previous.telemetry, telemetry),
    }
}

fn share<K: Ord, T: PartialEq>(previous: &BTreeMap<K, Arc<T>>, mut next: BTreeMap<K, Arc<T>>) -> BTreeMap<K, Arc<T>> {
    for (name, object) in &mut next {
        if let Some(before) = previous.get(name).filter(|before| **before == *object) {
            object.clone_from(before);
        }
    }
    next
}

/// Gathers diagnostics on objects that are otherwise in force.
#[derive(Default)]
struct Notes(Vec<Diagnostic>);

impl Notes {
    fn add(&mut self, kind: Kind, name: &ObjectName, (field, problem, mend): (&str, String, &str)) {
        self.0.push(Diagnostic {
            place: None,
            object: Object::Known(Key { kind, name: name.clone() }),
            field: field.to_owned(),
            problem,
            mend: mend.to_owned(),
            effect: Effect::Applied,
        });
    }
}

#[cfg(test)]
mod tests;
