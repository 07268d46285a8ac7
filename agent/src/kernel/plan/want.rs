//! Says what the kernel's tables should hold for a mesh, seen from one node. Pure: a Mesh and the node's namespaces in, a State out.
//!
//! Table numbers are its own, counted from 1; [`super::plan`] gives each changed table a fresh number of the kernel's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use millrace_abi::{
    Addr, Dest, DestKind, ListenerKey, ListenerKind, Pod, PodKind, ProbeKey, ServiceKey, ServiceValue, SlotKey,
    SlotValue, Verdict, VerdictKey, service_flag,
    udp::{self as abi_udp, JUDGED_APART, NO_STRANGERS, STRANGER_FIXED_BITS, StrangerKey},
};
use millrace_model::{
    Affinity, Destination, Ejected, Facts, Membership, Mesh, ObjectName, Protocol, Reach, Service, ServicePort, Source,
    Tier, Traffic, UdpMode, Workload, authorize_by,
    balance::alias_table,
    datagram::{self, Part},
    name::stable_id,
    network,
    resolve::{Backend, Hop, hop, resolve_by},
};

use crate::kernel::state::State;

/// The network namespaces that the agent has found on its node, by netns cookie, and cgroups in its own, by their keys.
pub type Namespaces = BTreeMap<u64, Namespace>;

/// Whose a network namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// A workload's of the mesh, with its listeners open.
    Mesh(ObjectName),
    /// A workload's that is not in the mesh.
    Outside(ObjectName),
    /// The node's own.
    Host,
    /// A workload's of the mesh that shares the node's; known by its cgroup.
    HostMesh(ObjectName),
    /// Another's that does.
    HostOutside(ObjectName),
    /// Nobody knows whose, but a pod's.
    HostUnknown,
}

/// A protocol, as SERVICES' keys have it: IPPROTO_TCP, IPPROTO_UDP.
pub(crate) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// What the tables are made by.
#[derive(Clone, Copy)]
pub struct View<'v> {
    /// The mesh.
    pub mesh: &'v Mesh,
    /// The node that it is seen from.
    pub node: &'v str,
    /// Whose each of its network namespaces is.
    pub namespaces: &'v Namespaces,
    /// The endpoints that are left out of their services.
    pub ejected: &'v Ejected,
    /// The workloads of other nodes that left the mesh so lately that they are called by tunnel still.
    pub departed: &'v BTreeSet<ObjectName>,
}

/// What the tables should hold, where nobody is left out and nobody left of late.
pub fn want(mesh: &Mesh, node: &str, namespaces: &Namespaces) -> State {
    let (ejected, departed) = (Ejected::default(), BTreeSet::new());
    want_by(&View { mesh, node, namespaces, ejected: &ejected, departed: &departed })
}

/// What the tables should hold.
pub fn want_by(view: &View<'_>) -> State {
    let mut state = State::default();
    let sight = Sight::of(view, &mut state);
    let mut groups = BTreeMap::new();
    for workload in view.mesh.snapshot.workloads.values().filter(|workload| sight.is_called(workload)) {
        // One id for a set of policies costs a hash: asked once per workload, not once per address.
        let base = workload.policy_group();
        // Of two workloads that claim one address, the Mesh says whose it is.
        let has = |at: &&IpAddr| view.mesh.workload_at(**at).is_some_and(|owner| owner.name == workload.name);
        for address in workload.addresses.iter().filter(has) {
            sight.dest((workload, base), *address, (&mut state, &mut groups));
        }
    }
    for group in groups.values() {
        sight.judge(group, &mut state);
    }
    let mut tables = 1u32..;
    for service in view.mesh.snapshot.services.values() {
        for ServicePort { port, protocol, name: _ } in &service.ports {
            for address in &service.addresses {
                // Of two services that claim one address and port, the Mesh says whose it is.
                let owner = view.mesh.service_at(*address, *port, *protocol);
                if owner.is_some_and(|owner| owner.name == service.name) {
                    sight.service((service, *address, (*port, *protocol)), &mut tables, &mut state);
                }
            }
        }
    }
    state
}

/// A View, and who calls from its node.
pub(super) struct Sight<'v> {
    view: &'v View<'v>,
    pub(super) sources: Vec<&'v Arc<Workload>>,
    /// Their namespaces.
    callers: BTreeSet<&'v str>,
}

impl<'v> Sight<'v> {
    /// Writes the node's namespaces, and who is listened for.
    pub(super) fn of(view: &'v View<'v>, state: &mut State) -> Self {
        let mut sources: Vec<&Arc<Workload>> = Vec::new();
        for (cookie, namespace) in view.namespaces {
            let (name, kind) = match namespace {
                Namespace::Host => {
                    state.pods.insert(*cookie, host(PodKind::Host));
                    continue;
                }
                Namespace::HostUnknown => {
                    state.pods.insert(*cookie, host(PodKind::HostOutside));
                    continue;
                }
                Namespace::HostMesh(name) => (name, PodKind::HostMesh),
                Namespace::HostOutside(name) => (name, PodKind::HostOutside),
                Namespace::Mesh(name) => (name, PodKind::Mesh),
                Namespace::Outside(name) => (name, PodKind::Outside),
            };
            let Some(workload) = view.mesh.snapshot.workloads.get(name) else { continue };
            state.pods.insert(*cookie, pod(workload, kind));
            if kind == PodKind::Mesh {
                state.listeners.extend(listener_keys(workload));
            }
            if matches!(kind, PodKind::Mesh | PodKind::HostMesh) {
                sources.push(workload);
            }
        }
        let callers = sources.iter().map(|source| &*source.name.namespace).collect();
        Self { view, sources, callers }
    }

    /// One that left the mesh a moment ago is reached as before: one of this node, whose namespace is the mesh's still, or of another.
    fn left(&self, workload: &Workload) -> Option<DestKind> {
        let is_outside = workload.membership == Membership::Outside;
        if is_outside && self.sources.iter().any(|source| source.name == workload.name) {
            return Some(DestKind::Local);
        }
        (is_outside && self.view.departed.contains(&workload.name)).then_some(DestKind::Remote)
    }

    /// True where connections to it are the mesh's.
    pub(super) fn is_called(&self, workload: &Workload) -> bool {
        workload.membership.is_captured() || self.left(workload).is_some()
    }

    /// Writes how `address` is reached, which is this workload's, with the id of its policies.
    pub(super) fn dest(
        &self,
        (workload, base): (&Arc<Workload>, u64),
        address: IpAddr,
        (state, groups): (&mut State, &mut BTreeMap<u64, Group>),
    ) {
        let View { mesh, node, .. } = *self.view;
        let kind = match hop(mesh, node, SocketAddr::new(address, 0)) {
            Hop::Plain => match self.left(workload) {
                Some(kind) => kind,
                None => return,
            },
            Hop::Local(_) => DestKind::Local,
            Hop::Tunnel(_) => DestKind::Remote,
            Hop::Pending(_) => DestKind::Pending,
        };
        let is_apart = workload.judges_protocols(mesh);
        // What this node's own pods get of network policies is said of pods of this node alone.
        let is_here = is_apart && base != 0 && *workload.node == *node;
        let base = if is_here { stable_id(&[&base.to_be_bytes(), b"here"]) } else { base };
        let group = group(mesh, workload, base, address);
        let id = group.as_ref().map_or(0, |group| group.id);
        let udp = match workload.encryption.udp {
            UdpMode::Allow => 0,
            UdpMode::Deny => NO_STRANGERS,
        };
        let udp = if is_apart { udp | JUDGED_APART } else { udp };
        state.dests.insert(addr(address), Dest { id: workload.id(), group: id, kind: kind as u32, udp });
        if *workload.node == *node {
            state.probes.extend(probes(workload, address));
        }
        if let Some(group) = group {
            groups.entry(id).or_insert(group);
        }
    }

    /// Writes who may call `group`.
    pub(super) fn judge(&self, group: &Group, state: &mut State) {
        for source in &self.sources {
            judge(self.view.mesh, source, group, &mut state.verdicts);
        }
        strangers(self.view.mesh, group, state);
    }

    /// Writes one virtual address of a service that has it, and whom it leads to, in the next of `tables`.
    pub(super) fn service(
        &self,
        (service, address, (port, protocol)): (&Service, IpAddr, (u16, Protocol)),
        tables: &mut std::ops::RangeFrom<u32>,
        state: &mut State,
    ) {
        let View { mesh, node, ejected, .. } = *self.view;
        if protocol == Protocol::Udp && !datagram::is_carried(mesh, service) {
            return;
        }
        let at = SocketAddr::new(address, port);
        // What fails to connect says nothing of datagrams.
        let none = Ejected::default();
        let ejected = if protocol == Protocol::Tcp { ejected } else { &none };
        let Destination::Service { name: _, mut backends } = resolve_by(mesh, node, (at, protocol), ejected) else {
            return;
        };
        // The programs look for a client's backend by halving.
        backends.sort_by_key(|backend| backend.address);
        let slots = slots(&backends);
        let table = if slots.is_empty() { Some(0) } else { tables.next() };
        let (Some(table), Ok(n_slots)) = (table, u32::try_from(slots.len())) else { return };
        let Traffic { affinity, reach, outliers: _, retries: _ } = &service.traffic;
        let affinity_s = match affinity {
            Affinity::None => 0,
            Affinity::ClientIp { timeout } => u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
        };
        let local = if *reach == Reach::Local { service_flag::LOCAL } else { 0 };
        let is_routed = protocol == Protocol::Tcp && is_routed(mesh, &service.name, port, &self.callers);
        let routed = if is_routed { service_flag::ROUTED } else { 0 };
        let value = ServiceValue { table, n_slots, affinity_s, flags: local | routed };
        state.services.insert(service_key(address, port, protocol), value);
        state.slots.extend((0..).zip(slots).map(|(slot, value)| (SlotKey { table, slot }, value)));
    }
}

/// What the programs look a virtual address up by.
pub(super) fn service_key(address: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    ServiceKey { addr: addr(address), port: port.to_be_bytes(), protocol: number(protocol), reserved: 0 }
}

/// An address as the kernel's tables have it.
pub fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The steering entries of a workload: one of each kind for the address that each family is known by.
pub fn listener_keys(workload: &Workload) -> impl Iterator<Item = ListenerKey> {
    [workload.addresses.iter().find(|a| a.is_ipv4()), workload.addresses.iter().find(|a| a.is_ipv6())]
        .into_iter()
        .flatten()
        .flat_map(|address| {
            [ListenerKind::Plaintext, ListenerKind::Tunnel]
                .map(|kind| ListenerKey { addr: addr(*address), kind: kind as u32 })
        })
}

fn host(kind: PodKind) -> Pod {
    Pod { id: 0, v4: [0; 16], v6: [0; 16], kind: kind as u32, reserved: 0 }
}

fn pod(workload: &Workload, kind: PodKind) -> Pod {
    let first = |is: fn(&IpAddr) -> bool| workload.addresses.iter().copied().find(is).map_or([0; 16], addr);
    Pod { id: workload.id(), v4: first(IpAddr::is_ipv4), v6: first(IpAddr::is_ipv6), kind: kind as u32, reserved: 0 }
}

/// Workloads that are judged alike: those with the same policies, told apart by family where a policy names addresses.
pub(super) struct Group {
    pub(super) id: u64,
    /// Any one of them.
    workload: Arc<Workload>,
    /// The family of the addresses in it; None where no policy asks for the caller's address.
    family: Option<Family>,
    /// The ports that its policies name, and 0 for all others.
    ports: BTreeSet<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What the host may reach of a workload at this address: the node's own kubelet probes it there.
fn probes(workload: &Workload, address: IpAddr) -> impl Iterator<Item = ProbeKey> {
    let key = move |port: &u16| ProbeKey { addr: addr(address), port: port.to_be_bytes(), reserved: [0; 2] };
    workload.probe_ports.iter().map(key)
}

fn group(mesh: &Mesh, workload: &Arc<Workload>, base: u64, address: IpAddr) -> Option<Group> {
    if base == 0 {
        return None;
    }
    let policies = || workload.policies.iter().filter_map(|name| mesh.snapshot.policies.get(name));
    let rules = || policies().flat_map(|policy| &policy.rules);
    let ports = rules().flat_map(|rule| rule.ports.iter().copied()).chain([0]).collect();
    // A network policy knows every caller by its address.
    let asks_address = rules().flat_map(|rule| &rule.from).any(|source| matches!(source, Source::Block(_)))
        || policies().any(|policy| policy.tier != Tier::Access);
    let (id, family) = match (asks_address, address) {
        (false, _) => (base, None),
        (true, IpAddr::V4(_)) => (base, Some(Family::V4)),
        // VERDICTS has no room for an address. A caller has one of each family, so the family stands in for it.
        (true, IpAddr::V6(_)) => (stable_id(&[&base.to_be_bytes(), b"v6"]), Some(Family::V6)),
    };
    Some(Group { id, workload: workload.clone(), family, ports })
}

/// Writes the verdicts on everything that `source` could call in `group`. `model::authorize_by` is the only judge.
fn judge(mesh: &Mesh, source: &Workload, group: &Group, verdicts: &mut BTreeMap<VerdictKey, Verdict>) {
    let of_family = |address: &&IpAddr| match group.family {
        None => true,
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
    };
    // Without an address of the family it calls nobody there; what is not written is refused.
    let Some(address) = source.addresses.iter().find(of_family) else { return };
    let apart = group.workload.judges_protocols(mesh).then_some((Protocol::Udp, abi_udp::APART));
    for (protocol, reserved) in [(Protocol::Tcp, [0; 6])].into_iter().chain(apart) {
        for port in group.ports.union(&network::egress_ports(mesh, source)) {
            // No rule names port 0, so that it is judged as any port that none of them names.
            let facts = Facts { identity: Some(source.identity.clone()), address: *address, port: *port };
            let verdict = authorize_by(mesh, &group.workload, &facts, protocol);
            let policy = verdict.ground().policy().map_or(0, ObjectName::id);
            verdicts.insert(
                VerdictKey { source: source.id(), group: group.id, port: port.to_be_bytes(), reserved },
                Verdict { policy, allow: u32::from(verdict.allows()), reserved: 0 },
            );
        }
    }
}

/// Writes the verdicts on who sends datagrams to `group` without identity, part by part of all addresses.
fn strangers(mesh: &Mesh, group: &Group, state: &mut State) {
    // A group that asks for addresses is of one family alone; one that does not has one part, of both.
    let parts = datagram::parts(mesh, &group.workload, group.family == Some(Family::V4));
    for port in &group.ports {
        for Part { block, address } in &parts {
            let verdict = datagram::authorize_stranger(mesh, &group.workload, *address, *port);
            let policy = verdict.ground().policy().map_or(0, ObjectName::id);
            let verdict = Verdict { policy, allow: u32::from(verdict.allows()), reserved: 0 };
            state.strangers.insert(stranger_key(group.id, *port, *block), verdict);
        }
    }
}

/// The key of callers in this block, or of all.
fn stranger_key(group: u64, port: u16, block: Option<(IpAddr, u8)>) -> StrangerKey {
    let (bits, address) = match block {
        None => (0, [0; 16]),
        // v4-mapped: behind 96 bits that all of them share.
        Some((network @ IpAddr::V4(_), bits)) => (96 + u32::from(bits), addr(network)),
        Some((network @ IpAddr::V6(_), bits)) => (u32::from(bits), addr(network)),
    };
    let stranger =
        abi_udp::Stranger { group: group.to_be_bytes(), port: port.to_be_bytes(), addr: address, reserved: [0; 2] };
    StrangerKey { prefix_len: STRANGER_FIXED_BITS + bits, stranger }
}

/// Whether requests of any of these namespaces' pods to this port are the proxy's to route. It carries the others' as they are.
fn is_routed(mesh: &Mesh, service: &ObjectName, port: u16, callers: &BTreeSet<&str>) -> bool {
    let routes = mesh.snapshot.routes.get(service);
    routes.is_some_and(|routes| callers.iter().any(|namespace| routes.route(port, namespace)))
}

fn slots(backends: &[Backend]) -> Vec<SlotValue> {
    let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
    alias_table(&weights)
        .into_iter()
        .filter_map(|slot| {
            let (own, alias) = (backends.get(slot.own)?.address, backends.get(slot.alias)?.address);
            Some(SlotValue {
                addr: addr(own.ip()),
                alias_addr: addr(alias.ip()),
                port: own.port().to_be_bytes(),
                alias_port: alias.port().to_be_bytes(),
                threshold: slot.threshold,
            })
        })
        .collect()
}
