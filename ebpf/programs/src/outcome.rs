//! Counts how connections to services' backends end before they are made, by backend.
//!
//! Only of those that a service led straight to its backend: what the proxy carries, the proxy counts. An entry is made by the
//! first failure and reset by a success, so that a backend that never failed costs its callers one look-up that finds nothing.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_sock_ops},
    helpers::generated::bpf_ktime_get_ns,
};
use core::ptr::addr_of;
use millrace_abi::{BackendKey, Failures, OriginalMode, Reason, decide};

use crate::{
    endpoint::Endpoint,
    flow,
    maps::{FAILURES, ORIGINAL},
    storage::Socket,
};

/// True for a socket that a service led straight to a backend: its end is worth hearing of.
#[inline(always)]
pub fn is_watched(socket: Socket) -> bool {
    socket.get(&ORIGINAL).is_some_and(|original| original.mode == OriginalMode::Direct as u8)
}

/// The connection is made.
#[inline(always)]
pub fn made(remote: &Endpoint) {
    let Some(entry) = FAILURES.get_ptr_mut(key(remote)) else { return };
    // SAFETY: an entry of an LRU is memory of the map for ever; were it another backend's by now, that one's count begins anew.
    unsafe { (*entry).run = 0 };
}

/// The connection ended in SYN_SENT.
#[inline(always)]
pub fn failed(ops: *mut bpf_sock_ops, socket: Socket, remote: &Endpoint) {
    if !is_watched(socket) {
        return;
    }
    // One by one: the verifier takes no merged load of a context. SAFETY: it is valid while the program runs.
    let (segments, retransmits) =
        unsafe { (addr_of!((*ops).segs_in).read_volatile(), addr_of!((*ops).total_retrans).read_volatile()) };
    let Some(reason) = decide::failure(segments, retransmits) else { return };
    flow::count(reason);
    let key = key(remote);
    if FAILURES.get_ptr(key).is_none() {
        let none = Failures { at_ns: 0, failed: 0, run: 0, cause: 0 };
        // Another may have been quicker, which is as good.
        let _: Result<(), i32> = FAILURES.insert(key, none, BPF_NOEXIST.into());
    }
    let Some(entry) = FAILURES.get_ptr_mut(key) else { return };
    // SAFETY: as in `made`. Two failures at one moment may count as one: they are counted to be compared with a handful.
    let entry = unsafe { &mut *entry };
    // SAFETY: reads a clock.
    entry.at_ns = unsafe { bpf_ktime_get_ns() };
    entry.failed += 1;
    entry.run += 1;
    entry.cause = reason as u32;
}

#[inline(always)]
fn key(backend: &Endpoint) -> BackendKey {
    BackendKey { addr: backend.addr, port: backend.port, reserved: [0; 2] }
}
