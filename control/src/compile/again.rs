//! Compiles a World again of which only EndpointSlices differ: what pods come and go as, many times a second in a large mesh.
//!
//! The services whose slices differ are compiled as [`super::compile`] would, in a World of just what they touch; all else is taken
//! from before. Pure. Whatever it can't tell cheaply it leaves to [`super::compile`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{ObjectName, Snapshot};

use super::{Notes, endpoint, workload::Owners};
use crate::{
    diagnostic::Diagnostic,
    world::{Objects, Slice, World},
};

/// What was compiled last, and what of.
#[derive(Debug)]
pub struct Last {
    world: World,
    snapshot: Arc<Snapshot>,
    notes: Vec<Diagnostic>,
}

impl Last {
    /// `snapshot` and `notes` are what `world` compiled to.
    pub fn new(world: World, snapshot: Arc<Snapshot>, notes: Vec<Diagnostic>) -> Self {
        Self { world, snapshot, notes }
    }

    /// The Snapshot of `world` with the generation of the last, and what is wrong with it. None where it takes all to be compiled.
    pub fn again(&self, world: &World) -> Option<(Snapshot, Vec<Diagnostic>)> {
        let services = self.services_that_differ(world)?;
        if services.is_empty() {
            return Some((Snapshot::clone(&self.snapshot), self.notes.clone()));
        }
        let small = small(world, &services)?;
        let mut notes = Notes::default();
        // What is told of addresses claimed twice was told before: pods are as they were.
        let owners = Owners::new(&small, &mut Notes::default());
        let found = endpoint::endpoints(&small, &owners, &self.snapshot.workloads, &mut notes);
        if !notes.0.is_empty() {
            return None;
        }
        let mut snapshot = Snapshot::clone(&self.snapshot);
        for (name, endpoints) in found {
            let before = snapshot.endpoints.get(&name)?;
            if *before != endpoints {
                snapshot.endpoints.insert(name, endpoints);
            }
        }
        Some((snapshot, self.notes.clone()))
    }

    /// The services whose slices differ, where nothing else does and each has slices before and after: one without is made
    /// of pods, and may have something to tell of them.
    fn services_that_differ(&self, world: &World) -> Option<BTreeSet<ObjectName>> {
        let World { settings, objects: before, listening, revoked } = &self.world;
        let Objects {
            namespaces,
            nodes,
            service_accounts,
            pods,
            services,
            slices,
            access,
            encryption,
            telemetry,
            traffic,
            profiles,
            faults,
            routes,
            grants,
        } = before;
        let now = &world.objects;
        let is_same = same(pods, &now.pods)
            && same(services, &now.services)
            && same(namespaces, &now.namespaces)
            && same(nodes, &now.nodes)
            && same(access, &now.access)
            && same(encryption, &now.encryption)
            && same(telemetry, &now.telemetry)
            && same(traffic, &now.traffic)
            && same(profiles, &now.profiles)
            && same(faults, &now.faults)
            && same(routes, &now.routes)
            && same(grants, &now.grants)
            && *service_accounts == now.service_accounts
            && *settings == world.settings
            && *listening == world.listening
            && *revoked == world.revoked;
        if !is_same {
            return None;
        }
        let differ = differing(slices, &now.slices);
        let had: BTreeSet<&ObjectName> = slices.values().map(|slice| &slice.service).collect();
        let has: BTreeSet<&ObjectName> = now.slices.values().map(|slice| &slice.service).collect();
        differ.iter().all(|service| had.contains(service) && has.contains(service)).then_some(differ)
    }
}

/// Whether both hold the very same objects under the same names.
fn same<K: PartialEq, T>(one: &BTreeMap<K, Arc<T>>, other: &BTreeMap<K, Arc<T>>) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|((k, a), (l, b))| Arc::ptr_eq(a, b) && k == l)
}

/// The services of the slices that are not the very same in both.
fn differing(one: &BTreeMap<ObjectName, Arc<Slice>>, other: &BTreeMap<ObjectName, Arc<Slice>>) -> BTreeSet<ObjectName> {
    let unlike = |one: &'_ BTreeMap<ObjectName, Arc<Slice>>, other: &BTreeMap<ObjectName, Arc<Slice>>| {
        one.iter()
            .filter(|(name, slice)| other.get(*name).is_none_or(|also| !Arc::ptr_eq(slice, also)))
            .map(|(_, slice)| slice.service.clone())
            .collect::<Vec<_>>()
    };
    unlike(one, other).into_iter().chain(unlike(other, one)).collect()
}

/// A World of these services, their slices, and the pods that could have an address of those; None where a service is not there.
fn small(world: &World, services: &BTreeSet<ObjectName>) -> Option<World> {
    let Objects {
        namespaces,
        nodes,
        service_accounts: _,
        pods,
        services: all,
        slices,
        access: _,
        encryption: _,
        telemetry: _,
        traffic,
        profiles: _,
        faults: _,
        routes: _,
        grants: _,
    } = &world.objects;
    let slices: BTreeMap<ObjectName, Arc<Slice>> = slices
        .iter()
        .filter(|(_, slice)| services.contains(&slice.service))
        .map(|(n, s)| (n.clone(), s.clone()))
        .collect();
    let addresses: BTreeSet<IpAddr> =
        slices.values().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses).copied().collect();
    let touches = |addresses_of: &[IpAddr]| addresses_of.iter().any(|address| addresses.contains(address));
    let objects = Objects {
        namespaces: namespaces.clone(),
        nodes: nodes.clone(),
        service_accounts: BTreeSet::new(),
        pods: pods.iter().filter(|(_, pod)| touches(&pod.addresses)).map(|(n, p)| (n.clone(), p.clone())).collect(),
        services: services.iter().map(|name| Some((name.clone(), all.get(name)?.clone()))).collect::<Option<_>>()?,
        slices,
        access: BTreeMap::new(),
        encryption: BTreeMap::new(),
        telemetry: BTreeMap::new(),
        traffic: traffic.clone(),
        profiles: BTreeMap::new(),
        // What becomes of requests rests on no endpoint.
        faults: BTreeMap::new(),
        routes: BTreeMap::new(),
        grants: BTreeMap::new(),
    };
    // Who listens is in the workloads already.
    let revoked = world.revoked.clone();
    Some(World { settings: world.settings.clone(), objects, listening: BTreeMap::new(), revoked })
}
