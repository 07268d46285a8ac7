//! Keeps an account of each connection of a mesh pod, and tells it in one record when the connection ends.
//!
//! The account is the note in ENDS: who is at its ends, which way it takes, when it began. All else is the kernel's own count,
//! read as the socket closes. One end tells: the caller's, or where no pod of this node calls, the one that accepts. What the
//! proxy opens and accepts for itself is told by nobody, nor is what stays on a pod's own loopback.

use aya_ebpf::{
    bindings::{BPF_TCP_CLOSE, bpf_sock_ops},
    helpers::generated::{bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
};
use core::{
    ffi::c_void,
    ptr::{self, addr_of},
};
use millrace_abi::{Dest, End, EndEvent, OriginalMode, Reason, Side, Verdict, config};

use crate::{
    endpoint::Endpoint,
    flow,
    maps::{CLIENT, ENDS, FLOWS, ORIGINAL},
    storage::{Make, Socket},
};

/// Where the running kernel has a field of its `struct tcp_sock`, in bytes; 0 where it is not known. Set as the object is loaded.
#[unsafe(no_mangle)]
static AT_BYTES_SENT: u32 = 0;
#[unsafe(no_mangle)]
static AT_BYTES_RETRANS: u32 = 0;
#[unsafe(no_mangle)]
static AT_SK_ERR: u32 = 0;
#[unsafe(no_mangle)]
static AT_SK_FLAGS: u32 = 0;

/// The bit of `sk_flags` that says that the other end has finished (include/net/sock.h, `SOCK_DONE`).
const SOCK_DONE: u64 = 1 << 1;

/// Between whom a connection is, and which way it goes.
pub struct Way {
    pub source: u64,
    pub target: u64,
    pub policy: u64,
    /// None: its end is not told here.
    pub path: Option<Reason>,
}

impl Way {
    /// Before anything is known.
    pub const UNKNOWN: Self = Self { source: 0, target: 0, policy: 0, path: None };

    /// A workload's connect to this destination, by this verdict.
    #[inline(always)]
    pub fn to(source: u64, dest: Option<&Dest>, verdict: Option<&Verdict>, path: Option<Reason>) -> Self {
        let path = if is_kept() { path } else { None };
        let (target, policy) = (dest.map_or(0, |dest| dest.id), verdict.map_or(0, |verdict| verdict.policy));
        Self { source, target, policy, path }
    }
}

/// True where accounts are kept.
#[inline(always)]
pub fn is_kept() -> bool {
    flow::is_on(config::FLOWS)
}

/// Notes on a socket between whom its connection is: to tell of it at its end, where its way says so, and to judge it by while
/// it lives, where it is attested. False where nothing is to be told.
#[inline(always)]
pub fn note(socket: Socket, way: &Way, side: Side, is_attested: bool) -> bool {
    if way.path.is_none() && !is_attested {
        return false;
    }
    // An attested connection that there is no memory for is judged by what it looks like.
    let Some(end) = socket.get_mut(&ENDS, Make::Zeroed) else {
        if way.path.is_some() {
            flow::count(Reason::FlowDropped);
        }
        return false;
    };
    end.source = way.source;
    end.target = way.target;
    end.policy = way.policy;
    end.opened_ns = if way.path.is_some() { now() } else { 0 };
    end.is_caller = (side as u8 == Side::Client as u8).into();
    end.path = way.path.map_or(0, |path| path as u8);
    end.is_attested = is_attested.into();
    way.path.is_some()
}

/// The connecting end is established.
#[inline(always)]
pub fn established(socket: Socket) {
    if let Some(end) = socket.get_mut(&ENDS, Make::Never)
        && end.opened_ns != 0
    {
        end.connect_us = micros(now() - end.opened_ns);
    }
}

/// Tells a connection that has ended: this end of it, from the state that it was in.
#[inline(always)]
pub fn closed(ops: *mut bpf_sock_ops, socket: Socket, end: &End, (local, remote): (&Endpoint, &Endpoint), state: u32) {
    if end.opened_ns == 0 || state == BPF_TCP_CLOSE {
        return; // Not to be told, or told before.
    }
    let Some(mut entry) = FLOWS.reserve::<EndEvent>(0) else {
        flow::count(Reason::FlowDropped);
        return;
    };
    let counted = Counted::of(ops, socket);
    let at_ns = now();
    let event = entry.as_mut_ptr();
    // Field by field, where it lies: the stack has 512 bytes, and this record is a quarter of that.
    // SAFETY: the ring's memory has room for an event, and nobody else sees it before it is submitted. Every field is written.
    unsafe {
        (*event).at_ns = at_ns;
        (*event).source = end.source;
        (*event).target = end.target;
        (*event).policy = end.policy;
        (*event).sent = counted.sent;
        (*event).received = counted.received;
        (*event).duration_ns = at_ns - end.opened_ns;
        (*event).connect_us = end.connect_us;
        (*event).srtt_us = counted.srtt_us;
        (*event).retransmits = counted.retransmits;
        (*event).errno = counted.errno;
        (*event).side = if end.is_caller == 1 { Side::Client as u8 } else { Side::Server as u8 };
        (*event).state = state as u8;
        (*event).path = end.path;
        (*event).is_attested = end.is_attested;
        write_ends(&mut *event, socket, local, remote);
    }
    entry.submit(flow::wakes());
}

/// From where, what was asked for, and to where, as the applications mean them.
#[inline(always)]
fn write_ends(event: &mut EndEvent, socket: Socket, local: &Endpoint, remote: &Endpoint) {
    if event.side == Side::Server as u8 {
        (event.from, event.from_port) = match socket.get(&CLIENT) {
            Some(client) => (client.addr, client.port),
            None => remote.parts(),
        };
        (event.asked, event.asked_port) = local.parts();
        (event.to, event.to_port) = local.parts();
        return;
    }
    (event.from, event.from_port) = local.parts();
    (event.asked, event.asked_port) = remote.parts();
    (event.to, event.to_port) = remote.parts();
    if let Some(original) = socket.get(&ORIGINAL) {
        (event.asked, event.asked_port) = (original.addr, original.port);
        if original.mode == OriginalMode::Proxied as u8 {
            (event.to, event.to_port) = (original.backend, original.backend_port);
        }
    }
}

/// What the kernel counted.
struct Counted {
    sent: u64,
    received: u64,
    srtt_us: u32,
    retransmits: u32,
    errno: u16,
}

impl Counted {
    #[inline(always)]
    fn of(ops: *mut bpf_sock_ops, socket: Socket) -> Self {
        // One by one: the verifier takes no merged load of a context. The smoothed time is kept in eighths.
        // SAFETY: the context is valid while the program runs.
        let (acked, received, srtt_us, retransmits) = unsafe {
            (
                addr_of!((*ops).bytes_acked).read_volatile(),
                addr_of!((*ops).bytes_received).read_volatile(),
                addr_of!((*ops).srtt_us).read_volatile() >> 3,
                addr_of!((*ops).total_retrans).read_volatile(),
            )
        };
        let mut counted = Self { sent: acked, received, srtt_us, retransmits, errno: 0 };
        // SAFETY: the helper takes a socket, and gives null for one that is not TCP's.
        let tcp = unsafe { bpf_skc_to_tcp_sock(socket.as_ptr()) }.cast::<c_void>();
        if tcp.is_null() {
            return counted;
        }
        // SAFETY: statics of this object, which nobody writes while programs run.
        let [sent, again, errno, flags] = unsafe {
            [&raw const AT_BYTES_SENT, &raw const AT_BYTES_RETRANS, &raw const AT_SK_ERR, &raw const AT_SK_FLAGS]
                .map(|at| ptr::read_volatile(at))
        };
        if sent != 0 && again != 0 {
            counted.sent = field::<u64>(tcp, sent).wrapping_sub(field::<u64>(tcp, again));
        }
        if errno != 0 {
            counted.errno = field::<u32>(tcp, errno) as u16;
        }
        // The end of the peer's stream takes a number of the sequence, and is counted as a byte.
        if flags != 0 && field::<u64>(tcp, flags) & SOCK_DONE != 0 {
            counted.received = received.saturating_sub(1);
        }
        counted
    }
}

/// Reads a field of a kernel's structure. The verifier knows the offset, a constant by then, and that a field of this size is there.
#[inline(always)]
fn field<T>(base: *const c_void, at: u32) -> T {
    // SAFETY: the kernel's type information says that the field is there, and the verifier checks it.
    unsafe { base.byte_add(at as usize).cast::<T>().read_volatile() }
}

/// At most an hour and some: longer than any connect is tried.
#[inline(always)]
fn micros(ns: u64) -> u32 {
    let micros = ns / 1000;
    if micros > u32::MAX as u64 { u32::MAX } else { micros as u32 }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
