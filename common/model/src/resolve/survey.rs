//! Says of each endpoint of a service whether clients of one node are given it, and why not.
//!
//! The order is kube-proxy's: ready ones, and where there are none those that leave; of them those that don't fail; then those that
//! hints name for the client's node, else for its zone, else all. Hints count only where every endpoint that could be given
//! has some, so that a half-written set of them starves nobody. Under `internalTrafficPolicy: Local` no hint is asked.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use super::{Backend, Hop, hop};
use crate::{Ejected, Endpoint, Mesh, Protocol, Reach, Service, explain::Absence, service::Readiness};

/// What an endpoint is to clients of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Given its share.
    Chosen(Backend),
    /// Sound, but others are nearer: for who has tried those.
    Spare(Backend),
    /// Given nothing.
    LeftOut(Absence),
}

/// Every endpoint of `service`, asked for at `address` on `node`, with what it is there, in the endpoints' order.
pub fn survey<'m>(
    mesh: &'m Mesh,
    node: &str,
    service: &Service,
    address: SocketAddr,
    ejected: &Ejected,
) -> Vec<(&'m Endpoint, Standing)> {
    survey_by(mesh, node, service, (address, Protocol::Tcp), ejected)
}

/// The same, for what is sent by this protocol.
pub fn survey_by<'m>(
    mesh: &'m Mesh,
    node: &str,
    service: &Service,
    asked: (SocketAddr, Protocol),
    ejected: &Ejected,
) -> Vec<(&'m Endpoint, Standing)> {
    let endpoints = mesh.endpoints_of(&service.name).into_iter().flat_map(|e| &e.endpoints);
    let mut all: Vec<(&Endpoint, Standing)> = endpoints
        .map(|endpoint| {
            let standing = match candidate(mesh, node, service.traffic.reach, (endpoint, asked)) {
                Ok(backend) => Standing::Chosen(backend),
                Err(why) => Standing::LeftOut(why),
            };
            (endpoint, standing)
        })
        .collect();
    let is_ready = |(e, s): &(&Endpoint, Standing)| is_chosen(s) && e.readiness == Readiness::Ready;
    if all.iter().any(is_ready) {
        for (endpoint, standing) in &mut all {
            if is_chosen(standing) && endpoint.readiness == Readiness::Leaving {
                *standing = Standing::LeftOut(Absence::Leaving);
            }
        }
    }
    leave_out(&mut all, service, asked.0, ejected);
    if service.traffic.reach == Reach::Cluster {
        prefer(mesh, node, &mut all);
    }
    all
}

/// Leaves out those that fail, unless they are all there is: who decided that knew of others, which went since.
fn leave_out(all: &mut [(&Endpoint, Standing)], service: &Service, address: SocketAddr, ejected: &Ejected) {
    let Some(ejected) = ejected.behind(&service.name, address) else { return };
    let fails = |standing: &Standing| match standing {
        Standing::Chosen(backend) => ejected.contains(&backend.address),
        Standing::Spare(_) | Standing::LeftOut(_) => false,
    };
    if all.iter().any(|(_, standing)| is_chosen(standing) && !fails(standing)) {
        for (_, standing) in all.iter_mut().filter(|(_, standing)| fails(standing)) {
            *standing = Standing::LeftOut(Absence::Ejected);
        }
    }
}

/// Turns those that are farther than need be to spares.
fn prefer(mesh: &Mesh, node: &str, all: &mut [(&Endpoint, Standing)]) {
    let zone = mesh.zone_of(node);
    let for_node = |e: &Endpoint| e.place.for_nodes.iter().any(|near| **near == *node);
    let for_zone = |e: &Endpoint| zone.is_some_and(|zone| e.place.for_zones.contains(zone));
    if is_told(all, |e| &e.place.for_nodes, for_node) {
        keep(all, for_node);
    } else if is_told(all, |e| &e.place.for_zones, for_zone) {
        keep(all, for_zone);
    }
}

/// True where every endpoint that is chosen has such a hint, and one of them is near.
fn is_told(
    all: &[(&Endpoint, Standing)],
    hints: impl Fn(&Endpoint) -> &BTreeSet<Arc<str>>,
    is_near: impl Fn(&Endpoint) -> bool,
) -> bool {
    let chosen = || all.iter().filter(|(_, standing)| is_chosen(standing)).map(|(endpoint, _)| *endpoint);
    chosen().all(|endpoint| !hints(endpoint).is_empty()) && chosen().any(is_near)
}

fn keep(all: &mut [(&Endpoint, Standing)], is_near: impl Fn(&Endpoint) -> bool) {
    for (endpoint, standing) in all {
        if let (Standing::Chosen(backend), false) = (&*standing, is_near(endpoint)) {
            *standing = Standing::Spare(backend.clone());
        }
    }
}

fn is_chosen(standing: &Standing) -> bool {
    matches!(standing, Standing::Chosen(_))
}

/// The endpoint as a backend, before it is compared with others.
fn candidate(
    mesh: &Mesh,
    node: &str,
    reach: Reach,
    (endpoint, (asked, protocol)): (&Endpoint, (SocketAddr, Protocol)),
) -> Result<Backend, Absence> {
    let Endpoint { address, workload: _, ports, weight, readiness, place } = endpoint;
    if address.is_ipv4() != asked.is_ipv4() {
        return Err(Absence::OtherFamily);
    }
    let target = *ports.get(&(asked.port(), protocol)).ok_or(Absence::NoSuchPort)?;
    if *weight == 0 {
        return Err(Absence::NoWeight);
    }
    match readiness {
        Readiness::Ready | Readiness::Leaving => {}
        Readiness::Unready => return Err(Absence::Unready),
    }
    if reach == Reach::Local && place.node.as_deref() != Some(node) {
        return Err(Absence::OtherNode);
    }
    let address = SocketAddr::new(*address, target);
    match hop(mesh, node, address) {
        Hop::Pending(_) => Err(Absence::NotEnrolled),
        hop @ (Hop::Plain | Hop::Local(_) | Hop::Tunnel(_)) => Ok(Backend { address, weight: *weight, hop }),
    }
}

#[cfg(test)]
mod tests;
