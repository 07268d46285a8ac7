//! Hands over what the connecting end knows: written before the SYN, taken by the accepted socket.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE,
        BPF_TCP_LISTEN, BPF_TCP_SYN_SENT, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockOpsContext,
};
use core::ptr::addr_of;
use millrace_abi::{
    Handoff, HandoffKind, Original, OriginalMode, PodKind, ProbeKey, Reason, ShownClient, Side, Tuple, decide, forge,
};

use crate::{
    account::{self, Way},
    connect,
    endpoint::{self, AF_INET6, Endpoint},
    flow::{self, Flow},
    forged, listening,
    maps::{CLIENT, DESTS, ENDS, HANDOFFS, ORIGINAL, PODS, PROBES},
    outcome, pending,
    storage::Socket,
    tuning::{self, Moment},
};

/// What sock_ops programs return where nothing is asked of them.
const DONE: u32 = 1;

/// A record before anything is known of it.
const NOTHING: Handoff = Handoff {
    socket: 0,
    source: 0,
    target: 0,
    netns: 0,
    original: Original {
        addr: [0; 16],
        backend: [0; 16],
        port: [0; 2],
        backend_port: [0; 2],
        mode: 0,
        binds: 0,
        reserved: [0; 2],
    },
    kind: 0,
    sequence: 0,
};

/// The moments of a connection that matter here.
#[inline(always)]
pub fn sockops(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            tune(ops, Moment::Connecting);
            connecting(ops);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => {
            tune(ops, Moment::Connected);
            established(ops);
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            tune(ops, Moment::Accepted);
            accepted(ops);
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening::begun(ops),
        BPF_SOCK_OPS_STATE_CB if state(ops) == BPF_TCP_CLOSE && state_before(ops) == BPF_TCP_LISTEN => {
            listening::ended(ops);
        }
        BPF_SOCK_OPS_STATE_CB if state(ops) == BPF_TCP_CLOSE => closed(ops),
        _ => {}
    }
    DONE
}

/// Who is asked about costs more than to see that nobody is.
#[inline(always)]
fn tune(ops: *mut bpf_sock_ops, moment: Moment) {
    if tuning::is_on() {
        tuning::tune(ops, socket(ops), netns(ops), moment);
    }
}

/// Before the SYN: the source port is known, the connection is not yet seen by anybody.
#[inline(never)] // As its like below: each has a frame of its own, and one at a time is on the stack of 512 bytes.
fn connecting(ops: *mut bpf_sock_ops) {
    let Some(socket) = socket(ops) else { return };
    let netns = netns(ops);
    let key = Tuple::of(netns, local(ops).parts(), remote(ops).parts());
    let (mut record, mut way) = (NOTHING, Way::UNKNOWN);
    let hands_over = fill(&mut record, &mut way, socket, netns, &key) && {
        record.socket = cookie(ops);
        record.sequence = forged::next_sequence(socket);
        is_written(&key, &record)
    };
    let is_attested = hands_over && record.kind == HandoffKind::Attested as u32;
    let is_told = account::note(socket, &way, Side::Client, is_attested);
    // The record goes with the socket, should the other end never take it.
    if hands_over || is_told || outcome::is_watched(socket) {
        hear_of_its_end(ops);
    }
}

/// Writes the record; false where there is no room for it.
#[inline(always)]
fn is_written(key: &Tuple, record: &Handoff) -> bool {
    match pending::write(key, record) {
        Ok(()) => true,
        Err(reason) => {
            flow::count(reason);
            false
        }
    }
}

/// Has the kernel tell when this socket's state changes.
#[inline(always)]
pub fn hear_of_its_end(ops: *mut bpf_sock_ops) {
    let ctx = SockOpsContext::new(ops);
    // The one failure is an unknown flag.
    let _: Result<(), i32> = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// Has it tell no more: what is accepted inherits that from a listener whose end is heard of, and of most of it nothing is to be heard.
#[inline(always)]
fn hear_no_more(ops: *mut bpf_sock_ops) {
    let ctx = SockOpsContext::new(ops);
    let flags = ctx.cb_flags();
    if flags & BPF_SOCK_OPS_STATE_CB_FLAG != 0 {
        let _: Result<(), i32> = ctx.set_cb_flags((flags & !BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
    }
}

/// Says in the record what this socket has to hand over, and which way its connection goes; false where it hands over nothing.
#[inline(always)]
fn fill(record: &mut Handoff, way: &mut Way, socket: Socket, netns: u64, key: &Tuple) -> bool {
    let original = socket.get(&ORIGINAL);
    if let Some(original) = original
        && original.mode == OriginalMode::Proxied as u8
    {
        record.kind = HandoffKind::Outbound as u32;
        record.original = *original;
        record.netns = netns;
        // SAFETY: read at once.
        record.source = unsafe { PODS.get(netns) }.map_or(0, |pod| pod.id);
        if account::is_kept() {
            // SAFETY: read at once.
            let dest = unsafe { DESTS.get(original.backend) };
            let verdict = dest.and_then(|dest| connect::verdict(record.source, dest, original.backend_port));
            *way = Way::to(record.source, dest, verdict, Some(Reason::Proxied));
        }
        return true;
    }
    if socket.is_exempt() {
        let Some(client) = socket.get(&CLIENT) else { return false };
        record.kind = HandoffKind::ProxyDial as u32;
        record.original.addr = client.addr;
        record.original.port = client.port;
        return true;
    }
    // SAFETY: each is read at once.
    let (Some(mut pod), dest) = (unsafe { (PODS.get(netns), DESTS.get(key.target)) }) else { return false };
    let mut counted = netns;
    if pod.kind == PodKind::Host as u32 {
        // Who calls is on its socket.
        let Some(end) = socket.get(&ENDS) else { return false };
        if end.kind != PodKind::Host as u8 {
            counted = end.key;
            // SAFETY: read at once.
            let Some(own) = (unsafe { PODS.get(end.key) }) else { return false };
            pod = own;
        }
    }
    let verdict = dest.and_then(|dest| connect::verdict(pod.id, dest, key.target_port));
    *way = Way::to(pod.id, dest, verdict, decide::told(pod, dest, &key.target, original.is_some()));
    let Some(dest) = dest else { return false };
    record.kind = HandoffKind::Attested as u32;
    record.source = pod.id;
    record.target = dest.id;
    record.original.addr = key.source;
    record.original.port = key.source_port;
    if pod.kind == PodKind::Host as u32 {
        let probe = ProbeKey { addr: key.target, port: key.target_port, reserved: [0; 2] };
        return decide::attests_host(pod, dest, key.target_port, PROBES.get_ptr(probe).is_some());
    }
    record.netns = counted;
    if counted != netns {
        let is_anothers = DESTS.get_ptr(key.source).is_some();
        return decide::attests_host_pod(pod, is_anothers, dest, key.target_port, verdict);
    }
    decide::attests(pod, &key.source, dest, key.target_port, verdict)
}

/// The connecting end is established.
#[inline(always)]
fn established(ops: *mut bpf_sock_ops) {
    outcome::made(&remote(ops));
    if let Some(socket) = socket(ops) {
        account::established(socket);
    }
}

/// The accepting end is established: it takes the record.
#[inline(never)]
fn accepted(ops: *mut bpf_sock_ops) {
    let (netns, own, peer) = (netns(ops), local(ops), remote(ops));
    let key = Tuple::of(netns, peer.parts(), own.parts());
    // SAFETY: read before it is removed.
    let Some(record) = (unsafe { HANDOFFS.get(key) }) else {
        hear_no_more(ops);
        return;
    };
    // SAFETY: the context is valid while the program runs.
    if !forge::continues(record.sequence, unsafe { (*ops).rcv_nxt }) {
        // The record stays for whom it is of.
        forged::hold(ops, cookie(ops));
        let flow = Flow { netns, source: 0, policy: 0, asked: &own, target: &peer };
        flow::record(Reason::InForged, &flow);
        return;
    }
    let mut is_told = false;
    let taken = match socket(ops) {
        None => false,
        Some(socket) if record.kind == HandoffKind::Outbound as u32 => {
            let mut original = Original { mode: OriginalMode::Accepted as u8, ..record.original };
            socket.set(&ORIGINAL, &mut original)
        }
        Some(socket) if record.kind == HandoffKind::ProxyDial as u32 => {
            let client = &record.original;
            let mut client = ShownClient { addr: client.addr, port: client.port, reserved: [0; 2] };
            // SAFETY: read at once.
            let own = unsafe { PODS.get(netns) }.map_or(0, |pod| pod.id);
            let path = if account::is_kept() { Some(Reason::InProxyDial) } else { None };
            is_told = account::note(socket, &Way { source: 0, target: own, policy: 0, path }, Side::Server, false);
            socket.set(&CLIENT, &mut client)
        }
        Some(socket) => {
            let tells = account::is_kept() && decide::told_by_callee(record.source);
            let path = if tells { Some(Reason::InAttested) } else { None };
            let way = Way { source: record.source, target: record.target, policy: 0, path };
            is_told = account::note(socket, &way, Side::Server, true);
            true
        }
    };
    if is_told {
        hear_of_its_end(ops);
    } else {
        hear_no_more(ops);
    }
    flow::count(if taken { Reason::HandoffTaken } else { Reason::HandoffLost });
    pending::remove(&key, record.netns);
}

/// An end closes: it is told, and a record that nobody took goes with it.
#[inline(never)]
fn closed(ops: *mut bpf_sock_ops) {
    let socket = socket(ops);
    // Of two ends in one node the accepting one has nothing to tell, and hears of this as its listener does.
    if socket.and_then(|socket| socket.get(&ENDS)).is_some_and(|end| end.is_caller == 0 && end.opened_ns == 0) {
        return;
    }
    let (netns, local, remote) = (netns(ops), local(ops), remote(ops));
    if let Some(socket) = socket {
        let state = state_before(ops);
        if state == BPF_TCP_SYN_SENT {
            outcome::failed(ops, socket, &remote);
        }
        if let Some(end) = socket.get(&ENDS) {
            account::closed(ops, socket, end, (&local, &remote), state);
            if end.is_caller == 0 {
                return;
            }
        }
    }
    let key = Tuple::of(netns, local.parts(), remote.parts());
    // SAFETY: read at once.
    let Some(record) = (unsafe { HANDOFFS.get(key) }) else { return };
    if record.socket == cookie(ops) {
        pending::remove(&key, record.netns);
    }
}

#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<Socket> {
    // SAFETY: the context is valid while the program runs.
    Socket::of_pointer(unsafe { (*ops).__bindgen_anon_2.sk }.cast())
}

#[inline(always)]
fn local(ops: *mut bpf_sock_ops) -> Endpoint {
    // SAFETY: the context is valid while the program runs. `local_port` is in host order.
    unsafe {
        let addr = match (*ops).family {
            AF_INET6 => endpoint::from_words(endpoint::words(addr_of!((*ops).local_ip6))),
            _ => endpoint::mapped((*ops).local_ip4),
        };
        Endpoint { addr, port: ((*ops).local_port as u16).to_be_bytes() }
    }
}

#[inline(always)]
fn remote(ops: *mut bpf_sock_ops) -> Endpoint {
    // SAFETY: as in `local`. `remote_port` is a big-endian word, the port its last two bytes.
    unsafe {
        let addr = match (*ops).family {
            AF_INET6 => endpoint::from_words(endpoint::words(addr_of!((*ops).remote_ip6))),
            _ => endpoint::mapped((*ops).remote_ip4),
        };
        let port = (*ops).remote_port.to_ne_bytes();
        Endpoint { addr, port: [port[2], port[3]] }
    }
}

#[inline(always)]
fn state(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: BPF_SOCK_OPS_STATE_CB says the new state in the second argument.
    unsafe { (*ops).__bindgen_anon_1.args[1] }
}

#[inline(always)]
fn state_before(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: as in `state`: the old one is the first argument.
    unsafe { (*ops).__bindgen_anon_1.args[0] }
}

#[inline(always)]
pub fn netns(ops: *mut bpf_sock_ops) -> u64 {
    // SAFETY: the helper takes this program's context.
    unsafe { bpf_get_netns_cookie(ops.cast()) }
}

#[inline(always)]
fn cookie(ops: *mut bpf_sock_ops) -> u64 {
    // SAFETY: the helper takes this program's context.
    unsafe { bpf_get_socket_cookie(ops.cast()) }
}
