//! Judges connected UDP sockets again: no program is asked about what they send and receive, once they are connected.
//!
//! A socket asks whom it is connected to, save where programs remember that it was asked from there: then it answers, and is judged
//! by who asks. Pure, as its parent is. Nothing is noted on such a socket that could be listed; who is gone is told by addresses
//! that changed hands.

use std::collections::{BTreeMap, BTreeSet};

use millrace_abi::{
    Addr, Dest, DestKind, Pod, PodKind, Port, Reason, Verdict,
    udp::{self, AskKey, STRANGER_FIXED_BITS, Stranger, StrangerKey},
};

use super::{Connection, Revoked, Seen, Side, Why, is_own, verdict_by};
use crate::kernel::{State, plan::addr};

/// True where somebody of the mesh may refuse datagrams, so that a socket could be revoked.
pub fn may_revoke(have: &State) -> bool {
    have.dests.values().any(|dest| dest.group != 0 || udp::takes_no_strangers(dest))
}

/// The addresses that are a workload's, and are to be nobody's or another's.
pub fn gone(have: &State, want: &State) -> BTreeSet<Addr> {
    let stays = |(addr, dest): &(&Addr, &Dest)| want.dests.get(*addr).is_some_and(|next| next.id == dest.id);
    have.dests.iter().filter(|found| !stays(found)).map(|(addr, _)| *addr).collect()
}

/// The connected sockets among `seen`, by netns cookie, that should not be there if they were connected now, or are connected to
/// an address in `gone`. `was_asked` says whether programs remember this ask.
pub fn revoked(
    have: &State,
    seen: &BTreeMap<u64, Seen>,
    gone: &BTreeSet<Addr>,
    was_asked: impl Fn(&AskKey) -> bool,
) -> Vec<Revoked> {
    let mut found = Vec::new();
    for (cookie, pod) in have.pods.iter().filter(|(_, pod)| pod.kind == PodKind::Mesh as u32) {
        let own = seen.get(cookie).into_iter().flat_map(|seen| &seen.datagrams);
        for connection in own.filter(|c| is_own(pod, c.local)) {
            let why = if gone.contains(&addr(connection.remote.ip())) {
                Some(Why::Gone)
            } else {
                judged(have, pod, connection, &was_asked).map(Why::Denied)
            };
            let Some(why) = why else { continue };
            // Its own end, whoever asked: the other may be on another node, which closes what is there.
            found.push(Revoked {
                netns: *cookie,
                connection: connection.clone(),
                source: pod.id,
                why,
                end: Side::Caller,
            });
        }
    }
    found
}

/// The policy by which it would be refused; 0: none allows it, or encryption does not.
fn judged(have: &State, pod: &Pod, connection: &Connection, was_asked: impl Fn(&AskKey) -> bool) -> Option<u64> {
    let (own, other) = (addr(connection.local.ip()), addr(connection.remote.ip()));
    let [own_port, other_port] = [connection.local, connection.remote].map(|end| end.port().to_be_bytes());
    let ask = AskKey { asker: own, asked: other, asker_port: own_port, asked_port: other_port };
    let (verdict, reason) = if was_asked(&ask.reversed()) {
        let (to, from) = (have.dests.get(&own)?, have.dests.get(&other));
        let verdict = match from.filter(|from| is_local(from)) {
            Some(from) => verdict_by(have, from.id, to, (connection.local.port(), udp::of_datagrams(to))),
            None => stranger(have, to, own_port, &other),
        };
        (verdict, udp::arrival(Some(to), from, verdict.as_ref()))
    } else {
        let to = have.dests.get(&other)?;
        let verdict = match is_local(to) {
            true => verdict_by(have, pod.id, to, (connection.remote.port(), udp::of_datagrams(to))),
            false => stranger(have, to, other_port, &own),
        };
        (verdict, udp::send(pod.id, Some(to), true, verdict.as_ref()))
    };
    let is_refused = matches!(
        reason,
        Reason::Denied
            | Reason::NoVerdict
            | Reason::UdpBetweenNodes
            | Reason::UdpNoIdentity
            | Reason::InUdpDenied
            | Reason::InUdpBetweenNodes
            | Reason::InUdpNoIdentity
    );
    is_refused.then(|| verdict.map_or(0, |verdict| verdict.policy))
}

fn is_local(dest: &Dest) -> bool {
    dest.kind == DestKind::Local as u32
}

/// What this address gets of a group without identity, as the kernel's trie answers: by the longest prefix of those for the port,
/// else of those for every port.
fn stranger(have: &State, dest: &Dest, port: Port, from: &Addr) -> Option<Verdict> {
    let of = |port: Port| {
        (STRANGER_FIXED_BITS..=STRANGER_FIXED_BITS + 128).rev().find_map(|prefix_len| {
            let addr = masked(from, prefix_len - STRANGER_FIXED_BITS);
            let stranger = Stranger { group: dest.group.to_be_bytes(), port, addr, reserved: [0; 2] };
            have.strangers.get(&StrangerKey { prefix_len, stranger }).copied()
        })
    };
    of(port).or_else(|| of([0; 2]))
}

/// The first bits of an address, and zeroes.
fn masked(addr: &Addr, bits: u32) -> Addr {
    let all = u128::from_be_bytes(*addr);
    let kept = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (all & kept).to_be_bytes()
}

#[cfg(test)]
mod tests;
