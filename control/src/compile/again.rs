//! Compiles a World, and again each that follows it: what a change touches is compiled anew, all else is taken from before.
//!
//! There is one way for both. What is touched is a set of names; each is compiled from the World and from what the [`Index`] says of
//! it, and what comes of it depends on nothing that was before. The whole is that with every name touched, so that the two can't
//! say different things, save where a name is not touched that should be: a property test looks for that. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Map, ObjectName, Policy, Snapshot, Telemetry, Tier, Workload, map::Differs};

use super::{
    Notes, backend, endpoint,
    index::{Index, in_reach, within},
    network,
    policy::{self, Bindings, selects},
    profile, route,
    telemetry::{self, Recorded},
    traffic,
    workload::{self, Making, Owners},
};
use crate::{
    diagnostic::Diagnostic,
    world::{AccessPolicy, Objects, Pod, Target, World, external},
};

/// What was compiled last, and what of.
#[derive(Clone, Debug)]
pub struct Last {
    world: World,
    snapshot: Snapshot,
    index: Index,
    notes: BTreeMap<Unit, Vec<Diagnostic>>,
    /// All of them, in order, each once.
    diagnostics: Arc<Vec<Diagnostic>>,
}

/// What a note is of: it stands until that is compiled again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Pod(ObjectName),
    Namespace(Arc<str>),
    Service(ObjectName),
    Endpoints(ObjectName),
    Slice(ObjectName),
    Access(ObjectName),
    Encryption(ObjectName),
    Telemetry,
    Traffic,
    Backends,
    Profiles,
    Routes,
}

/// What is to be compiled.
#[derive(Debug, Default)]
struct Touched {
    pods: BTreeSet<ObjectName>,
    /// Pods that services may select otherwise, as they were and as they are.
    labelled: Vec<Arc<Pod>>,
    namespaces: BTreeSet<Arc<str>>,
    services: BTreeSet<ObjectName>,
    endpoints: BTreeSet<ObjectName>,
    slices: BTreeSet<ObjectName>,
    access: BTreeSet<ObjectName>,
    encryption: BTreeSet<ObjectName>,
    has_telemetry: bool,
    has_traffic: bool,
    has_profiles: bool,
    has_routes: bool,
}

impl Last {
    /// The whole, in which what is as in `previous` is the very same.
    pub fn whole(world: World, previous: &Snapshot) -> Self {
        let Objects { namespaces, pods, services, slices, network: networks, access, encryption, .. } = &world.objects;
        let of_pods = pods.keys().map(|name| &name.namespace);
        let touched = Touched {
            pods: pods.keys().chain(previous.workloads.keys()).cloned().collect(),
            labelled: Vec::new(),
            namespaces: namespaces.keys().chain(of_pods).cloned().collect(),
            services: services.keys().chain(previous.services.keys()).cloned().collect(),
            endpoints: services.keys().chain(previous.endpoints.keys()).cloned().collect(),
            slices: slices.keys().cloned().collect(),
            access: access
                .keys()
                .chain(previous.policies.keys())
                .cloned()
                .chain(networks.keys().map(network::name))
                .collect(),
            encryption: encryption.keys().cloned().collect(),
            has_telemetry: true,
            has_traffic: true,
            has_profiles: true,
            has_routes: true,
        };
        let snapshot = Snapshot { trust_domain: world.settings.trust_domain.clone(), ..previous.clone() };
        let index = Index::of(&world);
        let mut whole = Self { world, snapshot, index, notes: BTreeMap::new(), diagnostics: Arc::default() };
        whole.make(touched, Counted::Not);
        whole
    }

    /// The Snapshot of this World; its generation is that of the one that the whole was compiled beside.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What is wrong with it, in order.
    pub fn diagnostics(&self) -> &Arc<Vec<Diagnostic>> {
        &self.diagnostics
    }

    /// That of `world`, which follows. None where it takes the whole.
    #[must_use]
    pub fn again(mut self, world: &World) -> Option<Self> {
        let touched = self.touched(world)?;
        self.world = world.clone();
        self.make(touched, Counted::Yes);
        Some(self)
    }

    /// What the change to `world` touches, which the index has taken in then. None: everything.
    #[expect(clippy::too_many_lines, reason = "a list of the kinds of objects")]
    fn touched(&mut self, world: &World) -> Option<Touched> {
        let Self { world: World { settings, objects: before, listening, revoked }, index, .. } = self;
        let Objects {
            namespaces,
            nodes,
            service_accounts,
            pods,
            services,
            slices,
            network,
            access,
            encryption,
            telemetry,
            traffic,
            profiles,
            faults,
            routes,
            grants,
            backends,
        } = before;
        let now = &world.objects;
        let is_small = *settings == world.settings
            && *revoked == world.revoked
            && *nodes == now.nodes
            && *network == now.network
            && *telemetry == now.telemetry
            && *traffic == now.traffic
            && *backends == now.backends
            && *profiles == now.profiles;
        if !is_small {
            return None;
        }
        let mut touched = Touched {
            has_routes: *routes != now.routes || *grants != now.grants || *faults != now.faults,
            ..Touched::default()
        };
        let (mut has_news, bindings) = (false, Bindings::new(world));

        for Differs { key: name, before, now: after } in pods.differences(&now.pods) {
            let both = || before.into_iter().chain(after);
            // A node that only pods tell of has a profile for as long as they do.
            let is_known = |pod: &Arc<Pod>| pod.node.as_ref().is_none_or(|node| now.nodes.contains_key(node));
            if !now.profiles.is_empty() && !both().all(is_known) {
                return None;
            }
            touched.pods.insert(name.clone());
            touched.namespaces.insert(name.namespace.clone());
            touched.labelled.extend(both().cloned());
            for address in both().flat_map(|pod| &pod.addresses) {
                touched.pods.extend(index.claims.of(address).iter().cloned());
                touched.services.extend(index.service_addresses.of(address).iter().cloned());
                touched.endpoints.extend(index.listing(*address, now));
            }
            touched.has_telemetry = true;
            has_news |= index.pod(before.map(|pod| &**pod), after.map(|pod| &**pod));
            for policy in both().flat_map(|pod| bindings.encrypting(pod)).collect::<Vec<_>>() {
                touched.encryption.insert(policy.name.clone());
            }
        }
        for Differs { key: name, before, now: after } in namespaces.differences(&now.namespaces) {
            touched.namespaces.insert(name.clone());
            touched.pods.extend(within(&now.pods, name).map(|(pod, _)| pod.clone()));
            if before.is_some() != after.is_some() {
                has_news |= index.namespace(name, after.is_some());
            }
        }
        for Differs { key: name, before, now: after } in service_accounts.differences(&now.service_accounts) {
            has_news |= index.account(before.map(|()| name), after.map(|()| name));
        }
        for Differs { key: name, before, now: after } in slices.differences(&now.slices) {
            index.slice(name, before.map(|slice| &**slice), after.map(|slice| &**slice));
            touched.slices.insert(name.clone());
            touched.endpoints.extend(before.into_iter().chain(after).map(|slice| slice.service.clone()));
        }
        for Differs { key: name, before, now: after } in services.differences(&now.services) {
            let (before, after) = (before.map(|service| &**service), after.map(|service| &**service));
            touched.services.extend(index.beside(before));
            index.service(before, after);
            touched.services.extend(index.beside(after));
            touched.services.insert(name.clone());
            touched.endpoints.insert(name.clone());
            touched.slices.extend(index.slices.of(name).iter().cloned());
            (touched.has_routes, touched.has_traffic, touched.has_telemetry) = (true, true, true);
        }
        let differs = |one: Option<&Target>, other: Option<&Target>| one != other;
        for Differs { key: name, before, now: after } in access.differences(&now.access) {
            touched.access.insert(name.clone());
            let targets = [before.map(|policy| &policy.target), after.map(|policy| &policy.target)];
            if differs(targets[0], targets[1]) {
                touched.pods.extend(selected(world, &name.namespace, targets));
            }
        }
        for Differs { key: name, before, now: after } in encryption.differences(&now.encryption) {
            touched.encryption.insert(name.clone());
            let targets = [before.map(|policy| &policy.target), after.map(|policy| &policy.target)];
            touched.pods.extend(selected(world, &name.namespace, targets));
        }
        for node in listening.keys().chain(world.listening.keys()) {
            let (before, after) = (listening.get(node), world.listening.get(node));
            if before.zip(after).is_some_and(|(before, after)| Arc::ptr_eq(before, after)) {
                continue;
            }
            let none = BTreeSet::new();
            let (before, after) = (before.map_or(&none, |said| said), after.map_or(&none, |said| said));
            let pods = before.symmetric_difference(after).map(|listener| listener.name.clone());
            touched.pods.extend(pods.filter(|name| now.pods.contains_key(name)));
        }
        for name in &touched.encryption {
            index.encryption(world, name);
        }
        if has_news {
            touched.access.extend(now.access.keys().cloned());
        }
        Some(touched)
    }

    /// Compiles what is touched.
    #[expect(clippy::too_many_lines, reason = "a list of the kinds of objects, each after what it rests on")]
    fn make(&mut self, mut touched: Touched, counted: Counted) {
        let mut told = Told { notes: &mut self.notes, differs: false };
        let (world, index, next) = (&self.world, &mut self.index, &mut self.snapshot);

        let workloads = workloads(world, index, &touched.pods, &mut told);
        for (name, now) in workloads {
            let before = next.workloads.get(&name).cloned();
            let was = before.as_deref().filter(|_| counted == Counted::Yes);
            touched.access.extend(index.workload(was, now.as_ref()));
            if before.as_deref() == now.as_ref() {
                continue;
            }
            touched.has_telemetry = true;
            // In the whole all services are touched.
            if counted == Counted::Yes && reaches(before.as_deref()) != reaches(now.as_ref()) {
                touched.labelled.extend(world.objects.pods.get(&name).cloned());
                for address in before.iter().flat_map(|w| &w.addresses).chain(now.iter().flat_map(|w| &w.addresses)) {
                    touched.endpoints.extend(index.listing(*address, &world.objects));
                }
            }
            put(&mut next.workloads, name, now);
        }
        for namespace in touched.namespaces {
            told.of(Unit::Namespace(namespace.clone()), |notes| workload::check_namespace(world, &namespace, notes));
        }

        touched.endpoints.extend(of_labels(world, index, &touched.labelled));
        let owners = Owners { pods: &world.objects.pods, index };
        let outliers = if touched.has_traffic || !touched.services.is_empty() {
            told.of(Unit::Traffic, |notes| traffic::outliers(world, notes))
        } else {
            BTreeMap::new()
        };
        let backends = if touched.has_traffic || !touched.services.is_empty() {
            told.of(Unit::Backends, |notes| backend::bound(world, notes))
        } else {
            BTreeMap::new()
        };
        let said = endpoint::Said { outliers: &outliers, retries: &backend::budgets(&backends) };
        for name in touched.services {
            let service = told.of(Unit::Service(name.clone()), |notes| {
                endpoint::service(world.objects.services.get(&name)?, owners, said, notes)
            });
            put(&mut next.services, name, service);
        }
        let mut pods = endpoint::Pods::new(world);
        for name in touched.endpoints {
            let endpoints = told.of(Unit::Endpoints(name.clone()), |notes| {
                let service = world.objects.services.get(&name)?;
                endpoint::endpoints(world, (owners, &mut pods), &next.workloads, service, notes)
            });
            put(&mut next.endpoints, name, endpoints);
        }
        for name in touched.slices {
            told.of(Unit::Slice(name.clone()), |notes| {
                let slice = world.objects.slices.get(&name);
                slice.into_iter().for_each(|slice| endpoint::check_slice(world, &name, slice, notes));
            });
        }
        for name in touched.access {
            let access = world.objects.access.get(&name);
            told.of(Unit::Access(name.clone()), |notes| {
                access.into_iter().for_each(|policy| policy::check_access(policy, index, notes));
            });
            let made = |p: &Arc<AccessPolicy>| Policy {
                name: p.name.clone(),
                action: p.action,
                rules: p.rules.clone(),
                tier: Tier::Access,
            };
            let policy = access.map(made).or_else(|| network::policy(world, &name, index.bound.contains_key(&name)));
            put(&mut next.policies, name, policy);
        }
        for name in touched.encryption {
            told.of(Unit::Encryption(name.clone()), |notes| {
                let policy = world.objects.encryption.get(&name);
                policy.into_iter().for_each(|policy| policy::check_encryption(policy, index, notes));
            });
        }
        if touched.has_telemetry {
            told.of(Unit::Telemetry, |notes| telemetry::check(world, next.workloads.values(), notes));
            let says = world.objects.telemetry.iter().map(|(name, p)| (name.clone(), p.says.clone()));
            turn(&mut next.telemetry, &says.collect::<Map<ObjectName, Arc<Telemetry>>>());
        }
        if touched.has_profiles {
            let profiles = told.of(Unit::Profiles, |notes| profile::profiles(world, notes));
            turn(&mut next.profiles, &profiles);
        }
        if touched.has_routes {
            let routes = told.of(Unit::Routes, |notes| route::routes(world, &next.services, notes));
            turn(&mut next.routes, &routes);
        }
        if told.differs {
            let mut all: Vec<Diagnostic> = self.notes.values().flatten().cloned().collect();
            all.sort();
            all.dedup();
            self.diagnostics = Arc::new(all);
        }
    }
}

/// Whether the index counts the workloads that were before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    Not,
}

/// Where notes go.
struct Told<'n> {
    notes: &'n mut BTreeMap<Unit, Vec<Diagnostic>>,
    differs: bool,
}

impl Told<'_> {
    /// What `make` gives; what it notes takes the place of what was noted of this unit before.
    fn of<T>(&mut self, unit: Unit, make: impl FnOnce(&mut Notes) -> T) -> T {
        let mut notes = Notes::default();
        let made = make(&mut notes);
        let Notes(notes) = notes;
        let before = self.notes.get(&unit).map(Vec::as_slice).unwrap_or_default();
        if before != notes {
            self.differs = true;
            if notes.is_empty() {
                self.notes.remove(&unit);
            } else {
                self.notes.insert(unit, notes);
            }
        }
        made
    }
}

/// The workloads of these pods; None for one that is none.
fn workloads(
    world: &World,
    index: &Index,
    pods: &BTreeSet<ObjectName>,
    told: &mut Told<'_>,
) -> Vec<(ObjectName, Option<Workload>)> {
    if pods.is_empty() {
        return Vec::new();
    }
    let (bindings, recorded) = (Bindings::new(world), Recorded::new(world));
    let owners = Owners { pods: &world.objects.pods, index };
    let making = Making { world, owners, bindings: &bindings, recorded: &recorded };
    let make = |name: &ObjectName| {
        let made = told.of(Unit::Pod(name.clone()), |notes| making.workload(world.objects.pods.get(name)?, notes));
        (name.clone(), made)
    };
    pods.iter().map(make).collect()
}

/// Keys and values.
type Labels<'p> = BTreeSet<(&'p str, &'p str)>;

/// The services that may select one of these pods, and are not told so by slices.
fn of_labels(world: &World, index: &Index, pods: &[Arc<Pod>]) -> Vec<ObjectName> {
    let mut labels: BTreeMap<&Arc<str>, Labels<'_>> = BTreeMap::new();
    for pod in pods {
        let of_pod = pod.labels.iter().map(|(key, value)| (&**key, &**value));
        labels.entry(&pod.name.namespace).or_default().extend(of_pod);
    }
    // Slices say nothing of these.
    let has_outside = pods.iter().any(|pod| external::is_outside(pod));
    let mut found = Vec::new();
    for (namespace, labels) in labels {
        for (name, service) in within(&world.objects.services, namespace) {
            let Some(selector) = &service.selector else { continue };
            let may_select = selector.iter().all(|(key, value)| labels.contains(&(&**key, &**value)));
            if may_select && (has_outside || index.slices.of(name).is_empty()) {
                found.push(name.clone());
            }
        }
    }
    found
}

/// The pods that a policy of this namespace selects by either target.
fn selected(world: &World, namespace: &Arc<str>, targets: [Option<&Target>; 2]) -> Vec<ObjectName> {
    let is_meant = |pod: &&Pod| targets.iter().flatten().any(|target| selects(target, pod));
    in_reach(world, namespace).filter(is_meant).map(|pod| pod.name.clone()).collect()
}

/// What of a workload its services' endpoints are made by.
fn reaches(workload: Option<&Workload>) -> Option<impl PartialEq + use<'_>> {
    workload.map(|w| (&w.addresses, &w.node, &w.zone, w.membership))
}

/// Makes it say so of this name; what says so already stays.
fn put<T: PartialEq>(map: &mut Map<ObjectName, Arc<T>>, name: ObjectName, now: Option<T>) {
    match (map.get(&name), now) {
        (Some(before), Some(now)) if **before == now => {}
        (_, Some(now)) => drop(map.insert(name, Arc::new(now))),
        (Some(_), None) => drop(map.remove(&name)),
        (None, None) => {}
    }
}

/// Makes it say the same; what says so already stays.
fn turn<K: Ord + Clone, T: PartialEq>(map: &mut Map<K, Arc<T>>, now: &Map<K, Arc<T>>) {
    let before = map.clone();
    for Differs { key, before: _, now } in before.differences(now) {
        match now {
            Some(now) => drop(map.insert(key.clone(), now.clone())),
            None => drop(map.remove(key)),
        }
    }
}
