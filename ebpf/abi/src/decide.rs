//! Decides what the programs do once their look-ups are done. Pure, so that it is tested on the host; the programs do the pointer work.

use crate::{
    Addr, AffinityValue, Dest, DestKind, Handoff, HandoffKind, Listening, Pending, Pod, PodKind, Port, Reason,
    ServiceValue, SlotValue, Verdict, capacity, service_flag,
};

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
        // There is no listener for it to be sent to.
        kind if kind == DestKind::Remote as u32 && pod.kind == PodKind::HostMesh as u32 => Reason::HostRemote,
        kind if kind == DestKind::Remote as u32 => Reason::Proxied,
        _ => Reason::NotEnrolled,
    }
}

/// The reason, or that a connect which would leave a record behind has no room for it: `pending` is what the pod has by now.
#[inline(always)]
pub fn within_quota(reason: Reason, pending: Option<&Pending>) -> Reason {
    let leaves_record = matches!(reason, Reason::Direct | Reason::Own | Reason::Proxied);
    match pending {
        Some(pending) if leaves_record && pending.records >= i64::from(capacity::PENDING_PER_POD) => {
            Reason::TooManyPending
        }
        _ => reason,
    }
}

/// What a connect from a namespace of this kind does before anything else: None goes on to [`connect`].
#[inline(always)]
pub fn caller(kind: Option<u32>, is_mesh_address: bool) -> Option<Reason> {
    match kind {
        Some(kind) if kind == PodKind::Mesh as u32 || kind == PodKind::HostMesh as u32 => None,
        Some(_) => Some(Reason::Untouched),
        None if is_mesh_address => Some(Reason::UnknownNamespace),
        None => Some(Reason::Untouched),
    }
}

/// True where the kernel vouches for a connection as it sends its SYN: from the pod's own address, straight to a pod of this
/// node, and allowed still (a Fast Open socket may send long after it was let through). A pod that calls its own address
/// needs it too: such a packet goes over loopback, but says that it came in by the device that has the address.
#[inline(always)]
pub fn attests(pod: &Pod, own: &Addr, dest: &Dest, port: Port, verdict: Option<&Verdict>) -> bool {
    pod.kind == PodKind::Mesh as u32
        && (*own == pod.v4 || *own == pod.v6)
        && matches!(connect(pod, Some(dest), false, port, verdict), Reason::Direct | Reason::Own)
}

/// The way that a connecting socket goes whose end is told, where it is not captured: a pod's of the mesh, to another address than
/// loopback. `is_service` says that a backend stands for a service's address.
#[inline(always)]
pub fn told(pod: &Pod, dest: Option<&Dest>, target: &Addr, is_service: bool) -> Option<Reason> {
    let is_host = pod.kind == PodKind::HostMesh as u32;
    if !(is_host || pod.kind == PodKind::Mesh as u32) || is_loopback(target) {
        return None;
    }
    Some(match dest {
        Some(dest) if dest.id == pod.id => Reason::Own,
        Some(dest) if is_host && dest.kind == DestKind::Remote as u32 => Reason::HostRemote,
        Some(_) => Reason::Direct,
        None if is_service => Reason::PlainBackend,
        None => Reason::Untouched,
    })
}

/// True where the accepting end of an attested connection tells of it: its caller is no pod, so nobody tells at the other end.
#[inline(always)]
pub fn told_by_callee(source: u64) -> bool {
    source == 0
}

/// True where the kernel vouches for a connection as the host's own: to a pod of this node, at a port that its probes name. No
/// policy is asked, as a kubelet has no identity that one could name. A pod that is being enrolled is probed too. The host is what
/// runs in its network namespace and is no pod.
#[inline(always)]
pub fn attests_host(pod: &Pod, dest: &Dest, port: Port, is_probe: bool) -> bool {
    pod.kind == PodKind::Host as u32
        && is_probe
        && !is_mesh_port(port)
        && (dest.kind == DestKind::Local as u32 || dest.kind == DestKind::Pending as u32)
}

/// True where the kernel vouches for a connection of a pod in the node's own namespace: as for others, but that its address is one
/// of the node's. It must not be another workload's, which a socket can be bound to.
#[inline(always)]
pub fn attests_host_pod(pod: &Pod, is_anothers: bool, dest: &Dest, port: Port, verdict: Option<&Verdict>) -> bool {
    pod.kind == PodKind::HostMesh as u32
        && !is_anothers
        && matches!(connect(pod, Some(dest), false, port, verdict), Reason::Direct)
}

/// The netns cookie that a [`crate::Tuple`] is keyed with: a loopback target means something else in every namespace. Any other
/// is one pod's alone, whatever it is called from (the proxy's dials come from loopback), and is looked up where no cookie is told.
#[inline(always)]
pub fn tuple_cookie(target: &Addr, netns: u64) -> u64 {
    if is_loopback(target) { netns } else { 0 }
}

/// What is known of a connection that arrives by the way it came alone: None goes on to [`inbound`].
#[inline(always)]
pub fn arrival(over_loopback: bool, own: &Addr) -> Option<Reason> {
    if over_loopback {
        Some(Reason::InLoopback) // From this very namespace.
    } else if is_loopback(own) {
        Some(Reason::InMartian)
    } else {
        None
    }
}

/// Where a connection goes that came from outside the pod, once address and tuple have been looked up.
#[inline(always)]
pub fn inbound(own: Option<&Dest>, handoff: Option<&Handoff>, port: Port) -> Reason {
    match own {
        // A pod that is being enrolled may call itself already; others find its listeners, or nobody.
        Some(dest) if dest.kind == DestKind::Local as u32 || dest.kind == DestKind::Pending as u32 => {}
        _ => return Reason::InUnknownAddress,
    }
    match handoff {
        Some(handoff) if handoff.kind == HandoffKind::Attested as u32 => return Reason::InAttested,
        Some(handoff) if handoff.kind == HandoffKind::ProxyDial as u32 => return Reason::InProxyDial,
        _ => {}
    }
    if port == crate::TUNNEL_PORT {
        Reason::InTunnel
    } else if is_mesh_port(port) {
        Reason::InMeshPort
    } else {
        Reason::InPlaintext
    }
}

/// True where a pod's connection to this service goes to the proxy whoever stands behind it: its requests are routed. One of a pod
/// that shares its node's network has no listener to go to, and is given a backend as without routes.
#[inline(always)]
pub fn is_routed(pod: &Pod, service: &ServiceValue) -> bool {
    pod.kind == PodKind::Mesh as u32 && service.flags & service_flag::ROUTED != 0
}

/// Why a service gives no backend; None where it has some.
#[inline(always)]
pub fn without_slots(service: &ServiceValue) -> Option<Reason> {
    match (service.n_slots, service.flags & service_flag::LOCAL) {
        (0, 0) => Some(Reason::NoBackend),
        (0, _) => Some(Reason::NoLocalBackend),
        _ => None,
    }
}

/// True where a client that was last given its backend then has it still, as far as time goes.
#[inline(always)]
pub fn affinity_holds(given: &AffinityValue, now_ns: u64, affinity_s: u32) -> bool {
    now_ns.saturating_sub(given.at_ns) < u64::from(affinity_s) * 1_000_000_000
}

/// How long a port that lost its last listener is passed over. The control plane says so within a second; where nobody goes
/// and the application was merely restarted, its next listener says so. Past it the port is tried again: it may have been
/// listened on before the programs were there to see it.
const PASSED_OVER_NS: u64 = 30_000_000_000;

/// True where a port lost its last listener a moment ago.
#[inline(always)]
pub fn is_closed(listening: &Listening, now_ns: u64) -> bool {
    listening.closed_ns != 0 && now_ns.saturating_sub(listening.closed_ns) < PASSED_OVER_NS
}

/// True where a slot gives this backend, of its own or as its alias.
#[inline(always)]
pub fn names(slot: &SlotValue, addr: &Addr, port: Port) -> bool {
    (slot.addr == *addr && slot.port == port) || (slot.alias_addr == *addr && slot.alias_port == port)
}

/// True where `one` comes before `other` in the order that a table's slots have: by address, as a number of 16 bytes, then port.
#[inline(always)]
pub fn is_before(one: (&Addr, Port), other: (&Addr, Port)) -> bool {
    let ([high, low], [other_high, other_low]) = (halves(one.0), halves(other.0));
    if high != other_high {
        high < other_high
    } else if low != other_low {
        low < other_low
    } else {
        u16::from_be_bytes(one.1) < u16::from_be_bytes(other.1)
    }
}

/// Without a call of memcmp, which no program can make.
#[inline(always)]
fn halves(addr: &Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

/// Why a connection that ended before it was made did, by what its socket counted: segments that came, and SYNs sent again. None
/// where its own application gave it up before anybody could have answered.
#[inline(always)]
pub fn failure(segments: u32, retransmits: u32) -> Option<Reason> {
    match (segments, retransmits) {
        (0, 0) => None,
        (0, _) => Some(Reason::BackendTimedOut),
        _ => Some(Reason::BackendRefused),
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

#[cfg(test)]
mod tests;
