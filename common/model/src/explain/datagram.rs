//! Says what happens to a datagram, and why: who judges, and by what, is `model::datagram`'s and `authorize`'s.

use std::net::SocketAddr;

use super::{Answer, Explanation, Outcome, Route, Way, left_out, outcome, party, verdict, words};
use crate::{
    Destination, Ejected, Membership, Mesh, Protocol, Verdict, Workload,
    datagram::{self, Stranger},
    resolve::{self, Hop, resolve_by},
};

/// What happens to a datagram that `from` sends to `to`, or to a connect of such a socket, and why.
pub fn explain_datagram(mesh: &Mesh, from: &Workload, to: SocketAddr) -> Explanation {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let asked = (to, Protocol::Udp);
    let (service, routes, left_out) = match resolve_by(mesh, &from.node, asked, &Ejected::default()) {
        Destination::Service { name, .. } if !balances(mesh, from, to) => (Some(name), vec![], vec![]),
        Destination::Service { name, backends } => {
            let total: f64 = backends.iter().map(|b| f64::from(b.weight)).sum();
            let left_out = left_out(mesh, from, asked, &Ejected::default());
            let share = |weight| f64::from(weight) / total.max(1.0);
            let routes = backends.into_iter().map(|b| route(mesh, from, b.address, b.hop, share(b.weight))).collect();
            (Some(name), routes, left_out)
        }
        Destination::Workload(hop) => (None, vec![route(mesh, from, to, hop, 1.0)], vec![]),
        Destination::Untouched => (None, vec![route(mesh, from, to, Hop::Plain, 1.0)], vec![]),
    };
    let outcome = match service {
        Some(_) if !balances(mesh, from, to) => Outcome::Untouched,
        _ => outcome(from, service.as_ref(), &routes),
    };
    let mut explanation = Explanation {
        generation: mesh.snapshot.generation,
        protocol: Protocol::Udp,
        caller: party(from),
        asked: to,
        service,
        routes,
        left_out,
        outcome,
        steps: vec![],
    };
    explanation.steps = words::steps(&explanation);
    explanation
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
            let answer = verdict(mesh, from, Some(from.identity.clone()), &to, address);
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
