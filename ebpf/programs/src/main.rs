//! Captures, balances, authorizes and hands over the connections of one node's pods, in the kernel.
//!
//! Look-ups and pointer work are here; what they decide is `millrace_abi::decide` and `millrace_abi::reason`, which the
//! host tests. A connect runs `connect*` (where to), then `sockops` (hand-off, before the SYN), then `inbound` in the
//! callee's namespace, then `sockops` there; `get*name*` shows both applications the truth afterwards. A datagram runs
//! `sendmsg*` (or ran `connect*` once), then `inbound` where the callee's socket is not connected, then `recvmsg*`.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "the one way to the kernel's atomic additions: see `pending`")]
#![feature(core_intrinsics)]

mod account;
mod arrival;
mod asks;
mod by_service;
mod connect;
mod endpoint;
mod flow;
mod forged;
mod host;
mod inbound;
mod listening;
mod maps;
mod names;
mod outcome;
mod pending;
mod service;
mod sockops;
mod spoof;
mod storage;
mod told;
mod tuning;
mod udp;

use aya_ebpf::{
    bindings::{bpf_sk_lookup, bpf_sock_addr, bpf_sock_ops},
    macros::{cgroup_sock_addr, classifier, sk_lookup, sk_msg, stream_verdict},
    programs::{SkBuffContext, SkLookupContext, SkMsgContext, SockAddrContext, SockOpsContext, TcContext},
};
use endpoint::Family;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    if udp::is_datagram(&ctx) { udp_connect4(ctx.sock_addr) } else { tcp_connect4(ctx.sock_addr) }
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    if udp::is_datagram(&ctx) { udp_connect6(ctx.sock_addr) } else { tcp_connect6(ctx.sock_addr) }
}

// Functions of their own: the stack has 512 bytes, of which neither leaves the other enough.

#[inline(never)]
fn tcp_connect4(call: *mut bpf_sock_addr) -> i32 {
    connect::connect(&SockAddrContext::new(call), Family::V4)
}

#[inline(never)]
fn tcp_connect6(call: *mut bpf_sock_addr) -> i32 {
    connect::connect(&SockAddrContext::new(call), Family::V6)
}

#[inline(never)]
fn udp_connect4(call: *mut bpf_sock_addr) -> i32 {
    udp::connect(&SockAddrContext::new(call), Family::V4)
}

#[inline(never)]
fn udp_connect6(call: *mut bpf_sock_addr) -> i32 {
    udp::connect(&SockAddrContext::new(call), Family::V6)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    udp::send(&ctx, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    udp::send(&ctx, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    udp::receive(&ctx, Family::V4)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    udp::receive(&ctx, Family::V6)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    names::peer(&ctx, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    names::peer(&ctx, Family::V6)
}

#[cgroup_sock_addr(getsockname4)]
fn getsockname4(ctx: SockAddrContext) -> i32 {
    names::own(&ctx, Family::V4)
}

#[cgroup_sock_addr(getsockname6)]
fn getsockname6(ctx: SockAddrContext) -> i32 {
    names::own(&ctx, Family::V6)
}

/// Without aya's `#[sock_ops]`: its section is named `sockops` too, and an object has one symbol of a name.
#[unsafe(link_section = "sockops/sockops")]
#[unsafe(no_mangle)]
fn sockops(ops: *mut bpf_sock_ops) -> u32 {
    sockops::sockops(&SockOpsContext::new(ops))
}

#[sk_lookup]
fn inbound(ctx: SkLookupContext) -> u32 {
    if inbound::is_tcp(&ctx) { tcp_inbound(ctx.lookup) } else { udp_inbound(ctx.lookup) }
}

#[inline(never)]
fn tcp_inbound(lookup: *mut bpf_sk_lookup) -> u32 {
    inbound::inbound(&SkLookupContext::new(lookup))
}

#[inline(never)]
fn udp_inbound(lookup: *mut bpf_sk_lookup) -> u32 {
    arrival::arrival(lookup)
}

#[classifier]
fn spoof(ctx: TcContext) -> i32 {
    spoof::spoof(&ctx)
}

/// What a connection that is held has received.
#[stream_verdict]
fn forged_in(_ctx: SkBuffContext) -> u32 {
    forged::DROP
}

/// What an application writes to one.
#[sk_msg]
fn forged_out(_ctx: SkMsgContext) -> u32 {
    forged::DROP
}

/// aya's macros know no iterators.
#[unsafe(link_section = "iter/udp")]
#[unsafe(no_mangle)]
fn by_service(each: *const by_service::Each) -> i32 {
    by_service::show(each)
}

/// Helpers such as `bpf_skc_to_mptcp_sock` are given to programs of a GPL-compatible licence alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {} // Never linked: the verifier takes no loop without an end, so a panic that is reachable fails the load.
}
