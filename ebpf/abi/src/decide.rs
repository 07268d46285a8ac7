//! Decides what the programs do once their look-ups are done. Pure, so that it is tested on the host; the programs do the pointer work.

use crate::{Addr, Dest, DestKind, Pod, PodKind, Port, Reason, SlotValue, Verdict};

/// Where a connect goes, once the destination address has been looked up.
///
/// `is_service` says whether `dest` belongs to a backend picked from a service's table; `verdict` is what
/// VERDICTS says of the caller and the callee's group, and is not asked for where the group is 0.
#[inline(always)]
pub fn connect(pod: &Pod, dest: Option<&Dest>, is_service: bool, port: Port, verdict: Option<&Verdict>) -> Reason {
    let Some(dest) = dest else {
        return if is_service { Reason::PlainBackend } else { Reason::Untouched };
    };
    if is_mesh_port(port) {
        return Reason::MeshPort;
    }
    if dest.id == pod.id {
        return Reason::Own;
    }
    if dest.group != 0 {
        match verdict {
            Some(verdict) if verdict.allow == 1 => {}
            Some(_) => return Reason::Denied,
            None => return Reason::NoVerdict,
        }
    }
    match dest.kind {
        kind if kind == DestKind::Local as u32 => Reason::Direct,
        kind if kind == DestKind::Remote as u32 => Reason::Proxied,
        _ => Reason::NotEnrolled,
    }
}

/// What a connect from a namespace of this kind does before anything else: None goes on to [`connect`].
#[inline(always)]
pub fn caller(kind: Option<u32>, is_mesh_address: bool) -> Option<Reason> {
    match kind {
        Some(kind) if kind == PodKind::Mesh as u32 => None,
        Some(_) => Some(Reason::Untouched),
        None if is_mesh_address => Some(Reason::UnknownNamespace),
        None => Some(Reason::Untouched),
    }
}

/// The backend that a draw takes from an alias slot.
#[inline(always)]
pub fn backend(slot: &SlotValue, draw: u32) -> (Addr, Port) {
    if slot.threshold == u32::MAX || draw < slot.threshold {
        (slot.addr, slot.port)
    } else {
        (slot.alias_addr, slot.alias_port)
    }
}

/// The slot that a draw falls on: the high half of the product, which is fair where a remainder is not.
#[inline(always)]
pub const fn slot(draw: u32, n_slots: u32) -> u32 {
    ((draw as u64 * n_slots as u64) >> 32) as u32
}

/// True for the mesh's own ports.
#[inline(always)]
pub fn is_mesh_port(port: Port) -> bool {
    port == crate::TUNNEL_PORT || port == crate::OUTBOUND_PORT || port == crate::PLAINTEXT_PORT
}

/// True for an address that means another machine in every namespace: 127/8, v4-mapped or not, and ::1.
#[inline(always)]
pub fn is_loopback(addr: &Addr) -> bool {
    *addr == crate::LOOPBACK_V6 || (is_v4(addr) && addr[12] == 127)
}

/// True for a v4-mapped address.
#[inline(always)]
pub fn is_v4(addr: &Addr) -> bool {
    matches!(addr, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
}
