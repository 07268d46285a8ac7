//! Says what happens to a datagram, and why: who judges, and by what, is `model::datagram`'s and `authorize`'s.

use std::net::SocketAddr;

use super::{Answer, Explanation, Outcome, Route, Way, followed, outcome, party, told, verdict};
use crate::{
    Ejected, Membership, Mesh, Protocol, Verdict, Workload,
    datagram::{self, Stranger},
    resolve::{self, Hop},
};

/// What happens to a datagram that `from` sends to `to`, or to a connect of such a socket, and why.
pub fn explain_datagram(mesh: &Mesh, from: &Workload, to: SocketAddr) -> Explanation {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let asked = (to, Protocol::Udp);
    let is_opaque = !balances(mesh, from, to);
    let found = followed(mesh, from, (asked, &Ejected::default()), is_opaque, route);
    let outcome = match &found.0 {
        Some(_) if is_opaque => Outcome::Untouched,
        _ => outcome(from, found.0.as_ref(), &found.1),
    };
    told(mesh, from, asked, found, outcome)
}

/// True where the mesh picks an endpoint for this caller: not for who runs in its node's network or is none of the mesh's, nor
/// behind a service whose endpoints are all outside.
fn balances(mesh: &Mesh, from: &Workload, to: SocketAddr) -> bool {
    from.membership.is_captured()
        && mesh.service_at(to.ip(), to.port(), Protocol::Udp).is_some_and(|service| datagram::is_carried(mesh, service))
}

/// One way, in the order in which the kernel asks.
fn route(mesh: &Mesh, from: &Workload, address: SocketAddr, hop: Hop, share: f64) -> Route {
    let (workload, way, answer) = match hop {
        Hop::Plain => (mesh.workload_at(address.ip()).cloned(), Way::Plain, Answer::Unasked),
        Hop::Local(to) | Hop::Pending(to) | Hop::Tunnel(resolve::Peer { workload: to, .. })
            if matches!(from.membership, Membership::Outside | Membership::Host) =>
        {
            let answer = stranger(mesh, from, &to, address);
            (Some(to), Way::Plain, answer)
        }
        Hop::Local(to) | Hop::Pending(to) if to.name == from.name => (Some(to), Way::Own, Answer::Unasked),
        Hop::Local(to) => {
            let answer = verdict(mesh, from, Some(from.identity.clone()), &to, (address, Protocol::Udp));
            (Some(to), Way::Direct, answer)
        }
        Hop::Tunnel(resolve::Peer { workload: to, .. }) => {
            let answer = stranger(mesh, from, &to, address);
            (Some(to), Way::Clear, answer)
        }
        Hop::Pending(to) => {
            let way = if to.node == from.node { Way::Direct } else { Way::Clear };
            (Some(to), way, Answer::NotEnrolled)
        }
    };
    Route { address, share, workload: workload.as_deref().map(party), way, answer }
}

/// What is said to a caller whom nobody vouches for.
fn stranger(mesh: &Mesh, from: &Workload, to: &Workload, address: SocketAddr) -> Answer {
    let own = from.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
    let Some(own) = own.or(from.addresses.first()) else { return Answer::NotEnrolled };
    match datagram::stranger(mesh, to, *own, address.port()) {
        Stranger::Refused => Answer::NoDatagrams,
        Stranger::Judged(Verdict::Allow(ground)) => Answer::Allowed(ground),
        Stranger::Judged(Verdict::Deny(ground)) => Answer::NoIdentity(ground),
    }
}
