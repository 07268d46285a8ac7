//! Says which part of the tables a change of the mesh may touch, and makes that part alone: what it costs is what differs.
//!
//! Two meshes are compared as [`Map`](millrace_model::Map)s are, so that what they share is not looked at. Of what differs follows which
//! addresses and virtual addresses may be reached otherwise; each of those is made as the whole makes it, by the same functions. What
//! is touched for nothing costs a look. What should be and is not would be wrong until the next whole: a property states that the plan of the part
//! is the plan of the whole, write by write.
//!
//! The whole is made where there is nothing to compare with, where a write failed, and where those who call from this node are others:
//! everybody's verdicts are then other ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_abi::{
    ProbeKey, VerdictKey,
    udp::{STRANGER_FIXED_BITS, Stranger, StrangerKey},
};
use millrace_model::{
    Ejected, Mesh, ObjectName, Protocol, Service, Source, Tier, Workload, map::Differs, network::PREFIX,
};

use super::{
    slots_of,
    want::{Sight, View, addr, service_key, want_by},
};
use crate::kernel::state::State;

/// A part of the tables.
#[derive(Debug)]
pub struct Part {
    /// What they hold there.
    pub have: State,
    /// What they should.
    pub want: State,
    /// How many addresses there were of each group.
    n_before: BTreeMap<u64, usize>,
}

/// What the tables should hold.
#[derive(Debug)]
pub enum Aim {
    /// In all of them.
    Whole(State),
    /// In the part that may differ: the rest is as it should be.
    Part(Box<Part>),
}

impl Aim {
    /// What is there, where the whole is `have`, and what should be.
    pub fn ends<'a>(&'a self, have: &'a State) -> (&'a State, &'a State) {
        match self {
            Self::Whole(want) => (have, want),
            Self::Part(part) => (&part.have, &part.want),
        }
    }
}

/// By what the tables are as they are: what a change is told by.
#[derive(Debug, Default)]
pub struct Basis {
    /// None: not by any one mesh, as far as is known.
    by: Option<By>,
    /// How many addresses there are of each group in the tables.
    groups: BTreeMap<u64, usize>,
}

/// A [`View`], kept.
#[derive(Debug)]
struct By {
    mesh: Mesh,
    sources: Vec<Arc<Workload>>,
    ejected: Ejected,
    departed: BTreeSet<ObjectName>,
}

/// Who may be reached otherwise.
#[derive(Debug, Default)]
struct Touched {
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<(IpAddr, u16, Protocol)>,
}

impl Basis {
    /// What `have` should be, by the least that says so.
    pub fn aim(&self, have: &State, view: &View<'_>) -> Aim {
        match self.part(have, view) {
            Some(part) => Aim::Part(Box::new(part)),
            None => Aim::Whole(want_by(view)),
        }
    }

    fn part(&self, have: &State, view: &View<'_>) -> Option<Part> {
        let mut want = State::default();
        let sight = Sight::of(view, &mut want);
        let by = self.by.as_ref()?;
        let touched = by.touched(view, &sight.sources)?;
        let mut held = touched.held(have);
        let mut groups = BTreeMap::new();
        for address in &touched.addresses {
            if let Some(owner) = view.mesh.workload_at(*address).filter(|owner| sight.is_called(owner)) {
                sight.dest((owner, owner.policy_group()), *address, (&mut want, &mut groups));
            }
        }
        let mut tables = 1u32..;
        for (address, port, protocol) in &touched.services {
            if let Some(service) = view.mesh.service_at(*address, *port, *protocol) {
                sight.service((service, *address, (*port, *protocol)), &mut tables, &mut want);
            }
        }
        let n_before = counted(&held);
        let all: BTreeSet<u64> = n_before.keys().chain(groups.keys()).copied().collect();
        // Of other groups somebody is there who was not, or is there no more, and the same policies say the same of the rest.
        for id in all.into_iter().filter(|id| self.groups.get(id) == n_before.get(id)) {
            hold_verdicts(have, (&sight, id), &mut held);
            if let Some(group) = groups.get(&id) {
                sight.judge(group, &mut want);
            }
        }
        Some(Part { have: held, want, n_before })
    }

    /// All of `aim`, which was made by `view`, was written: `have` is what came of it.
    pub fn reached(&mut self, have: &State, aim: &Aim, view: &View<'_>) {
        match aim {
            Aim::Whole(_) => self.groups = counted(have),
            Aim::Part(part) => {
                let Part { have: _, want, n_before } = &**part;
                for (id, n) in n_before {
                    self.groups.entry(*id).and_modify(|all| *all = all.saturating_sub(*n));
                }
                for (id, n) in counted(want) {
                    *self.groups.entry(id).or_default() += n;
                }
                self.groups.retain(|_, n| *n != 0);
            }
        }
        let View { mesh, node: _, namespaces: _, ejected, departed } = *view;
        let sources = Sight::of(view, &mut State::default()).sources.into_iter().cloned().collect();
        self.by = Some(By { mesh: mesh.clone(), sources, ejected: ejected.clone(), departed: departed.clone() });
    }

    /// Something was not written: what is there is by no one mesh.
    pub fn lose(&mut self) {
        self.by = None;
    }
}

/// How many addresses there are of each group.
fn counted(state: &State) -> BTreeMap<u64, usize> {
    let mut all = BTreeMap::new();
    for group in state.dests.values().map(|dest| dest.group).filter(|group| *group != 0) {
        *all.entry(group).or_default() += 1;
    }
    all
}

/// Takes over what is held of who may call a group.
fn hold_verdicts(have: &State, (sight, id): (&Sight<'_>, u64), held: &mut State) {
    for source in &sight.sources {
        let first = VerdictKey { source: source.id(), group: id, port: [0; 2], reserved: [0; 6] };
        let last = VerdictKey { port: [u8::MAX; 2], reserved: [u8::MAX; 6], ..first };
        held.verdicts.extend(have.verdicts.range(first..=last));
    }
    let first = Stranger { group: id.to_be_bytes(), port: [0; 2], addr: [0; 16], reserved: [0; 2] };
    let last = Stranger { port: [u8::MAX; 2], addr: [u8::MAX; 16], reserved: [u8::MAX; 2], ..first };
    for prefix_len in STRANGER_FIXED_BITS..=STRANGER_FIXED_BITS + 128 {
        let key = |stranger| StrangerKey { prefix_len, stranger };
        held.strangers.extend(have.strangers.range(key(first)..=key(last)));
    }
}

impl By {
    /// Who is touched as the mesh becomes another; None: everybody may be.
    fn touched(&self, view: &View<'_>, sources: &[&Arc<Workload>]) -> Option<Touched> {
        let (before, now) = (&self.mesh, view.mesh);
        let call_alike =
            self.sources.len() == sources.len() && self.sources.iter().zip(sources).all(|(a, b)| calls_as(a, b));
        let is_same_place = before.zone_of(view.node) == now.zone_of(view.node);
        if !call_alike
            || !are_named_alike(before, now, sources)
            || !is_same_place
            || before.snapshot.trust_domain != now.snapshot.trust_domain
        {
            return None;
        }
        let mut touched = Touched::default();
        touched.by_workloads(before, now);
        touched.by_policies(before, now);
        touched.by_callers(before, now);
        for name in self.departed.symmetric_difference(view.departed) {
            touched.addresses.extend(now.snapshot.workloads.get(name).into_iter().flat_map(|left| &left.addresses));
        }
        touched.by_services((before, now), (&self.ejected, view.ejected));
        Some(touched)
    }
}

/// True where verdicts on `one` are verdicts on `other`, and both have the same entries.
fn calls_as(one: &Arc<Workload>, other: &Arc<Workload>) -> bool {
    let is_same = || {
        one.name == other.name
            && one.instance == other.instance
            && one.identity == other.identity
            && one.addresses == other.addresses
            && one.network == other.network
    };
    Arc::ptr_eq(one, other) || is_same()
}

/// True where those who call are whom their addresses say, as before, and what binds their calls says the same.
fn are_named_alike(before: &Mesh, now: &Mesh, sources: &[&Arc<Workload>]) -> bool {
    let named = |mesh: &Mesh, at: &IpAddr| {
        let owner = mesh.workload_at(*at)?;
        Some((owner.identity.clone(), owner.node.clone(), owner.network.clone()))
    };
    let by_address = || sources.iter().flat_map(|one| &one.addresses).all(|at| named(before, at) == named(now, at));
    // What binds a source's calls is asked, and what binds those of whoever else has its address.
    let owners = sources.iter().flat_map(|one| &one.addresses).filter_map(|at| now.workload_at(*at));
    let mut binding =
        owners.chain(sources.iter().copied()).flat_map(|one| &one.network).flat_map(|network| &network.egress);
    let mut by_policy = || binding.all(|name| before.snapshot.policies.get(name) == now.snapshot.policies.get(name));
    by_address() && by_policy()
}

impl Touched {
    /// Whoever is another, and the services that he is an endpoint of where that counts for them.
    fn by_workloads(&mut self, before: &Mesh, now: &Mesh) {
        for Differs { key: _, before, now } in before.snapshot.workloads.differences(&now.snapshot.workloads) {
            self.addresses.extend(before.into_iter().chain(now).flat_map(|workload| &workload.addresses));
        }
        let membership = |mesh: &Mesh, at| mesh.workload_at(at).map(|owner| owner.membership);
        let turned: BTreeSet<IpAddr> =
            self.addresses.iter().copied().filter(|at| membership(before, *at) != membership(now, *at)).collect();
        if turned.is_empty() {
            return;
        }
        // All are looked at: a millisecond at 50,000, and no index to keep.
        for (name, endpoints) in &now.snapshot.endpoints {
            if endpoints.endpoints.iter().any(|endpoint| turned.contains(&endpoint.address)) {
                self.service(now, name);
            }
        }
    }

    /// Whoever is bound by a policy that is another.
    fn by_policies(&mut self, before: &Mesh, now: &Mesh) {
        let differ = before.snapshot.policies.differences(&now.snapshot.policies);
        if differ.is_empty() {
            return;
        }
        let is_bound = |workload: &&Arc<Workload>| differ.iter().any(|policy| workload.policies.contains(policy.key));
        let bound = now.snapshot.workloads.values().filter(is_bound);
        self.addresses.extend(bound.flat_map(|workload| &workload.addresses));
    }

    /// Whoever is bound by a network policy that knows a caller who is another by his address.
    fn by_callers(&mut self, before: &Mesh, now: &Mesh) {
        let mut ids = BTreeSet::new();
        for Differs { key: _, before: one, now: other } in
            before.snapshot.workloads.differences(&now.snapshot.workloads)
        {
            let alike = |(one, other): (&Arc<Workload>, &Arc<Workload>)| {
                one.addresses == other.addresses && one.network == other.network
            };
            if one.zip(other).is_some_and(alike) {
                continue;
            }
            let addresses = || one.into_iter().chain(other).flat_map(|workload| &workload.addresses);
            let had = addresses().filter_map(|at| before.workload_at(*at));
            let has = addresses().filter_map(|at| now.workload_at(*at));
            let all = had.chain(has).chain(one).chain(other).filter_map(|workload| workload.network.as_ref());
            ids.extend(all.flat_map(|network| network.peers.iter().copied()));
        }
        if ids.is_empty() {
            return;
        }
        let mut naming = BTreeSet::new();
        for (name, policy) in now.snapshot.policies.iter().filter(|(_, policy)| policy.tier != Tier::Access) {
            let mut sources = policy.rules.iter().flat_map(|rule| &rule.from);
            if sources.any(|source| matches!(source, Source::Peers(id) if ids.contains(id))) {
                naming.insert(name);
            }
        }
        let is_bound = |workload: &&Arc<Workload>| {
            workload.policies.iter().any(|name| name.name.starts_with(PREFIX) && naming.contains(name))
        };
        let bound = now.snapshot.workloads.values().filter(is_bound);
        self.addresses.extend(bound.flat_map(|workload| &workload.addresses));
    }

    fn by_services(&mut self, (before, now): (&Mesh, &Mesh), ejected: (&Ejected, &Ejected)) {
        let (was, is) = (&before.snapshot, &now.snapshot);
        for Differs { key: _, before, now } in was.services.differences(&is.services) {
            before.into_iter().chain(now).for_each(|service| self.virtual_addresses(service));
        }
        for Differs { key, .. } in was.endpoints.differences(&is.endpoints) {
            self.service(now, key);
        }
        for Differs { key, .. } in was.routes.differences(&is.routes) {
            self.service(now, key);
        }
        if ejected.0 != ejected.1 {
            ejected.0.services().chain(ejected.1.services()).for_each(|name| self.service(now, name));
        }
    }

    /// A service that is the same, or touched as another already.
    fn service(&mut self, mesh: &Mesh, name: &ObjectName) {
        mesh.snapshot.services.get(name).into_iter().for_each(|service| self.virtual_addresses(service));
    }

    fn virtual_addresses(&mut self, service: &Service) {
        for port in &service.ports {
            let of_port = service.addresses.iter().map(|address| (*address, port.port, port.protocol));
            self.services.extend(of_port);
        }
    }

    /// What `have` says of all these.
    fn held(&self, have: &State) -> State {
        // Few, and of this node.
        let mut held = State { pods: have.pods.clone(), listeners: have.listeners.clone(), ..State::default() };
        for at in self.addresses.iter().map(|address| addr(*address)) {
            held.dests.extend(have.dests.get_key_value(&at));
            let first = ProbeKey { addr: at, port: [0; 2], reserved: [0; 2] };
            let last = ProbeKey { port: [u8::MAX; 2], reserved: [u8::MAX; 2], ..first };
            held.probes.extend(have.probes.range(first..=last));
        }
        for (address, port, protocol) in &self.services {
            let key = service_key(*address, *port, *protocol);
            let Some(value) = have.services.get(&key) else { continue };
            held.services.insert(key, *value);
            held.slots.extend(have.slots.range(slots_of(value.table)));
        }
        held
    }
}
