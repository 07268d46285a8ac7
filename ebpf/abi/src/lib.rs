//! Says what the kernel programs and user space agree on: map keys and values, reasons, limits.
//!
//! Addresses and ports are arrays of network-order bytes; an IPv4 address is its v4-mapped IPv6 one, so
//! that both families take one code path. No padding is left unnamed: the kernel compares keys by bytes.
#![no_std]

pub mod account;
pub mod decide;
pub mod forge;
pub mod layout;
pub mod reason;
pub mod spread;
pub mod tuning;
pub mod udp;

pub use account::{EndEvent, Side};
pub use forge::{Guard, GuardKind};
pub use layout::{
    AffinityKey, AffinityValue, BackendKey, Dest, DestKind, End, Exempt, Failures, FlowEvent, Handoff, HandoffKind,
    ListenerKey, ListenerKind, Listening, ListeningKey, Original, OriginalMode, Pending, Pod, PodKind, ProbeKey,
    ServiceKey, ServiceValue, ShownClient, SlotKey, SlotValue, Tuple, Verdict, VerdictKey, cgroup_key, service_flag,
};
pub use reason::{Action, N_REASONS, Reason, action};
pub use tuning::Tuning;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, in network order.
pub type Addr = [u8; 16];
/// A port in network order.
pub type Port = [u8; 2];

/// Grows with every change of a layout or of a map's meaning; the directory of pins carries it.
pub const SCHEMA: u32 = 4;

/// HBONE's port, in network order.
pub const TUNNEL_PORT: Port = 15008u16.to_be_bytes();
/// The in-pod outbound listener's port, in network order.
pub const OUTBOUND_PORT: Port = 15801u16.to_be_bytes();
/// The in-pod plaintext listener's port, in network order.
pub const PLAINTEXT_PORT: Port = 15806u16.to_be_bytes();

/// 127.0.0.1 as v4-mapped.
pub const LOOPBACK_V4: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
/// ::1: where a captured IPv6 connection is sent.
pub const LOOPBACK_V6: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Map capacities. Each is refused loudly when reached, never silently.
pub mod capacity {
    /// Network namespaces known to one node: 250 pods is the most a kubelet runs by default's double, and hosts.
    pub const PODS: u32 = 1024;
    /// Workload addresses in the whole mesh, two for a dual-stack pod.
    pub const DESTS: u32 = 131_072;
    /// Virtual addresses times ports.
    pub const SERVICES: u32 = 65_536;
    /// Backend slots over all tables, of which a flip holds two copies for a moment.
    pub const SLOTS: u32 = 524_288;
    /// Clients that stay with a backend: 250 pods with 250 such services each. Past it the one unused longest is drawn for anew.
    pub const AFFINITIES: u32 = 65_536;
    /// Backends that connections failed to, and were not made to since. Past it the one unused longest counts from nothing.
    pub const FAILURES: u32 = 16_384;
    /// Ports that this node's pods listen on. Past it the one unused longest is forgotten, and its close goes unnoticed.
    pub const LISTENING: u32 = 16_384;
    /// Verdicts: sources on this node times policy groups times ports named.
    pub const VERDICTS: u32 = 262_144;
    /// Ports that probes name, by address: three probes a container, four containers, both families, of 250 pods, and room.
    pub const PROBES: u32 = 16_384;
    /// Connections between their SYN and their establishment, over the whole node.
    pub const HANDOFFS: u32 = 262_144;
    /// As many of them as one pod may have: 250 pods, the most that a node commonly runs, can flood at once and leave room. A
    /// pod has more only where those it calls take no connection, for the rest live a fraction of a millisecond.
    pub const PENDING_PER_POD: u32 = 1024;
    /// What callers without identity get: policy groups times ports named times blocks of addresses named.
    pub const STRANGERS: u32 = 65_536;
    /// Conversations by UDP that policies bind one end of. The one seen longest ago makes room: what is forgotten is judged
    /// as an ask, never let through for it.
    pub const ASKS: u32 = 131_072;
    /// Decisions on datagrams that were told lately; the one told longest ago makes room, and is then told once more.
    pub const TOLD: u32 = 8192;
    /// Pods whose flow records of datagrams are counted: those of a node, as callers and callees, twice over.
    pub const PACE: u32 = 4096;
    /// Listening sockets: six a pod.
    pub const LISTENERS: u32 = 8192;
    /// Ends of pods' interfaces in the node's namespace: one for each pod, and room for pods that are in several networks.
    pub const GUARDS: u32 = 2048;
    /// Connections that are held because somebody else began them, until they are given up seconds later.
    pub const FORGED: u32 = 8192;
    /// Bytes of flow records that wait for the agent: 5,900 of them, what comes between two of its looks (75 ms) at 78,000
    /// connects a second. Each byte is resident twice in the agent, which has the ring mapped behind itself.
    pub const FLOW_BYTES: u32 = 1 << 19;
}

/// Bits of CONFIG[0].
pub mod config {
    /// Write a flow record for each connect of the mesh that is decided, for each arrival that is dropped, and for each connection
    /// of a mesh pod that ends.
    pub const FLOWS: u32 = 1;
    /// Log each decision through aya-log: for debugging; off by default.
    pub const DEBUG: u32 = 2;
}

/// The names of maps, as pinned.
pub mod map {
    /// `Array<u32>`, one entry: bits of [`crate::config`].
    pub const CONFIG: &str = "CONFIG";
    /// `HashMap<u64 netns cookie or key of a cgroup, Pod>`.
    pub const PODS: &str = "PODS";
    /// `HashMap<Addr, Dest>`.
    pub const DESTS: &str = "DESTS";
    /// `HashMap<ServiceKey, ServiceValue>`.
    pub const SERVICES: &str = "SERVICES";
    /// `HashMap<SlotKey, SlotValue>`.
    pub const SLOTS: &str = "SLOTS";
    /// `LruHashMap<AffinityKey, AffinityValue>`: written by programs alone.
    pub const AFFINITY: &str = "AFFINITY";
    /// `LruHashMap<BackendKey, Failures>`: made and counted by programs, removed by the agent.
    pub const FAILURES: &str = "FAILURES";
    /// `LruHashMap<ListeningKey, Listening>`: written by programs alone.
    pub const LISTENING: &str = "LISTENING";
    /// `HashMap<VerdictKey, Verdict>`.
    pub const VERDICTS: &str = "VERDICTS";
    /// `HashMap<ProbeKey, u32>`: the value says nothing.
    pub const PROBES: &str = "PROBES";
    /// `HashMap<Tuple, Handoff>`.
    pub const HANDOFFS: &str = "HANDOFFS";
    /// `HashMap<u64 netns cookie, Pending>`: made by programs, removed by the agent with the pod.
    pub const PENDING: &str = "PENDING";
    /// `LpmTrie<StrangerKey, Verdict>`: what callers without identity get.
    pub const STRANGERS: &str = "STRANGERS";
    /// `LruHashMap<AskKey, Ask>`: programs' own.
    pub const ASKS: &str = "ASKS";
    /// `SkStorage<Peers>`: programs' own.
    pub const PEERS: &str = "PEERS";
    /// `LruHashMap<ToldKey, u64>`: programs' own.
    pub const TOLD: &str = "TOLD";
    /// `LruHashMap<u64 workload id, Pace>`: programs' own.
    pub const PACE: &str = "PACE";
    /// `SockHash<ListenerKey>`.
    pub const LISTENERS: &str = "LISTENERS";
    /// `HashMap<u32 interface index, Guard>`.
    pub const GUARDS: &str = "GUARDS";
    /// `SockHash<u64 socket cookie>`, whose programs drop everything: written by programs alone.
    pub const FORGED: &str = "FORGED";
    /// `SkStorage<Original>`: written by programs alone (frozen for user space), read by the proxy.
    pub const ORIGINAL: &str = "ORIGINAL";
    /// `SkStorage<ShownClient>`: written by the proxy on its dials, and by sockops on what accepts them.
    pub const CLIENT: &str = "CLIENT";
    /// `SkStorage<End>`: written by programs alone, read by the agent as it lists sockets.
    pub const ENDS: &str = "ENDS";
    /// `SkStorage<Exempt>`: written by the agent alone.
    pub const EXEMPT: &str = "EXEMPT";
    /// `PerCpuArray<u64>` by [`crate::Reason`]: how often each was decided.
    pub const REASONS: &str = "REASONS";
    /// `RingBuf` of [`crate::FlowEvent`] and [`crate::EndEvent`].
    pub const FLOWS: &str = "FLOWS";
    /// `Array<Tuning>`, one entry: how connections are tuned.
    pub const TUNING: &str = "TUNING";
    /// Every map that is pinned.
    pub const ALL: [&str; 27] = [
        CONFIG, PODS, DESTS, SERVICES, SLOTS, AFFINITY, FAILURES, LISTENING, VERDICTS, PROBES, HANDOFFS, PENDING,
        LISTENERS, GUARDS, FORGED, ORIGINAL, CLIENT, ENDS, EXEMPT, REASONS, FLOWS, TUNING, STRANGERS, ASKS, PEERS,
        TOLD, PACE,
    ];
}
