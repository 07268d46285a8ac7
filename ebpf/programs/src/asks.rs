//! Judges who may send datagrams to whom, and remembers who asked, so that answers are told from asks.
//!
//! Both ends of a conversation come here: `udp` as a datagram is sent, `arrival` as it comes in. An ask is written by the
//! first that lets it through: by the asker's own kernel where its port is known as it sends, else by the callee's as it
//! arrives. An answer is spared a refusal only while its ask would still be let through: no policy is outlived by what was
//! remembered under another.

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_ns};
use millrace_abi::{
    Action, Addr, Dest, Port, Reason, Verdict, action,
    udp::{self, Age, Ask, AskKey, STRANGER_WHOLE_BITS, Stranger},
};

use aya_ebpf::maps::lpm_trie::Key;

use crate::{
    connect,
    endpoint::Endpoint,
    maps::{ASKS, DESTS, STRANGERS},
};

/// A datagram that a pod is about to send.
#[repr(C)]
pub struct Case {
    /// The pod's workload id.
    pub pod: u64,
    /// Filled in: the policy that the answer rests on; 0: none.
    pub policy: u64,
    /// The pod's end.
    pub own: Endpoint,
    /// Who it is sent to, once a service has been looked up.
    pub target: Endpoint,
    /// 1 where it is a service's backend.
    pub is_service: u32,
}

/// Why a datagram may be sent, or not.
#[inline(always)]
pub fn judge(case: &mut Case) -> Reason {
    // Not inlined, and with a symbol of its own: the verifier then goes through it once, not once for each way there.
    let number = millrace_judge(case);
    // SAFETY: the number is a reason's, as `millrace_judge` makes it of one.
    unsafe { core::mem::transmute::<u32, Reason>(number) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn millrace_judge(case: *mut Case) -> u32 {
    // SAFETY: null, or what `judge` was given, which nobody else has meanwhile.
    let Some(case) = (unsafe { case.as_mut() }) else { return Reason::NoVerdict as u32 };
    let (from, to) = (dest(&case.own.addr), dest(&case.target.addr));
    let verdict = to.and_then(|to| of_pod(case.pod, &case.own.addr, to, case.target.port));
    case.policy = verdict.map_or(0, |verdict| verdict.policy);
    let reason = udp::send(case.pod, to, case.is_service != 0, verdict);
    sending(reason, &case.own, from, &case.target, to) as u32
}

/// The workload that has this address.
#[inline(always)]
pub fn dest(addr: &Addr) -> Option<&'static Dest> {
    // SAFETY: read at once; user space replaces entries whole.
    unsafe { DESTS.get(addr) }
}

/// What is written of an ask of this pod, by its id and address, to `dest`.
#[inline(always)]
fn of_pod(id: u64, own: &Addr, dest: &Dest, port: Port) -> Option<&'static Verdict> {
    if !udp::is_pod_of_this_node(dest) {
        return of_stranger(own, dest, port);
    }
    connect::verdict_by(id, dest, port, udp::of_datagrams(dest))
}

/// What is written of an ask that arrives at `own`.
#[inline(always)]
fn of_arrival(from: Option<&Dest>, peer: &Addr, own: &Dest, port: Port) -> Option<&'static Verdict> {
    match from {
        Some(from) if udp::is_pod_of_this_node(from) => connect::verdict_by(from.id, own, port, udp::of_datagrams(own)),
        _ => of_stranger(peer, own, port),
    }
}

/// What callers without identity get, by their address.
#[inline(always)]
fn of_stranger(addr: &Addr, dest: &Dest, port: Port) -> Option<&'static Verdict> {
    if dest.group == 0 {
        return None;
    }
    let stranger = Stranger { group: dest.group.to_be_bytes(), port, addr: *addr, reserved: [0; 2] };
    let mut key = Key::new(STRANGER_WHOLE_BITS, stranger);
    if let Some(verdict) = STRANGERS.get(&key) {
        // SAFETY: entries are freed after this run of the program.
        return Some(unsafe { &*core::ptr::from_ref(verdict) });
    }
    key.data.port = [0; 2];
    // SAFETY: as above.
    STRANGERS.get(&key).map(|verdict| unsafe { &*core::ptr::from_ref(verdict) })
}

/// Why a datagram from `peer` to `own` goes on or not, and the policy, answers aside.
#[inline(always)]
pub fn arrives(own: &Endpoint, to: Option<&Dest>, peer: &Endpoint, from: Option<&Dest>) -> (Reason, u64) {
    let verdict = to.and_then(|to| of_arrival(from, &peer.addr, to, own.port));
    (udp::arrival(to, from, verdict), verdict.map_or(0, |verdict| verdict.policy))
}

/// The reason to send, once it is known whether this is an answer: `own` sends to `target`.
#[inline(always)]
fn sending(reason: Reason, own: &Endpoint, from: Option<&Dest>, target: &Endpoint, to: Option<&Dest>) -> Reason {
    if own.port == [0; 2] || !udp::is_tracked(from, to) {
        return reason;
    }
    let ask = AskKey { asker: own.addr, asked: target.addr, asker_port: own.port, asked_port: target.port };
    if !holds(&ask.reversed()) {
        if matches!(action(reason), Action::Pass) {
            note(&ask);
        }
        return reason;
    }
    // They asked: what they ask must be let through still.
    if udp::spares_answers(reason) && matches!(arrives(own, from, target, to).0, Reason::InUdp) {
        return Reason::UdpAnswer;
    }
    reason
}

/// The reason to let in, once it is known whether this is an answer: `peer` sent to `own`.
#[inline(always)]
pub fn arriving(reason: Reason, own: &Endpoint, to: Option<&Dest>, peer: &Endpoint, from: Option<&Dest>) -> Reason {
    if !udp::is_tracked(to, from) {
        return reason;
    }
    let ask = AskKey { asker: own.addr, asked: peer.addr, asker_port: own.port, asked_port: peer.port };
    if !holds(&ask) {
        if matches!(reason, Reason::InUdp) {
            note(&ask.reversed());
        }
        return reason;
    }
    if udp::spares_answers(reason) && asks_still(own, to, peer, from) {
        return Reason::InUdpAnswer;
    }
    reason
}

/// True where `own` may ask `peer` still.
#[inline(always)]
fn asks_still(own: &Endpoint, to: Option<&Dest>, peer: &Endpoint, from: Option<&Dest>) -> bool {
    let (Some(pod), Some(callee)) = (to, from) else { return true };
    let verdict = of_pod(pod.id, &own.addr, callee, peer.port);
    matches!(action(udp::ask(pod.id, true, callee, verdict)), Action::Pass)
}

/// True where this was asked, not too long ago.
#[inline(always)]
fn holds(key: &AskKey) -> bool {
    let Some(found) = ASKS.get_ptr_mut(key) else { return false };
    let now = now();
    // SAFETY: values of hash maps are aligned to 8, and live until the program is over.
    let ask = Ask { at_ns: unsafe { (*found).at_ns } };
    match udp::age(ask, now) {
        Age::Young => true,
        Age::Due => {
            // SAFETY: as above; whoever else writes it writes this moment too.
            unsafe { (*found).at_ns = now };
            true
        }
        Age::Over => false,
    }
}

/// Remembers an ask.
#[inline(always)]
fn note(key: &AskKey) {
    if holds(key) {
        return;
    }
    // Should there be no room, its answer is judged as an ask.
    let _: Result<(), i32> = ASKS.insert(key, Ask { at_ns: now() }, BPF_ANY.into());
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
