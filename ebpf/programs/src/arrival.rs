//! Judges datagrams that arrive at a pod's unconnected sockets. The kernel asks for each such datagram; a connected socket takes
//! from its own peer alone, whom its pod asked, and nobody is asked then.

use aya_ebpf::bindings::bpf_sk_lookup;
use millrace_abi::{Action, Reason, action, decide};

use crate::{
    asks,
    endpoint::Endpoint,
    flow,
    inbound::{self, DROP, PASS},
    storage::LOOPBACK_IFINDEX,
    told::{self, Told},
};

/// Whether a datagram goes on to the socket that it is for: the sender of one that does not is told that the port is closed.
#[inline(always)]
pub fn arrival(lookup: *mut bpf_sk_lookup) -> u32 {
    let (own, peer) = (&inbound::local(lookup), &inbound::remote(lookup));
    // SAFETY: the context is valid while the program runs.
    let over_loopback = unsafe { (*lookup).ingress_ifindex == LOOPBACK_IFINDEX };
    if let Some(reason) = decide::arrival(over_loopback, &own.addr) {
        return went(reason, 0, 0, own, peer);
    }
    let (to, from) = (asks::dest(&own.addr), asks::dest(&peer.addr));
    let (reason, policy) = asks::arrives(own, to, peer, from);
    let reason = asks::arriving(reason, own, to, peer, from);
    went(reason, to.map_or(0, |to| to.id), policy, own, peer)
}

#[inline(always)]
fn went(reason: Reason, pod: u64, policy: u64, own: &Endpoint, peer: &Endpoint) -> u32 {
    match action(reason) {
        Action::Pass => {
            // What was let through is recorded where it was sent, or by nobody: as plain text is for TCP.
            flow::count(reason);
            PASS
        }
        Action::Refuse(_) | Action::Drop => {
            let told = Told { pod, netns: 0, source: 0, policy, asked: *own, target: *peer, reason: reason as u32 };
            told::record(reason, &told);
            DROP
        }
    }
}
