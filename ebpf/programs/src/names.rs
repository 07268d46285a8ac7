//! Shows applications the truth: whom they asked for, who called them, and their own address.

use aya_ebpf::{helpers::generated::bpf_get_netns_cookie, programs::SockAddrContext};
use millrace_abi::{Addr, Original, OriginalMode, decide};

use crate::{
    endpoint::{self, Endpoint, Family},
    maps::{CLIENT, ORIGINAL, PODS},
    storage::Socket,
};

/// Every name is given, changed or not.
const SHOWN: i32 = 1;

/// `getpeername`, and the address that `accept` returns: the true client, or what was asked for.
#[inline(always)]
pub fn peer(ctx: &SockAddrContext, family: Family) -> i32 {
    let socket = Socket::of_call(ctx);
    if let Some(client) = socket.get(&CLIENT) {
        // The proxy's own dial carries the client for the application's sake; its own peer is the application.
        if !socket.is_exempt() {
            endpoint::write(ctx.sock_addr, family, &Endpoint { addr: client.addr, port: client.port });
        }
        return SHOWN;
    }
    if let Some(original) = socket.get(&ORIGINAL)
        && original.mode != OriginalMode::Accepted as u8
        && is_of_peer(ctx, family, original)
    {
        endpoint::write(ctx.sock_addr, family, &Endpoint { addr: original.addr, port: original.port });
    }
    SHOWN
}

/// False for what a connect left behind that did not come about: a datagram socket stays connected to whom it was before.
#[inline(always)]
fn is_of_peer(ctx: &SockAddrContext, family: Family, original: &Original) -> bool {
    if original.mode != OriginalMode::Direct as u8 {
        return true;
    }
    let peer = endpoint::read(ctx.sock_addr, family);
    peer.addr == original.backend && peer.port == original.backend_port
}

/// `getsockname`: the pod's address where the connection really runs over loopback.
#[inline(always)]
pub fn own(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(original) = Socket::of_call(ctx).get(&ORIGINAL) else { return SHOWN };
    if original.mode != OriginalMode::Proxied as u8 {
        return SHOWN;
    }
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    // SAFETY: read at once; user space replaces entries whole.
    let Some(pod) = (unsafe { PODS.get(netns) }) else { return SHOWN };
    let addr: Addr = if decide::is_v4(&original.addr) { pod.v4 } else { pod.v6 };
    if addr != [0; 16] {
        endpoint::write_addr(ctx.sock_addr, family, &addr);
    }
    SHOWN
}
