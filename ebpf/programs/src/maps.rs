//! Declares every map. User space pins them under the same names; keys and values are `millrace_abi::layout`'s.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use millrace_abi::{
    Addr, AffinityKey, AffinityValue, BackendKey, Dest, End, Exempt, Failures, Guard, Handoff, ListenerKey, Listening,
    ListeningKey, N_REASONS, Original, Pending, Pod, ProbeKey, ServiceKey, ServiceValue, ShownClient, SlotKey,
    SlotValue, Tuning, Tuple, Verdict, VerdictKey, capacity,
    udp::{Ask, AskKey, Pace, Peers, Stranger, ToldKey},
};

/// Capacities are for the largest node; memory is taken as entries come.
const AS_NEEDED: u32 = BPF_F_NO_PREALLOC;

#[map]
pub static CONFIG: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub static PODS: HashMap<u64, Pod> = HashMap::with_max_entries(capacity::PODS, AS_NEEDED);
#[map]
pub static DESTS: HashMap<Addr, Dest> = HashMap::with_max_entries(capacity::DESTS, AS_NEEDED);
#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceValue> = HashMap::with_max_entries(capacity::SERVICES, AS_NEEDED);
#[map]
pub static SLOTS: HashMap<SlotKey, SlotValue> = HashMap::with_max_entries(capacity::SLOTS, AS_NEEDED);
/// The kernel makes the entries of an LRU beforehand: 8 MiB.
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(capacity::AFFINITIES, 0);
#[map]
pub static FAILURES: LruHashMap<BackendKey, Failures> = LruHashMap::with_max_entries(capacity::FAILURES, 0);
#[map]
pub static LISTENING: LruHashMap<ListeningKey, Listening> = LruHashMap::with_max_entries(capacity::LISTENING, 0);
#[map]
pub static VERDICTS: HashMap<VerdictKey, Verdict> = HashMap::with_max_entries(capacity::VERDICTS, AS_NEEDED);
#[map]
pub static PROBES: HashMap<ProbeKey, u32> = HashMap::with_max_entries(capacity::PROBES, AS_NEEDED);
/// Not an LRU: a record that vanished would turn an allowed connection into a plain-text one without a word.
#[map]
pub static HANDOFFS: HashMap<Tuple, Handoff> = HashMap::with_max_entries(capacity::HANDOFFS, AS_NEEDED);
#[map]
pub static PENDING: HashMap<u64, Pending> = HashMap::with_max_entries(capacity::PODS, AS_NEEDED);
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(capacity::LISTENERS, 0);
#[map]
pub static GUARDS: HashMap<u32, Guard> = HashMap::with_max_entries(capacity::GUARDS, AS_NEEDED);
#[map]
pub static FORGED: SockHash<u64> = SockHash::with_max_entries(capacity::FORGED, 0);
#[map]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(N_REASONS, 0);
#[map]
pub static FLOWS: RingBuf = RingBuf::with_byte_size(capacity::FLOW_BYTES, 0);
#[map]
pub static TUNING: Array<Tuning> = Array::with_max_entries(1, 0);
#[btf_map]
pub static ORIGINAL: SkStorage<Original> = SkStorage::new();
#[btf_map]
pub static CLIENT: SkStorage<ShownClient> = SkStorage::new();
#[btf_map]
pub static ENDS: SkStorage<End> = SkStorage::new();
#[btf_map]
pub static EXEMPT: SkStorage<Exempt> = SkStorage::new();
#[map]
pub static STRANGERS: LpmTrie<Stranger, Verdict> = LpmTrie::with_max_entries(capacity::STRANGERS, 0);
#[map]
pub static ASKS: LruHashMap<AskKey, Ask> = LruHashMap::with_max_entries(capacity::ASKS, 0);
#[map]
pub static TOLD: LruHashMap<ToldKey, u64> = LruHashMap::with_max_entries(capacity::TOLD, 0);
#[map]
pub static PACE: LruHashMap<u64, Pace> = LruHashMap::with_max_entries(capacity::PACE, 0);
#[btf_map]
pub static PEERS: SkStorage<Peers> = SkStorage::new();
