//! Closes live connections that policy allows no more and that no proxy carries: those between two pods of this node.
//!
//! Reads top down: [`revoked`] decides, on values; [`see`] and [`close`] ask the kernel, inside a pod's namespace. What
//! crosses nodes is closed by the proxies, who judge their connections again by each Snapshot.

mod diag;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use millrace_abi::{Addr, Dest, DestKind, Pod, PodKind, Reason, Verdict, VerdictKey, decide};

pub use diag::{Connection, close, see};

use crate::kernel::{State, plan::addr};

/// The TCP sockets of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Ports that somebody listens on.
    pub listening: BTreeSet<u16>,
    /// Connections, as either end has them.
    pub connections: Vec<Connection>,
}

/// A connection to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The netns cookie of the calling pod.
    pub netns: u64,
    /// The connection, as the calling pod has it.
    pub connection: Connection,
    /// The calling workload's id.
    pub source: u64,
    /// The policy that it rests on; 0: none.
    pub policy: u64,
}

/// True where some policy selects a workload of this node, so that a connection could be revoked at all.
pub fn may_revoke(have: &State) -> bool {
    have.dests.values().any(|dest| dest.group != 0 && dest.kind == DestKind::Local as u32)
}

/// The connections among `seen`, by netns cookie, that the kernel would refuse by policy if they were made now.
pub fn revoked(have: &State, seen: &BTreeMap<u64, Seen>) -> Vec<Revoked> {
    let mut found = Vec::new();
    for (cookie, pod) in have.pods.iter().filter(|(_, pod)| pod.kind == PodKind::Mesh as u32) {
        let Some(own) = seen.get(cookie) else { continue };
        for connection in own.connections.iter().filter(|c| is_own(pod, c.local)) {
            let Some(denied) = denial(have, pod, connection.remote) else { continue };
            if !is_caller(have, seen, (own, connection)) {
                continue;
            }
            let connection = connection.clone();
            found.push(Revoked { netns: *cookie, connection, source: pod.id, policy: denied.policy });
        }
    }
    found
}

fn is_own(pod: &Pod, local: SocketAddr) -> bool {
    let local = addr(local.ip());
    local == pod.v4 || local == pod.v6
}

/// The verdict by which `pod` may not call `remote`, where that is a workload of this node.
fn denial(have: &State, pod: &Pod, remote: SocketAddr) -> Option<Verdict> {
    let dest = have.dests.get(&addr(remote.ip())).filter(|dest| dest.kind == DestKind::Local as u32)?;
    let verdict = verdict(have, pod.id, dest, remote.port());
    let reason = decide::connect(pod, Some(dest), false, remote.port().to_be_bytes(), verdict.as_ref());
    if reason == Reason::NoVerdict {
        return Some(Verdict { policy: 0, allow: 0, reserved: 0 });
    }
    // Refused for another reason than policy is not revoked: a listener that closes does not end what it accepted.
    verdict.filter(|_| reason == Reason::Denied)
}

fn verdict(have: &State, source: u64, dest: &Dest, port: u16) -> Option<Verdict> {
    let exact = VerdictKey { source, group: dest.group, port: port.to_be_bytes(), reserved: [0; 6] };
    have.verdicts.get(&exact).or_else(|| have.verdicts.get(&VerdictKey { port: [0; 2], ..exact })).copied()
}

/// True where this end made the connection, as far as can be told. Whoever is called listens on its port, most often; a
/// caller may come to listen on its own as well, so that where both do, both are taken for callers. Where neither does any
/// longer, only what neither may ask of the other is taken for revoked.
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
