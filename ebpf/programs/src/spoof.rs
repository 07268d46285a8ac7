//! Drops what a pod sends in another's name: stands at the host's end of each pod's interface, where the pod has no say.
//!
//! An address or a link address that nobody can forge is worth something to the node's own bridge and routes; who a caller is
//! rests on neither.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    programs::TcContext,
};
use millrace_abi::{
    Addr, Guard, Reason,
    forge::{self, TOLD_EVERY_NS},
};

use crate::{
    endpoint::Endpoint,
    flow::{self, Flow},
    maps::{DESTS, GUARDS},
};

/// TCX_NEXT: the next program decides, another CNI's for one.
const NEXT: i32 = -1;
/// TCX_DROP.
const DROP: i32 = 2;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_ARP: u32 = 0x0806;
const ETH_P_IPV6: u32 = 0x86dd;

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// Of an IPv6 header.
const IPV6: u32 = 40;

/// Where the source address ends: what is looked at of a frame that is let through at a glance.
const V4_SOURCE_END: usize = 30;
const V6_SOURCE_END: usize = 38;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

/// How many extension headers are looked behind: each kind may come once, destination options twice. More hide something.
const MAX_HEADERS: u32 = 6;

/// One frame from a pod.
#[inline(always)]
pub fn spoof(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*skb).ifindex };
    let Some(guard) = GUARDS.get_ptr_mut(ifindex) else { return NEXT };
    // SAFETY: the value lives until the program is over; the agent replaces it whole, and others write `told_ns` alone.
    if is_plain(skb, unsafe { &*guard }) {
        return NEXT;
    }
    let mut said = Said { claimed: [0; 16], target: [0; 16] };
    // SAFETY: as above.
    let Some(reason) = judge(skb, unsafe { &*guard }, &mut said) else { return NEXT };
    // SAFETY: as above.
    if may_tell(unsafe { &mut (*guard).told_ns }) {
        let port = [0; 2];
        let (asked, target) = (Endpoint { addr: said.target, port }, Endpoint { addr: said.claimed, port });
        // SAFETY: as above.
        let source = unsafe { (*guard).id };
        flow::record(reason, &Flow { netns: 0, source, policy: 0, asked: &asked, target: &target });
    } else {
        flow::count(reason);
    }
    DROP
}

/// True for what all but forgers send: TCP or UDP in the pod's own name, whose header is in the frame's first piece. Judged
/// where it lies, by the same rules as the rest, of which none refuses it.
#[inline(always)]
fn is_plain(skb: *mut __sk_buff, guard: &Guard) -> bool {
    // SAFETY: the context is valid while the program runs. The protocol is in network order.
    let (protocol, is_tagged) = unsafe { (u16::from_be((*skb).protocol as u16) as u32, (*skb).vlan_present != 0) };
    if is_tagged {
        return false;
    }
    match protocol {
        ETH_P_IP => first(skb, V4_SOURCE_END).is_some_and(|frame| guard.is_own_v4(pairs(frame, 6), pairs(frame, 26))),
        ETH_P_IPV6 => first(skb, V6_SOURCE_END).is_some_and(|frame| {
            let [[next, _]] = pairs(frame, 20).map(u16::to_ne_bytes);
            matches!(next, TCP | UDP) && guard.is_own_v6(pairs(frame, 6), pairs(frame, 22))
        }),
        _ => false,
    }
}

/// A frame of so many bytes at least, where it lies; None where they are not in its first piece. Looked at once for all of
/// them: of two looks the compiler may make what the verifier can't follow.
#[inline(always)]
fn first(skb: *mut __sk_buff, length: usize) -> Option<*const u16> {
    // SAFETY: the context is valid while the program runs.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if start + length > end { None } else { Some(start as *const u16) }
}

/// Pairs of bytes of a frame, from one on, as they lie.
#[inline(always)]
fn pairs<const N: usize>(frame: *const u16, at: usize) -> [u16; N] {
    // SAFETY: `first` has seen that they are there. Frames begin at even addresses, and `at` is even.
    core::array::from_fn(|n| unsafe { frame.byte_add(at + 2 * n).read() })
}

/// Between whom a frame claims to be; zeroes where it says too little.
struct Said {
    claimed: Addr,
    target: Addr,
}

/// Why a frame is dropped.
#[inline(always)]
fn judge(skb: *mut __sk_buff, guard: &Guard, said: &mut Said) -> Option<Reason> {
    // SAFETY: the context is valid while the program runs. The protocol is in network order.
    let (protocol, is_tagged) = unsafe { (u16::from_be((*skb).protocol as u16) as u32, (*skb).vlan_present != 0) };
    // A tag of network 0 is taken off by whoever gets the frame: what is beneath it is as good as untagged.
    if is_tagged {
        return Some(Reason::SpoofedProtocol);
    }
    match protocol {
        ETH_P_IP => v4(skb, guard, said),
        ETH_P_IPV6 => v6(skb, guard, said),
        ETH_P_ARP => arp(skb, guard, said),
        _ => Some(Reason::SpoofedProtocol),
    }
}

/// The Ethernet header, whose source stands from its 7th byte on, and an IPv4 header.
#[inline(always)]
fn v4(skb: *mut __sk_buff, guard: &Guard, said: &mut Said) -> Option<Reason> {
    let mut head = [0u8; 34];
    if !load(skb, 0, &mut head) {
        return Some(Reason::SpoofedProtocol);
    }
    said.claimed = forge::mapped(forge::bytes(&head, 26));
    said.target = forge::mapped(forge::bytes(&head, 30));
    if let Some(reason) = guard.frame(&forge::bytes(&head, 6)) {
        return Some(reason);
    }
    guard.packet(&said.claimed, is_mesh)
}

#[inline(always)]
fn arp(skb: *mut __sk_buff, guard: &Guard, said: &mut Said) -> Option<Reason> {
    let mut head = [0u8; 42];
    if !load(skb, 0, &mut head) {
        return Some(Reason::SpoofedProtocol);
    }
    let message: [u8; 28] = forge::bytes(&head, 14);
    said.claimed = forge::mapped(forge::bytes(&message, 14));
    said.target = forge::mapped(forge::bytes(&message, 24));
    if let Some(reason) = guard.frame(&forge::bytes(&head, 6)) {
        return Some(reason);
    }
    guard.arp(&message, is_mesh)
}

#[inline(always)]
fn v6(skb: *mut __sk_buff, guard: &Guard, said: &mut Said) -> Option<Reason> {
    let mut head = [0u8; 54];
    if !load(skb, 0, &mut head) {
        return Some(Reason::SpoofedProtocol);
    }
    said.claimed = forge::bytes(&head, 22);
    said.target = forge::bytes(&head, 38);
    if let Some(reason) = guard.frame(&forge::bytes(&head, 6)) {
        return Some(reason);
    }
    if !forge::is_unspecified(&said.claimed)
        && let Some(reason) = guard.packet(&said.claimed, is_mesh)
    {
        return Some(reason);
    }
    upper(skb, guard, &said.claimed, head[20])
}

/// Why what an IPv6 packet carries is dropped: looks behind its extension headers, as the kernel that gets it does.
#[inline(always)]
fn upper(skb: *mut __sk_buff, guard: &Guard, source: &Addr, first: u8) -> Option<Reason> {
    let (mut header, mut at) = (first, ETHERNET + IPV6);
    let mut n = 0;
    while n < MAX_HEADERS {
        n += 1;
        let mut extension = [0u8; 8];
        match header {
            ICMPV6 => return icmpv6(skb, guard, source, at),
            HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT => {
                if !load(skb, at, &mut extension) {
                    return Some(Reason::SpoofedProtocol);
                }
            }
            _ if forge::is_unspecified(source) => return Some(Reason::SpoofedSource),
            _ => return None,
        }
        let [next, length, offset, flags, ..] = extension;
        at += match header {
            // A later piece has no header to look at; nobody takes a neighbour's message in pieces (RFC 6980).
            FRAGMENT if offset != 0 || flags & !7 != 0 => {
                return if forge::is_unspecified(source) { Some(Reason::SpoofedSource) } else { None };
            }
            FRAGMENT => 8,
            AUTHENTICATION => (length as u32 + 2) * 4,
            _ => (length as u32 + 1) * 8,
        };
        header = next;
    }
    Some(Reason::SpoofedProtocol)
}

#[inline(always)]
fn icmpv6(skb: *mut __sk_buff, guard: &Guard, source: &Addr, at: u32) -> Option<Reason> {
    let (mut message, mut option) = ([0u8; 24], [0u8; 8]);
    if !load(skb, at, &mut message) {
        let mut short = [0u8; 4];
        // Cut before the address that it speaks for.
        if !load(skb, at, &mut short) || matches!(short[0], 135 | 136) {
            return Some(Reason::SpoofedProtocol);
        }
        message = [0; 24];
        message[0] = short[0];
    }
    if !load(skb, at + 24, &mut option) {
        option = [0; 8];
    }
    guard.icmpv6(source, &message, &option, is_mesh)
}

/// True for an address of some workload of the mesh.
#[inline(always)]
fn is_mesh(addr: &Addr) -> bool {
    DESTS.get_ptr(addr).is_some()
}

/// True where it is time to tell of this interface again. Two that ask at once may both be told yes.
#[inline(always)]
fn may_tell(told_ns: &mut u64) -> bool {
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let is_due = now.wrapping_sub(*told_ns) >= TOLD_EVERY_NS;
    if is_due {
        *told_ns = now;
    }
    is_due
}

/// Copies bytes of a frame; false where it has fewer.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, at: u32, into: &mut [u8; N]) -> bool {
    // SAFETY: the helper takes this program's context, and writes N bytes, or none.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, into.as_mut_ptr().cast(), N as u32) == 0 }
}
