//! Tells what is forged: frames of a pod that claim what is another's, and connections that somebody else began. Pure, so that
//! it is tested on the host; `ebpf/programs` does the pointer work.
//!
//! What is judged is a claim that others act on: the source of a packet, the sender of an ARP message, the target of a
//! neighbour's answer. Where a packet goes is not asked here.

use crate::{Addr, Reason, decide::is_v4};

/// Whose words on an interface of a pod are judged, and how strictly.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardKind {
    /// The interface that has the pod's mesh addresses: nothing else is believed to come from it.
    Own = 1,
    /// Another interface of the pod: what comes from it may claim any address but another workload's of the mesh.
    Other = 2,
    /// An interface of a pod that is not in the mesh: as another one.
    Outside = 3,
}

/// Value of GUARDS, by the index of the host's end of a pod's interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The pod's IPv4 address, v4-mapped; zero where it has none.
    pub v4: Addr,
    /// Its IPv6 address; zero where it has none.
    pub v6: Addr,
    /// The interface's link-local address.
    pub link_local: Addr,
    /// The workload's id.
    pub id: u64,
    /// CLOCK_MONOTONIC of the last flow record about it: a flood of forged packets must not crowd out the records of others.
    pub told_ns: u64,
    /// The interface's link address.
    pub mac: [u8; 6],
    /// A [`GuardKind`].
    pub kind: u16,
}
const _: () = assert!(size_of::<Guard>() == 72); // A change here is a change of SCHEMA.

/// How often one interface's forged packets are told of, at most. All of them are counted.
pub const TOLD_EVERY_NS: u64 = 100_000_000;

/// How far the first byte expected may be past the SYN's: what Fast Open lets a SYN carry is less than a window without scale.
pub const FAST_OPEN_DATA: u32 = 65_536;

/// True where the connection that is established is the one that was written down: its first byte is the one that the
/// connecting socket chose for its SYN. 0 was written where that could not be read.
#[inline(always)]
pub fn continues(written: u32, expected: u32) -> bool {
    written == 0 || expected.wrapping_sub(written) <= FAST_OPEN_DATA
}

/// `::`, from which a host without an address asks whether somebody has the one it is about to take.
const UNSPECIFIED: Addr = [0; 16];

/// What ARP says first: Ethernet, IPv4, and the sizes of their addresses.
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Multicast listeners' reports, of both versions.
const LISTENER_REPORTS: [u8; 3] = [131, 132, 143];

impl Guard {
    #[inline(always)]
    fn is_own(&self) -> bool {
        self.kind == GuardKind::Own as u16
    }

    /// True for the link address and the IPv4 source of a packet that is the pod's own beyond doubt: pairs of bytes as they lie.
    #[inline(always)]
    pub fn is_own_v4(&self, mac: [u16; 3], source: [u16; 2]) -> bool {
        self.is_own() && is_v4(&self.v4) && mac == as_pairs(&self.mac, 0) && source == as_pairs(&self.v4, 12)
    }

    /// The same of an IPv6 source.
    #[inline(always)]
    pub fn is_own_v6(&self, mac: [u16; 3], source: [u16; 8]) -> bool {
        self.is_own() && self.v6 != UNSPECIFIED && mac == as_pairs(&self.mac, 0) && source == as_pairs(&self.v6, 0)
    }

    /// True where the pod may say this address is its own. `is_mesh` says whether some workload of the mesh has it.
    #[inline(always)]
    fn may_claim(&self, addr: &Addr, is_mesh: impl FnOnce(&Addr) -> bool) -> bool {
        *addr == self.v4 || *addr == self.v6 || if self.is_own() { *addr == self.link_local } else { !is_mesh(addr) }
    }

    /// Why a frame from this link address is dropped, whatever is in it.
    #[inline(always)]
    pub fn frame(&self, source: &[u8; 6]) -> Option<Reason> {
        if self.is_own() && *source != self.mac { Some(Reason::SpoofedMac) } else { None }
    }

    /// Why an ARP message is dropped. A probe claims nothing yet: its sender is 0.0.0.0.
    #[inline(always)]
    pub fn arp(&self, message: &[u8; 28], is_mesh: impl FnOnce(&Addr) -> bool) -> Option<Reason> {
        let [a, b, c, d, e, f, ..] = *message;
        if [a, b, c, d, e, f] != ARP_OF_IPV4 {
            return Some(Reason::SpoofedProtocol);
        }
        let [.., m0, m1, m2, m3, m4, m5, p0, p1, p2, p3, _, _, _, _, _, _, _, _, _, _] = *message;
        if let Some(reason) = self.frame(&[m0, m1, m2, m3, m4, m5]) {
            return Some(reason);
        }
        let sender = [p0, p1, p2, p3];
        if sender == [0; 4] || self.may_claim(&mapped(sender), is_mesh) { None } else { Some(Reason::SpoofedNeighbour) }
    }

    /// Why a packet of this source is dropped. `::` is judged by what it says: see [`Guard::icmpv6`].
    #[inline(always)]
    pub fn packet(&self, source: &Addr, is_mesh: impl FnOnce(&Addr) -> bool) -> Option<Reason> {
        if self.may_claim(source, is_mesh) { None } else { Some(Reason::SpoofedSource) }
    }

    /// Why an ICMPv6 message is dropped: its first 24 bytes, and the 8 after them, zero where it ends before. The first option
    /// alone is looked at: one further back can but say that the pod's own address is at another's link address.
    #[inline(always)]
    pub fn icmpv6(
        &self,
        source: &Addr,
        message: &[u8; 24],
        option: &[u8; 8],
        is_mesh: impl FnOnce(&Addr) -> bool,
    ) -> Option<Reason> {
        let [kind, ..] = *message;
        let is_nameless = *source == UNSPECIFIED;
        match kind {
            // Pods are no routers: whoever believed one would send it everything.
            ROUTER_ADVERTISEMENT | REDIRECT if self.is_own() => return Some(Reason::SpoofedNeighbour),
            NEIGHBOUR_ADVERTISEMENT | NEIGHBOUR_SOLICITATION => {}
            _ if is_nameless && LISTENER_REPORTS.contains(&kind) => return None,
            _ if is_nameless => return Some(Reason::SpoofedSource),
            _ => return None,
        }
        let [says, _, m0, m1, m2, m3, m4, m5] = *option;
        if matches!(says, 1 | 2) && self.frame(&[m0, m1, m2, m3, m4, m5]).is_some() {
            return Some(Reason::SpoofedNeighbour);
        }
        // To ask for a neighbour claims nothing, unless it is asked from `::`: then somebody takes the address.
        let claims = kind == NEIGHBOUR_ADVERTISEMENT || is_nameless;
        if claims && !self.may_claim(&bytes(message, 8), is_mesh) { Some(Reason::SpoofedNeighbour) } else { None }
    }
}

/// True for `::`.
#[inline(always)]
pub fn is_unspecified(addr: &Addr) -> bool {
    *addr == UNSPECIFIED
}

/// The v4-mapped form of an IPv4 address.
#[inline(always)]
pub fn mapped(v4: [u8; 4]) -> Addr {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Pairs of bytes from one on, as they lie; zeroes beyond the end.
#[inline(always)]
fn as_pairs<const N: usize, const M: usize>(of: &[u8; N], from: usize) -> [u16; M] {
    let mut found = [0; M];
    let mut at = 0;
    while let (Some(to), Some(one), Some(other)) = (found.get_mut(at), of.get(from + 2 * at), of.get(from + 2 * at + 1))
    {
        *to = u16::from_ne_bytes([*one, *other]);
        at += 1;
    }
    found
}

/// So many bytes of a header, from one on; zeroes beyond its end.
#[inline(always)]
pub fn bytes<const N: usize, const M: usize>(header: &[u8; N], from: usize) -> [u8; M] {
    let mut found = [0; M];
    let mut at = 0;
    while let (Some(to), Some(byte)) = (found.get_mut(at), header.get(from + at)) {
        *to = *byte;
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests;
