//! Notes when a port of this node's pods has lost its last listener, so that services pass it over at once.
//!
//! An application that ends in order closes its listener long before anybody who watches pods can say that it goes; a connect
//! within the node that is drawn to it meanwhile would be refused. Listeners are counted by network namespace and port: an
//! application may have several at a port, a newer process of it opens its own before the older one closes, and many listen
//! before the agent has found whose namespace it is. That the last was closed is noted by workload, as who connects looks for it. One that
//! listened before the programs were there is not counted, and nothing is noted of it.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, bpf_sock_ops},
    helpers::generated::bpf_ktime_get_ns,
};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use millrace_abi::{DestKind, Listening, ListeningKey, Port, decide};

use crate::{
    endpoint::Endpoint,
    maps::{DESTS, LISTENING, PODS},
    sockops::{hear_of_its_end, netns},
};

/// A listener was opened.
#[inline(never)] // As `sockops::connecting`.
pub fn begun(ops: *mut bpf_sock_ops) {
    let Some((namespace, workload)) = keys(ops) else { return };
    if LISTENING.get_ptr(namespace).is_none() {
        // Another may have been quicker, which is as good.
        let _: Result<(), i32> = LISTENING.insert(namespace, Listening { n_open: 0, closed_ns: 0 }, BPF_NOEXIST.into());
    }
    let Some(entry) = LISTENING.get_ptr_mut(namespace) else { return };
    add(entry, 1);
    if let Some(workload) = workload
        && let Some(entry) = LISTENING.get_ptr_mut(workload)
    {
        // SAFETY: an entry of an LRU is memory of the map for ever; were it another port's by now, that one is not passed over.
        unsafe { (*entry).closed_ns = 0 };
    }
    hear_of_its_end(ops);
}

/// A listener is about to be closed: who arrives from now on may not find it.
#[inline(never)]
pub fn ended(ops: *mut bpf_sock_ops) {
    let Some((namespace, workload)) = keys(ops) else { return };
    let Some(entry) = LISTENING.get_ptr_mut(namespace) else { return };
    add(entry, -1);
    // Of two that close at once both may find none left, which is as good. SAFETY: as in `begun`.
    let n_open = unsafe { entry.cast::<i64>().read_volatile() };
    if n_open <= 0
        && let Some(workload) = workload
    {
        // SAFETY: reads a clock.
        let closed_ns = unsafe { bpf_ktime_get_ns() };
        // An LRU has room.
        let _: Result<(), i32> = LISTENING.insert(workload, Listening { n_open: 0, closed_ns }, BPF_ANY.into());
    }
}

/// True where this backend is on this node and lost its last listener a moment ago.
#[inline(always)]
pub fn is_closed(backend: &Endpoint) -> bool {
    // SAFETY: read at once.
    let Some(dest) = (unsafe { DESTS.get(backend.addr) }) else { return false };
    if dest.kind != DestKind::Local as u32 {
        return false;
    }
    let key = ListeningKey { of: dest.id, port: backend.port, is_namespace: 0, reserved: [0; 5] };
    // SAFETY: as in `begun`: at worst another backend is drawn.
    let Some(entry) = (unsafe { LISTENING.get(key) }) else { return false };
    // SAFETY: reads a clock.
    decide::is_closed(entry, unsafe { bpf_ktime_get_ns() })
}

/// The keys of the socket's port: its namespace's, and its workload's where it is known whose that is. None for what nobody is sent to.
#[inline(always)]
fn keys(ops: *mut bpf_sock_ops) -> Option<(ListeningKey, Option<ListeningKey>)> {
    let port = port(ops);
    if decide::is_mesh_port(port) {
        return None;
    }
    let netns = netns(ops);
    let namespace = ListeningKey { of: netns, port, is_namespace: 1, reserved: [0; 5] };
    // SAFETY: read at once.
    match unsafe { PODS.get(netns) } {
        None => Some((namespace, None)),
        // The node's own.
        Some(pod) if pod.id == 0 => None,
        Some(pod) => Some((namespace, Some(ListeningKey { of: pod.id, is_namespace: 0, ..namespace }))),
    }
}

#[inline(always)]
fn add(entry: *mut Listening, change: i64) {
    // As in `pending`. SAFETY: `n_open` is first, values of maps are aligned to 8, and live until the program is over.
    let _: i64 = unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(entry.cast::<i64>(), change) };
}

/// Of a context, the socket's own port.
#[inline(always)]
fn port(ops: *mut bpf_sock_ops) -> Port {
    // SAFETY: the context is valid while the program runs. `local_port` is in host order.
    unsafe { ((*ops).local_port as u16).to_be_bytes() }
}
