//! Lays out map keys and values. Every struct is plain bytes without hidden padding; `zerocopy`-free on purpose: nothing here is parsed.

use crate::{Addr, Port};

/// What a network namespace is to the mesh.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodKind {
    /// A pod of the mesh: captured.
    Mesh = 1,
    /// A known namespace that is not in the mesh (an opted-out pod): left alone.
    Outside = 2,
    /// The node's own namespace: left alone.
    Host = 3,
    /// A pod of the mesh in the node's own namespace, known by its cgroup: on this node it calls as itself.
    HostMesh = 4,
    /// Any other pod there: left alone, and never taken for the host.
    HostOutside = 5,
}

/// Value of PODS, by netns cookie, or by [`cgroup_key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The workload's id; 0 for the host.
    pub id: u64,
    /// Its IPv4 address, v4-mapped; zero where it has none. Connections from another address are not attested.
    pub v4: Addr,
    /// Its IPv6 address; zero where it has none.
    pub v6: Addr,
    /// A [`PodKind`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// The key of a pod in the node's own namespace: its cgroup's id, told from a netns cookie by a bit that no cookie has, as they are
/// counted from 1.
pub const fn cgroup_key(id: u64) -> u64 {
    id | 1 << 63
}

/// How a workload's address is reached from this node.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestKind {
    /// On this node: straight, by the kernel's verdict.
    Local = 1,
    /// On another node: by the proxy's tunnel.
    Remote = 2,
    /// Of the mesh but without listeners yet: refused.
    Pending = 3,
}

/// Value of DESTS, by workload address. Only workloads of the mesh are in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dest {
    /// The workload's id.
    pub id: u64,
    /// Its policy group; 0: no policy selects it, everybody may call.
    pub group: u64,
    /// A [`DestKind`].
    pub kind: u32,
    /// [`crate::udp::NO_STRANGERS`] and [`crate::udp::JUDGED_APART`], or 0: datagrams of callers without identity are judged by policy.
    pub udp: u32,
}

/// Key of SERVICES.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The virtual address.
    pub addr: Addr,
    /// The service's port.
    pub port: Port,
    /// IPPROTO_TCP (6) or IPPROTO_UDP (17).
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Value of SERVICES: the one value that a flip changes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// The table whose slots are drawn from.
    pub table: u32,
    /// How many slots it has; 0 refuses at once: no ready backend. They stand in the order of their own backends' addresses and ports.
    pub n_slots: u32,
    /// For how many seconds after its last connection a client stays with its backend; 0: each connection is drawn anew.
    pub affinity_s: u32,
    /// Bits of [`service_flag`].
    pub flags: u32,
}

/// What is said of a service beside its table.
pub mod service_flag {
    /// The table holds this node's backends alone, by the service's word.
    pub const LOCAL: u32 = 1;
    /// What becomes of requests to it is the proxy's to say: pods' connections go there, and the table is not drawn from.
    pub const ROUTED: u32 = 2;
}

/// Key of AFFINITY: a client and what it asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The client's netns cookie: it is a client whatever address it binds.
    pub netns: u64,
    /// The service's address, port and protocol.
    pub service: ServiceKey,
    /// Zero.
    pub reserved: u32,
}

/// Value of AFFINITY: the backend that the client was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// CLOCK_MONOTONIC when it last connected.
    pub at_ns: u64,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
    /// A slot that named it last: where to look first.
    pub slot: u32,
}

/// Key of SLOTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// The table.
    pub table: u32,
    /// From 0 to the table's `n_slots` - 1.
    pub slot: u32,
}

/// Value of SLOTS: an alias slot (see `millrace_model::balance::alias_table`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotValue {
    /// The slot's own backend.
    pub addr: Addr,
    /// The backend taken where the second draw is not below `threshold`.
    pub alias_addr: Addr,
    /// The own backend's port.
    pub port: Port,
    /// The alias's port.
    pub alias_port: Port,
    /// Of 2^32 draws, how many keep the own backend; `u32::MAX` keeps it always.
    pub threshold: u32,
}

/// Key of FAILURES: where a service led.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of FAILURES: connections that could not be made.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// CLOCK_MONOTONIC of the last one.
    pub at_ns: u64,
    /// How many there were since this entry was made.
    pub failed: u64,
    /// How many since a connection was made.
    pub run: u32,
    /// The last one's [`crate::Reason`].
    pub cause: u32,
}

/// Key of LISTENING: a port of a network namespace, or of the workload of this node that has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListeningKey {
    /// The netns cookie, or the workload's id.
    pub of: u64,
    /// The port.
    pub port: Port,
    /// 1: a namespace's, 0: a workload's.
    pub is_namespace: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// Value of LISTENING: who listens there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Of a namespace: how many sockets do, of those that were seen to begin, whether it was known then whose it is or not.
    pub n_open: i64,
    /// Of a workload: CLOCK_MONOTONIC when the last of them was closed; 0: one is open.
    pub closed_ns: u64,
}

/// Key of VERDICTS. Looked up with the port, then with port 0; where both are missing the answer is no.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    /// The calling workload's id.
    pub source: u64,
    /// The called workload's policy group.
    pub group: u64,
    /// The application's port; 0: every port without an entry of its own.
    pub port: Port,
    /// Zero; of datagrams that are judged apart, [`crate::udp::of_datagrams`].
    pub reserved: [u8; 6],
}

/// Value of VERDICTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The id of the policy it rests on; 0: none.
    pub policy: u64,
    /// 1 allows, anything else denies.
    pub allow: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of PROBES: a port of a workload of this node that its probes name. To be there is all that it says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeKey {
    /// The workload's address.
    pub addr: Addr,
    /// The application's port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Key of HANDOFFS: one TCP connection, as its connecting end sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The netns cookie where the target is loopback, which means something else in every namespace; else 0.
    pub cookie: u64,
    /// The connecting end's address.
    pub source: Addr,
    /// The accepting end's address.
    pub target: Addr,
    /// The connecting end's port.
    pub source_port: Port,
    /// The accepting end's port.
    pub target_port: Port,
    /// Zero.
    pub reserved: u32,
}

impl Tuple {
    /// The key of a connection, whichever program writes it or looks it up. `netns` is the cookie of the namespace that this is
    /// known of; 0 where a program has none, which then finds no connection to a loopback address.
    #[inline(always)]
    pub fn of(netns: u64, (source, source_port): (Addr, Port), (target, target_port): (Addr, Port)) -> Self {
        let cookie = crate::decide::tuple_cookie(&target, netns);
        Self { cookie, source, target, source_port, target_port, reserved: 0 }
    }
}

/// What a hand-off record is for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoffKind {
    /// An application's captured connection on its way to the outbound listener.
    Outbound = 1,
    /// A direct connection within this node, allowed when it connected: a pod's to another, or the host's to a probe's port.
    Attested = 2,
    /// The proxy's own dial of an application.
    ProxyDial = 3,
}

/// Value of PENDING, by netns cookie: how many records of HANDOFFS a pod's own connects have there.
///
/// Signed: a pod that is forgotten and captured again while it connects begins at 0, and its older records are taken off still.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many.
    pub records: i64,
}

/// Value of HANDOFFS: written at TCP_CONNECT_CB, before the SYN; removed at PASSIVE_ESTABLISHED or when the connecting socket closes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handoff {
    /// The connecting socket's cookie: only its own close removes the record.
    pub socket: u64,
    /// The calling workload's id; 0 for the host.
    pub source: u64,
    /// The called workload's id, where that is on this node.
    pub target: u64,
    /// The netns cookie of the pod that it counts for; 0: it counts for none, as the host's and the proxy's own do.
    pub netns: u64,
    /// Outbound: what was asked for and what was picked. Others: `original.addr` is the client to show.
    pub original: Original,
    /// A [`HandoffKind`].
    pub kind: u32,
    /// The connecting socket's `write_seq` + 1: what the other end expects first. 0 where it was not readable.
    pub sequence: u32,
}

/// Which end of a connection an [`Original`] stands on.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginalMode {
    /// On the application's socket, sent to the outbound listener: getpeername shows `addr`, getsockname the pod's address.
    Proxied = 1,
    /// On the application's socket, sent straight to a backend of a service: getpeername shows `addr`.
    Direct = 2,
    /// On the socket that the proxy accepted: for the proxy to read, shown to nobody.
    Accepted = 3,
}

/// Value of ORIGINAL: what an application asked for, and what the kernel picked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// The address it asked for.
    pub addr: Addr,
    /// The backend that the kernel picked; where no service was asked for, `addr` again.
    pub backend: Addr,
    /// The port it asked for.
    pub port: Port,
    /// The backend's port.
    pub backend_port: Port,
    /// An [`OriginalMode`].
    pub mode: u8,
    /// 1 where `backend` was given to the client for longer than this connection: who carries it must not draw again.
    pub binds: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of CLIENT: whom the application shall see as its peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownClient {
    /// The client's address.
    pub addr: Addr,
    /// The client's port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of ENDS: what is known of a connection as it begins, on the socket of an end of it. An address may be another
/// workload's by the time that somebody asks.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The calling workload's id; 0 for the host, and where it is not known.
    pub source: u64,
    /// The called workload's id; 0 where it is none of the mesh's.
    pub target: u64,
    /// Until the connection is under way, of a caller in the node's own namespace: its key in PODS, where it is a pod.
    pub key: u64,
    /// The policy that let it pass; 0: none, or decided elsewhere.
    pub policy: u64,
    /// CLOCK_MONOTONIC when it began, where its end is told; else 0.
    pub opened_ns: u64,
    /// How long it took to be established, as the connecting end saw it.
    pub connect_us: u32,
    /// 1 on the caller's socket, 0 on the other.
    pub is_caller: u8,
    /// Of a caller in the node's own namespace: a [`PodKind`], what it is.
    pub kind: u8,
    /// A [`crate::Reason`]: the way it takes.
    pub path: u8,
    /// 1 where the kernel vouches for source and target.
    pub is_attested: u8,
}

/// Value of EXEMPT: present, and 1, on the proxy's own sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exempt {
    /// 1.
    pub exempt: u32,
}

/// What a steering listener is for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenerKind {
    /// Takes connections that came in plain text.
    Plaintext = 1,
    /// Takes tunnels.
    Tunnel = 2,
}

/// Key of LISTENERS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// The pod's address.
    pub addr: Addr,
    /// A [`ListenerKind`].
    pub kind: u32,
}

/// A record in FLOWS: one decision on a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// CLOCK_MONOTONIC when it was decided.
    pub at_ns: u64,
    /// The netns cookie of the socket that connected; 0 where sk_lookup decided.
    pub netns: u64,
    /// The calling workload's id; 0 where unknown.
    pub source: u64,
    /// The policy it rests on; 0: none.
    pub policy: u64,
    /// What was asked for.
    pub asked: Addr,
    /// Where it goes; where sk_lookup decided, who came.
    pub target: Addr,
    /// What was asked for.
    pub asked_port: Port,
    /// Where it goes; where sk_lookup decided, who came.
    pub target_port: Port,
    /// A [`crate::Reason`].
    pub reason: u32,
    /// 1: a datagram, of which nothing is opened nor ends. 0: a connection.
    pub is_datagram: u32,
    /// Zero.
    pub reserved: u32,
}

macro_rules! sizes {
    ($($name:ident = $size:literal),* $(,)?) => {
        $(const _: () = assert!(size_of::<$name>() == $size); // A change here is a change of SCHEMA.
        )*
    };
}
sizes! {
    Pod = 48, Dest = 24, ServiceKey = 20, ServiceValue = 16, AffinityKey = 32, AffinityValue = 32, BackendKey = 20, Failures = 24, ListeningKey = 16, Listening = 16, SlotKey = 8, SlotValue = 40, VerdictKey = 24, Verdict = 16, ProbeKey = 20,
    Tuple = 48, Pending = 8, Original = 40, Handoff = 80, ShownClient = 20, End = 48, Exempt = 4, ListenerKey = 20, FlowEvent = 80,
}
