//! Finds connected UDP sockets whose endpoint has left the service that they were connected by. Pure, as its parent is.
//!
//! By TCP such a connection is kept: its server is there, and finishes it. By UDP nothing finishes: who asked a service's address
//! would send to one of its former endpoints for as long as that pod lives. An endpoint that is not ready, told to go, or of weight
//! 0 has not left: see decision 0007.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use millrace_model::{Endpoint, Endpoints, Map, Mesh, ObjectName, Protocol, map::Differs};

use super::{Revoked, Seen, Side, Why, is_own};
use crate::kernel::State;

/// True where some endpoint of a service by UDP, or the service, is in `before` and not in `after`. Of what did not change nothing is
/// looked at.
pub fn has_left(before: &Mesh, after: &Mesh) -> bool {
    // What was so before this agent began it has not seen.
    if before.snapshot.generation == 0 {
        return true;
    }
    let services = before.snapshot.services.differences(&after.snapshot.services);
    let is_gone = services.iter().any(|Differs { key: _, before, now }| match (before, now) {
        (None, _) => false,
        (Some(was), Some(is)) => {
            let stays = |port| is.ports.contains(port);
            let of_udp = || was.ports.iter().filter(|port| port.protocol == Protocol::Udp);
            !of_udp().all(stays) || of_udp().next().is_some() && !was.addresses.iter().all(|a| is.addresses.contains(a))
        }
        (Some(was), None) => was.ports.iter().any(|port| port.protocol == Protocol::Udp),
    });
    is_gone || has_shrunk(&before.snapshot.endpoints, &after.snapshot.endpoints)
}

fn has_shrunk(before: &Map<ObjectName, Arc<Endpoints>>, after: &Map<ObjectName, Arc<Endpoints>>) -> bool {
    before.differences(after).iter().any(|Differs { key: _, before, now }| {
        let stays = |(asked, target)| now.is_some_and(|is| is.endpoints.iter().any(|one| serves(one, asked, target)));
        !before.iter().flat_map(|was| &was.endpoints).flat_map(targets).all(stays)
    })
}

/// What an endpoint serves by UDP: the service's port, and its own address and port.
fn targets(endpoint: &Endpoint) -> impl Iterator<Item = (u16, SocketAddr)> {
    let of_udp = endpoint.ports.iter().filter(|((_, protocol), _)| *protocol == Protocol::Udp);
    of_udp.map(|((asked, _), target)| (*asked, SocketAddr::new(endpoint.address, *target)))
}

fn serves(endpoint: &Endpoint, asked: u16, target: SocketAddr) -> bool {
    endpoint.address == target.ip() && endpoint.ports.get(&(asked, Protocol::Udp)) == Some(&target.port())
}

/// The sockets among `seen`, by netns cookie, that are connected by a service to who is none of its endpoints.
pub fn left(have: &State, seen: &BTreeMap<u64, Seen>, mesh: &Mesh) -> Vec<Revoked> {
    let mut found = Vec::new();
    for (netns, seen) in seen {
        let Some(pod) = have.pods.get(netns) else { continue };
        for connection in seen.datagrams.iter().filter(|one| is_own(pod, one.local)) {
            let Some(by) = seen.by_service.get(&connection.cookie()) else { continue };
            // It may be connected to another since.
            if by.backend != connection.remote || is_endpoint(mesh, by.service, by.backend) {
                continue;
            }
            let (source, end) = (pod.id, Side::Caller);
            found.push(Revoked { netns: *netns, connection: connection.clone(), source, why: Why::Left, end });
        }
    }
    found
}

fn is_endpoint(mesh: &Mesh, service: SocketAddr, backend: SocketAddr) -> bool {
    let found = mesh.service_at(service.ip(), service.port(), Protocol::Udp);
    // Of whom this node was told nothing it can't say that they left.
    let Some(all) = found.map(|found| mesh.endpoints_of(&found.name)) else { return false };
    all.is_none_or(|all| all.endpoints.iter().any(|one| serves(one, service.port(), backend)))
}

#[cfg(test)]
mod tests;
