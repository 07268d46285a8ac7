//! Steers what arrives at a pod: to the application, to one of the proxy's listeners, or nowhere.

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::debug;
use core::ptr::addr_of;
use millrace_abi::{Action, ListenerKey, ListenerKind, Reason, Tuple, action, config, decide};

use crate::{
    endpoint::{self, AF_INET6, Endpoint},
    flow::{self, Flow},
    maps::{DESTS, HANDOFFS, LISTENERS},
    storage::LOOPBACK_IFINDEX,
};

/// SK_PASS: to the listener chosen, or to the one the kernel finds.
pub const PASS: u32 = 1;
/// SK_DROP: to none; the caller sees a reset.
pub const DROP: u32 = 0;

const IPPROTO_TCP: u32 = 6;

/// True for a connection's packet.
#[inline(always)]
pub fn is_tcp(ctx: &SkLookupContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.lookup).protocol == IPPROTO_TCP }
}

/// The look-up of a listener. Runs for each packet that no connection owns, so it removes nothing.
#[inline(always)]
pub fn inbound(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*lookup).ingress_ifindex };
    let own = local(lookup);
    let mut reason = match decide::arrival(ifindex == LOOPBACK_IFINDEX, &own.addr) {
        Some(reason) => reason,
        None => decided(lookup, &own),
    };
    let steered = match reason {
        Reason::InTunnel => steer(ctx, &own, ListenerKind::Tunnel),
        Reason::InPlaintext => steer(ctx, &own, ListenerKind::Plaintext),
        _ => true,
    };
    if !steered {
        reason = Reason::InNoListener;
    }
    if flow::is_on(config::DEBUG) {
        debug!(ctx, "arrived at {:i}: reason {}", own.addr, reason as u32);
    }
    match action(reason) {
        Action::Pass => {
            flow::count(reason);
            PASS
        }
        Action::Refuse(_) | Action::Drop => {
            // Only what is dropped is recorded here: the rest was recorded where it connected, or is by the proxy.
            let peer = remote(lookup);
            flow::record(reason, &Flow { netns: 0, source: 0, policy: 0, asked: &own, target: &peer });
            DROP
        }
    }
}

#[inline(always)]
fn decided(lookup: *mut bpf_sk_lookup, own: &Endpoint) -> Reason {
    let peer = remote(lookup);
    // SAFETY: each is read at once.
    let (dest, handoff) = unsafe { (DESTS.get(own.addr), HANDOFFS.get(Tuple::of(0, peer.parts(), own.parts()))) };
    decide::inbound(dest, handoff, own.port)
}

/// Gives the connection to one of the pod's listeners; false where it is not there.
#[inline(always)]
fn steer(ctx: &SkLookupContext, own: &Endpoint, kind: ListenerKind) -> bool {
    LISTENERS.redirect_sk_lookup(ctx, ListenerKey { addr: own.addr, kind: kind as u32 }, 0).is_ok()
}

#[inline(always)]
pub fn local(lookup: *mut bpf_sk_lookup) -> Endpoint {
    // SAFETY: the context is valid while the program runs. `local_port` is in host order.
    unsafe {
        let addr = match (*lookup).family {
            AF_INET6 => endpoint::from_words(endpoint::words(addr_of!((*lookup).local_ip6))),
            _ => endpoint::mapped((*lookup).local_ip4),
        };
        Endpoint { addr, port: ((*lookup).local_port as u16).to_be_bytes() }
    }
}

#[inline(always)]
pub fn remote(lookup: *mut bpf_sk_lookup) -> Endpoint {
    // SAFETY: as in `local`. `remote_port` is in network order.
    unsafe {
        let addr = match (*lookup).family {
            AF_INET6 => endpoint::from_words(endpoint::words(addr_of!((*lookup).remote_ip6))),
            _ => endpoint::mapped((*lookup).remote_ip4),
        };
        Endpoint { addr, port: (*lookup).remote_port.to_ne_bytes() }
    }
}
