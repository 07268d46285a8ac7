//! Closes live connections within this node, and connected UDP sockets, that no proxy carries and that no longer should be: policy
//! denies them now, or one of their ends is no workload any more.
//!
//! Reads top down: [`revoked`] decides, on values; [`see`] and [`close`] ask the kernel, inside a pod's namespace. What
//! crosses nodes is closed by the proxies, who judge their connections again by each Snapshot.
//!
//! Between whom a connection was made is noted on its sockets as it is made, whatever listens or has which address by now.
//! Connections from before a pod was captured have no such note, and are judged by what they look like. Both ends are closed,
//! each in its own namespace: a pod that keeps its kernel from sending resets must not keep the other end open, and speak to it
//! by raw sockets.

mod diag;
pub mod left;
pub mod udp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use millrace_abi::{Addr, Dest, DestKind, End, Pod, PodKind, Reason, Verdict, VerdictKey, decide};

pub use diag::{Connection, close, orphans, see, see_datagrams};

use crate::kernel::{Connected, State, plan::addr};

/// The sockets of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Ports that somebody listens on.
    pub listening: BTreeSet<u16>,
    /// Connections, as either end has them.
    pub connections: Vec<Connection>,
    /// Connected UDP sockets.
    pub datagrams: Vec<Connection>,
    /// By the kernel's numbers of sockets, those of them that were connected by a service, where that was asked for.
    pub by_service: BTreeMap<u64, Connected>,
}

/// An end of a connection to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The netns cookie of the pod whose end it is.
    pub netns: u64,
    /// The connection, as that pod has it.
    pub connection: Connection,
    /// The calling workload's id.
    pub source: u64,
    /// Why.
    pub why: Why,
    /// Whose end it is.
    pub end: Side,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A policy denies it; 0: no verdict allows it.
    Denied(u64),
    /// The workload at the other end is gone.
    Gone,
    /// The other end has left the service that the socket was connected by.
    Left,
}

/// Whose end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller's: told and counted, as there is one for each connection.
    Caller,
    /// The other's.
    Callee,
}

/// True where some policy selects a workload of this node, so that a connection could be revoked at all.
pub fn may_revoke(have: &State) -> bool {
    have.dests.values().any(|dest| dest.group != 0 && dest.kind == DestKind::Local as u32)
}

/// The ends of connections among `seen`, by netns cookie, that should not be there if they were made now: the kernel would refuse
/// them by policy, or one of the two is no workload of this node any more, by the ids of those that are.
pub fn revoked(have: &State, seen: &BTreeMap<u64, Seen>, workloads: &BTreeSet<u64>) -> Vec<Revoked> {
    let mut found = Vec::new();
    for (cookie, pod) in have.pods.iter().filter(|(_, pod)| pod.kind == PodKind::Mesh as u32) {
        let Some(own) = seen.get(cookie) else { continue };
        for connection in own.connections.iter().filter(|c| is_own(pod, c.local)) {
            let judged = match &connection.end {
                Some(end) => judged(have, pod, (connection, end), workloads),
                None => looked_at(have, seen, pod, (own, connection)),
            };
            let Some((source, why, end)) = judged else { continue };
            found.push(Revoked { netns: *cookie, connection: connection.clone(), source, why, end });
        }
    }
    found
}

/// By what was noted when it was made.
fn judged(
    have: &State,
    pod: &Pod,
    (connection, end): (&Connection, &End),
    workloads: &BTreeSet<u64>,
) -> Option<(u64, Why, Side)> {
    let End { source, target, is_caller, .. } = *end;
    let (side, other) = if is_caller == 1 { (Side::Caller, target) } else { (Side::Callee, source) };
    // The node's own processes are no workload, and no policy names them.
    if other == 0 {
        return None;
    }
    if !workloads.contains(&other) {
        return Some((source, Why::Gone, side));
    }
    let (caller, port) = match side {
        Side::Caller => (Some(pod), connection.remote.port()),
        Side::Callee => (have.pods.values().find(|pod| pod.id == source), connection.local.port()),
    };
    // By the family that it is of: policy may tell addresses apart.
    let at = match side {
        Side::Caller => connection.remote.ip(),
        Side::Callee => connection.local.ip(),
    };
    let dest = have.dests.get(&addr(at)).filter(|dest| dest.id == target)?;
    let denied = denial_of(have, caller?, dest, port)?;
    Some((source, Why::Denied(denied.policy), side))
}

/// By what it looks like: see [`is_caller`].
fn looked_at(
    have: &State,
    seen: &BTreeMap<u64, Seen>,
    pod: &Pod,
    (own, connection): (&Seen, &Connection),
) -> Option<(u64, Why, Side)> {
    let denied = denial(have, pod, connection.remote)?;
    is_caller(have, seen, (own, connection)).then_some((pod.id, Why::Denied(denied.policy), Side::Caller))
}

fn is_own(pod: &Pod, local: SocketAddr) -> bool {
    let local = addr(local.ip());
    local == pod.v4 || local == pod.v6
}

/// The verdict by which `pod` may not call `remote`, where that is a workload of this node.
fn denial(have: &State, pod: &Pod, remote: SocketAddr) -> Option<Verdict> {
    let dest = have.dests.get(&addr(remote.ip())).filter(|dest| dest.kind == DestKind::Local as u32)?;
    denial_of(have, pod, dest, remote.port())
}

fn denial_of(have: &State, pod: &Pod, dest: &Dest, port: u16) -> Option<Verdict> {
    let verdict = verdict(have, pod.id, dest, port);
    let reason = decide::connect(pod, Some(dest), false, port.to_be_bytes(), verdict.as_ref());
    if reason == Reason::NoVerdict {
        return Some(Verdict { policy: 0, allow: 0, reserved: 0 });
    }
    // Refused for another reason than policy is not revoked: a listener that closes does not end what it accepted.
    verdict.filter(|_| reason == Reason::Denied)
}

fn verdict(have: &State, source: u64, dest: &Dest, port: u16) -> Option<Verdict> {
    verdict_by(have, source, dest, (port, [0; 6]))
}

/// The same, of a protocol.
fn verdict_by(have: &State, source: u64, dest: &Dest, (port, reserved): (u16, [u8; 6])) -> Option<Verdict> {
    let exact = VerdictKey { source, group: dest.group, port: port.to_be_bytes(), reserved };
    have.verdicts.get(&exact).or_else(|| have.verdicts.get(&VerdictKey { port: [0; 2], ..exact })).copied()
}

/// True where this end made the connection, as far as can be told where nothing was noted. Whoever is called listens on its port,
/// most often; a caller may come to listen on its own as well, so that where both do, both are taken for callers. Where neither
/// does any longer, only what neither may ask of the other is taken for revoked.
fn is_caller(have: &State, seen: &BTreeMap<u64, Seen>, (own, connection): (&Seen, &Connection)) -> bool {
    let remote: Addr = addr(connection.remote.ip());
    let Some((cookie, other)) = have.pods.iter().find(|(_, pod)| pod.v4 == remote || pod.v6 == remote) else {
        return false;
    };
    let is_called = seen.get(cookie).is_some_and(|there| there.listening.contains(&connection.remote.port()));
    let is_callable = own.listening.contains(&connection.local.port());
    is_called || !is_callable && denial(have, other, connection.local).is_some()
}

/// An address of a socket, where an IPv4 one may stand as v4-mapped.
fn socket_address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
mod tests;
