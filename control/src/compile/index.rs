//! Knows what of a World rests on what: which pods claim an address, which slices list it, whom a policy binds. A change is then
//! compiled by a look at what it touches, and the whole by the same look at everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{Map, ObjectName, Protocol, Workload};

use super::{policy::selects, workload::is_workload};
use crate::world::{Objects, Pod, Service, Settings, Slice, Target, World};

/// What a client asks a service by.
pub(super) type VirtualAddress = (IpAddr, u16, Protocol);

/// A namespace, and the name of a ServiceAccount in it.
type Account = (Arc<str>, Arc<str>);

/// The names that stand under a key, in order.
#[derive(Clone, Debug)]
pub(super) struct Names<K>(BTreeMap<K, Vec<ObjectName>>);

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Names<K> {
    pub(super) fn of(&self, key: &K) -> &[ObjectName] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn add(&mut self, key: K, name: &ObjectName) {
        let names = self.0.entry(key).or_default();
        if let Err(at) = names.binary_search(name) {
            names.insert(at, name.clone());
        }
    }

    fn remove(&mut self, key: &K, name: &ObjectName) {
        let Some(names) = self.0.get_mut(key) else { return };
        names.retain(|one| one != name);
        if names.is_empty() {
            self.0.remove(key);
        }
    }
}

/// How often something is there.
#[derive(Clone, Debug)]
pub(super) struct Counts<K>(BTreeMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Counts<K> {
    pub(super) fn has<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// True where it was not there before.
    fn add(&mut self, key: K) -> bool {
        let n = self.0.entry(key).or_default();
        *n += 1;
        *n == 1
    }

    /// True where it is there no more.
    fn remove(&mut self, key: &K) -> bool {
        let Some(n) = self.0.get_mut(key) else { return false };
        *n -= 1;
        let is_gone = *n == 0;
        if is_gone {
            self.0.remove(key);
        }
        is_gone
    }
}

/// The workloads that an access policy binds.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    pub(super) n: usize,
    /// Those that are not in the mesh.
    pub(super) outside: BTreeSet<ObjectName>,
}

/// What rests on what.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// By address, the pods that claim it.
    pub(super) claims: Names<IpAddr>,
    /// By address, the slices that list it.
    pub(super) listed: Names<IpAddr>,
    /// By service, its slices.
    pub(super) slices: Names<ObjectName>,
    /// By address and port, the services that have it.
    pub(super) virtual_addresses: Names<VirtualAddress>,
    /// By address, the services that have it.
    pub(super) service_addresses: Names<IpAddr>,
    /// By access policy.
    pub(super) bound: BTreeMap<ObjectName, Bound>,
    /// By encryption policy that does not select all, whether it selects any pod.
    pub(super) reached: BTreeMap<ObjectName, bool>,
    /// By namespace and name, of pods and by themselves.
    pub(super) accounts: Counts<Account>,
    pub(super) namespaces: Counts<Arc<str>>,
}

impl Index {
    /// Of all objects; workloads are to be added.
    pub(super) fn of(world: &World) -> Self {
        let mut index = Self::default();
        let Objects { pods, slices, services, service_accounts, namespaces, encryption, .. } = &world.objects;
        for pod in pods.values() {
            index.pod(None, Some(pod));
        }
        for (name, slice) in slices {
            index.slice(name, None, Some(slice));
        }
        for service in services.values() {
            index.service(None, Some(service));
        }
        for account in service_accounts.keys() {
            index.account(None, Some(account));
        }
        for namespace in namespaces.keys() {
            index.namespaces.add(namespace.clone());
        }
        for policy in encryption.values() {
            index.encryption(world, &policy.name);
        }
        index
    }

    /// A pod that was or is. True where an account or a namespace came or went with it.
    pub(super) fn pod(&mut self, before: Option<&Pod>, now: Option<&Pod>) -> bool {
        let mut is_news = false;
        if let Some(pod) = before {
            for address in pod.addresses.iter().filter(|_| is_workload(pod)) {
                self.claims.remove(address, &pod.name);
            }
            is_news |= self.accounts.remove(&account(pod)) | self.namespaces.remove(&pod.name.namespace);
        }
        if let Some(pod) = now {
            for address in pod.addresses.iter().filter(|_| is_workload(pod)) {
                self.claims.add(*address, &pod.name);
            }
            is_news |= self.accounts.add(account(pod)) | self.namespaces.add(pod.name.namespace.clone());
        }
        is_news
    }

    pub(super) fn slice(&mut self, name: &ObjectName, before: Option<&Slice>, now: Option<&Slice>) {
        if let Some(slice) = before {
            self.slices.remove(&slice.service, name);
            slice.addresses().for_each(|address| self.listed.remove(&address, name));
        }
        if let Some(slice) = now {
            self.slices.add(slice.service.clone(), name);
            slice.addresses().for_each(|address| self.listed.add(address, name));
        }
    }

    pub(super) fn service(&mut self, before: Option<&Service>, now: Option<&Service>) {
        if let Some(service) = before {
            service.addresses.iter().for_each(|address| self.service_addresses.remove(address, &service.name));
            virtual_addresses(service).for_each(|at| self.virtual_addresses.remove(&at, &service.name));
        }
        if let Some(service) = now {
            service.addresses.iter().for_each(|address| self.service_addresses.add(*address, &service.name));
            virtual_addresses(service).for_each(|at| self.virtual_addresses.add(at, &service.name));
        }
    }

    /// The services whose slices list this address.
    pub(super) fn listing(&self, address: IpAddr, objects: &Objects) -> impl Iterator<Item = ObjectName> {
        let slices = self.listed.of(&address).iter().filter_map(|name| objects.slices.get(name));
        slices.map(|slice| slice.service.clone())
    }

    /// The services that have an address and port of this one.
    pub(super) fn beside(&self, service: Option<&Service>) -> Vec<ObjectName> {
        let all = service.into_iter().flat_map(virtual_addresses);
        all.flat_map(|at| self.virtual_addresses.of(&at).iter().cloned()).collect()
    }

    /// A ServiceAccount that was or is. True where it came or went.
    pub(super) fn account(&mut self, before: Option<&ObjectName>, now: Option<&ObjectName>) -> bool {
        let both = |name: &ObjectName| (name.namespace.clone(), name.name.clone());
        let mut is_news = false;
        if let Some(name) = before {
            is_news |= self.accounts.remove(&both(name)) | self.namespaces.remove(&name.namespace);
        }
        if let Some(name) = now {
            is_news |= self.accounts.add(both(name)) | self.namespaces.add(name.namespace.clone());
        }
        is_news
    }

    /// A Namespace that came or went. True where nothing else is in it.
    pub(super) fn namespace(&mut self, name: &Arc<str>, is_there: bool) -> bool {
        if is_there { self.namespaces.add(name.clone()) } else { self.namespaces.remove(name) }
    }

    /// A workload that was or is; the policies that this is news for.
    pub(super) fn workload(&mut self, before: Option<&Workload>, now: Option<&Workload>) -> BTreeSet<ObjectName> {
        let mut news = BTreeSet::new();
        let what = |one: &Workload| (one.policies.clone(), one.membership.is_captured());
        if before.map(what) == now.map(what) {
            return news;
        }
        if let Some(workload) = before {
            for policy in &workload.policies {
                news.insert(policy.clone());
                let Some(bound) = self.bound.get_mut(policy) else { continue };
                bound.n -= 1;
                bound.outside.remove(&workload.name);
                if bound.n == 0 {
                    self.bound.remove(policy);
                }
            }
        }
        if let Some(workload) = now {
            for policy in &workload.policies {
                news.insert(policy.clone());
                let bound = self.bound.entry(policy.clone()).or_default();
                bound.n += 1;
                if !workload.membership.is_captured() {
                    bound.outside.insert(workload.name.clone());
                }
            }
        }
        news
    }

    /// Looks whether an encryption policy selects anybody.
    pub(super) fn encryption(&mut self, world: &World, name: &ObjectName) {
        self.reached.remove(name);
        let Some(policy) = world.objects.encryption.get(name).filter(|policy| policy.target != Target::All) else {
            return;
        };
        let reaches = in_reach(world, &name.namespace).any(|pod| selects(&policy.target, pod));
        self.reached.insert(name.clone(), reaches);
    }
}

fn account(pod: &Pod) -> Account {
    (pod.name.namespace.clone(), pod.service_account.clone())
}

fn virtual_addresses(service: &Service) -> impl Iterator<Item = VirtualAddress> {
    let ports = |address: IpAddr| service.ports.iter().map(move |port| (address, port.port, port.protocol));
    service.addresses.iter().copied().flat_map(ports)
}

impl Slice {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied())
    }
}

/// What stands in a namespace.
pub(super) fn within<'m, V>(
    map: &'m Map<ObjectName, V>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = (&'m ObjectName, &'m V)> + use<'m, V> {
    let (first, namespace) = (ObjectName { namespace: namespace.clone(), name: "".into() }, namespace.clone());
    map.starting_at(&first).take_while(move |(name, _)| name.namespace == namespace)
}

/// The pods that a policy which stands in this namespace could select.
pub(super) fn in_reach<'w>(world: &'w World, namespace: &Arc<str>) -> Box<dyn Iterator<Item = &'w Pod> + 'w> {
    let Settings { root_namespace, .. } = &world.settings;
    if namespace == root_namespace {
        Box::new(world.objects.pods.values().map(|pod| &**pod))
    } else {
        Box::new(within(&world.objects.pods, namespace).map(|(_, pod)| &**pod))
    }
}
