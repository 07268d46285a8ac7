//! Picks a service's backend: any of its table, or the one that the client was given before.
//!
//! For every protocol: who asks says it in the key. A client is a network namespace, for no address is trusted. What it was given
//! stands in AFFINITY, an LRU: its memory is bounded, and a client that is evicted is merely drawn for anew. The kernel may
//! give an evicted entry to another key while it is read here, so nothing that is read of it counts before the service's own
//! table was seen to hold that backend.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns},
};
use millrace_abi::{AffinityKey, AffinityValue, Pod, Reason, ServiceKey, ServiceValue, SlotKey, SlotValue, decide};

use crate::{
    endpoint::Endpoint,
    listening,
    maps::{AFFINITY, SERVICES, SLOTS},
};

/// How often a service's table is read before it counts as torn. A table is swept only after its service was flipped,
/// so a slot that is missing means another table by now; one more try would do unless this program was preempted twice.
/// Two connects of one client that are its first at once take one of them too.
const TRIES: u32 = 3;

/// Halvings that find one slot of 2^20, twice as many as there can be.
const HALVINGS: u32 = 20;

/// Places of a table that are looked at after one of a backend that had just closed its listener. They are as far from one another as
/// can be, so that of a table with no more slots than this every one is looked at.
const FURTHER: u32 = 16;

/// From one such place to the next, as a draw.
const STRIDE: u32 = u32::MAX / FURTHER + 1;

/// What a service's table says of a destination.
pub enum Pick {
    NoService,
    Backend(Picked),
    Refused(Reason),
}

/// A backend, and whether it was given to this client for longer than one connection.
#[derive(Clone, Copy)]
pub struct Picked {
    pub backend: Endpoint,
    pub binds: bool,
}

/// The backend for a client in this namespace: one that has not just closed its listener, where there is one. Of TCP services.
#[inline(always)]
pub fn pick_open(netns: u64, key: &ServiceKey) -> Pick {
    match pick(netns, key) {
        Pick::Backend(picked) if listening::is_closed(&picked.backend) => {
            let backend = further(netns, key, picked.binds).unwrap_or(picked.backend);
            Pick::Backend(Picked { backend, ..picked })
        }
        picked => picked,
    }
}

/// A backend that has not just closed its listener. None where all that are looked at have: to refuse is then for the first that was
/// picked. The places are computed from a draw and not walked to: from one that is known the verifier would walk every way there is.
#[inline(always)]
fn further(netns: u64, key: &ServiceKey, binds: bool) -> Option<Endpoint> {
    let service = service(key)?;
    let first = draw();
    let mut looked = 0;
    while looked < FURTHER {
        let number = decide::slot(first.wrapping_add(looked * STRIDE), service.n_slots);
        let slot = slot(service.table, number)?;
        let backend = Endpoint { addr: slot.addr, port: slot.port };
        if !listening::is_closed(&backend) {
            if binds {
                give(netns, key, &backend, number);
            }
            return Some(backend);
        }
        looked += 1;
    }
    None
}

/// The backend for a client in this namespace, whether it listens or not.
#[inline(always)]
pub fn pick(netns: u64, key: &ServiceKey) -> Pick {
    let mut tries = 0;
    while tries < TRIES {
        let Some(service) = service(key) else { return Pick::NoService };
        if let Some(reason) = decide::without_slots(&service) {
            return Pick::Refused(reason);
        }
        let found = if service.affinity_s == 0 {
            drawn(&service).map(|(backend, _)| Picked { backend, binds: false })
        } else {
            given(netns, key, &service).map(|backend| Picked { backend, binds: true })
        };
        if let Some(picked) = found {
            return Pick::Backend(picked);
        }
        tries += 1;
    }
    Pick::Refused(Reason::TornTable)
}

/// True where this is a service's address and port.
#[inline(always)]
pub fn is_service(key: &ServiceKey) -> bool {
    SERVICES.get_ptr(key).is_some()
}

/// True where this pod's connections to it are the proxy's to route.
#[inline(always)]
pub fn is_routed(pod: &Pod, key: &ServiceKey) -> bool {
    service(key).is_some_and(|service| decide::is_routed(pod, &service))
}

#[inline(always)]
pub fn service(key: &ServiceKey) -> Option<ServiceValue> {
    let found = SERVICES.get_ptr(key)?.cast::<u64>();
    // Two loads: table and its size are one, and the rest means no other table. SAFETY: values of hash maps are aligned to
    // 8, and this one has 16 bytes.
    let halves = unsafe { [found.read_volatile(), found.add(1).read_volatile()] };
    // SAFETY: both are 16 bytes and take any value.
    Some(unsafe { core::mem::transmute::<[u64; 2], ServiceValue>(halves) })
}

/// Any backend, as weights say, and a slot that names it.
#[inline(always)]
fn drawn(service: &ServiceValue) -> Option<(Endpoint, u32)> {
    let number = decide::slot(draw(), service.n_slots);
    let slot = slot(service.table, number)?;
    let (addr, port) = decide::backend(slot, draw());
    Some((Endpoint { addr, port }, number))
}

/// What the client was given, or is given now. None where a table was swept meanwhile, or another connect gave it something.
#[inline(always)]
fn given(netns: u64, service_key: &ServiceKey, service: &ServiceValue) -> Option<Endpoint> {
    let key = AffinityKey { netns, service: *service_key, reserved: 0 };
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let flags = match AFFINITY.get_ptr_mut(key) {
        None => BPF_NOEXIST,
        Some(entry) => {
            // SAFETY: an entry of an LRU is memory of the map for ever; what it says is judged below.
            let before = unsafe { &mut *entry };
            let backend = Endpoint { addr: before.addr, port: before.port };
            if decide::affinity_holds(before, now_ns, service.affinity_s)
                && let Some(slot) = holding(service, before.slot, &backend)
            {
                before.at_ns = now_ns;
                before.slot = slot;
                return Some(backend);
            }
            BPF_ANY
        }
    };
    let (backend, slot) = drawn(service)?;
    let value = AffinityValue { at_ns: now_ns, addr: backend.addr, port: backend.port, reserved: [0; 2], slot };
    AFFINITY.insert(key, value, flags.into()).ok().map(|()| backend)
}

/// Gives a client another backend than it had.
#[inline(always)]
fn give(netns: u64, service_key: &ServiceKey, backend: &Endpoint, slot: u32) {
    let key = AffinityKey { netns, service: *service_key, reserved: 0 };
    // SAFETY: reads a clock.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let value = AffinityValue { at_ns, addr: backend.addr, port: backend.port, reserved: [0; 2], slot };
    // Where there is no room for it, it is found closed once more the next time.
    let _: Result<(), i32> = AFFINITY.insert(key, value, BPF_ANY.into());
}

/// A slot of the service's table that names this backend: the one it was found in before, or by halving, since each backend
/// has a slot of its own and they stand in the order of their addresses.
#[inline(always)]
pub fn holding(service: &ServiceValue, before: u32, backend: &Endpoint) -> Option<u32> {
    if before < service.n_slots && decide::names(slot(service.table, before)?, &backend.addr, backend.port) {
        return Some(before);
    }
    let (mut low, mut high) = (0, service.n_slots);
    let mut halvings = 0;
    while halvings < HALVINGS && low < high {
        let middle = low + (high - low) / 2;
        let slot = slot(service.table, middle)?;
        let (here, wanted) = ((&slot.addr, slot.port), (&backend.addr, backend.port));
        if decide::is_before(here, wanted) {
            low = middle + 1;
        } else if decide::is_before(wanted, here) {
            high = middle;
        } else {
            return Some(middle);
        }
        halvings += 1;
    }
    None
}

#[inline(always)]
fn slot(table: u32, slot: u32) -> Option<&'static SlotValue> {
    // SAFETY: read before the program is over; user space replaces entries whole.
    unsafe { SLOTS.get(SlotKey { table, slot }) }
}

#[inline(always)]
pub fn draw() -> u32 {
    // SAFETY: takes nothing, touches nothing.
    unsafe { bpf_get_prandom_u32() }
}
