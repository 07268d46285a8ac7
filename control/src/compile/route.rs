//! Binds routes to the ports of services, follows what they name, and says of each parent what became of it.
//!
//! A route of the service's own namespace is its producer's, for everybody's requests; any other is a consumer's, for those of its
//! own namespace's pods, and counts there in place of the producer's. On one port and for the same callers GRPCRoutes go before
//! HTTPRoutes, and the two are not merged.

mod parent;
mod refs;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{
    Map, ObjectName, RouteKind, RouteName, Routes, Service,
    route::{Bound, Clients},
};

use parent::Found;

use super::{Notes, backend};
use crate::{
    diagnostic::Kind,
    status::condition::Wanted,
    world::{
        World,
        route::{Parent, Route},
    },
};

/// What became of one of a route's parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The parent, as it is written.
    pub parent: Parent,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Wanted>,
}

/// By route, what became of each parent that is the mesh's to say; a Gateway is not.
pub type Standings = BTreeMap<RouteName, Vec<Standing>>;

/// The routes of each service.
pub(super) fn routes(
    world: &World,
    services: &Map<ObjectName, Arc<Service>>,
    notes: &mut Notes,
) -> Map<ObjectName, Arc<Routes>> {
    let found = attach(world, services);
    for fault in &found.faults {
        notes.add(kind(fault.route.kind), &fault.route.name, (&fault.field, fault.problem.clone(), fault.mend));
    }
    let routes = found.bound.into_iter().map(|(service, bound)| {
        let routes = Routes { service: service.clone(), bound };
        (service, Arc::new(routes))
    });
    routes.collect()
}

/// What should stand on the routes' statuses.
pub fn standings(world: &World, services: &Map<ObjectName, Arc<Service>>) -> Standings {
    attach(world, services).standings
}

/// The kind of object that a kind of route is.
pub fn kind(kind: RouteKind) -> Kind {
    match kind {
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Grpc => Kind::GrpcRoute,
    }
}

/// What was found of all routes.
#[derive(Default)]
struct Attached {
    bound: BTreeMap<ObjectName, Vec<Bound>>,
    standings: Standings,
    faults: Vec<Fault>,
}

/// One fault of a route that is in force otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    route: RouteName,
    field: String,
    problem: String,
    mend: &'static str,
    /// The condition's reason.
    reason: &'static str,
}

/// A service's port, and for whom.
type Place = (ObjectName, u16, Clients);

fn attach(world: &World, services: &Map<ObjectName, Arc<Service>>) -> Attached {
    let mut routes: Vec<&Route> = world.objects.routes.values().map(|route| &**route).collect();
    routes.sort_by_key(|route| (&route.age, &route.name.name, route.name.kind));
    let found: Vec<Vec<Found<'_>>> = routes.iter().map(|route| parent::found(world, services, route)).collect();
    let of_grpc: BTreeSet<Place> = routes
        .iter()
        .zip(&found)
        .filter(|(route, _)| route.name.kind == RouteKind::Grpc)
        .flat_map(|(_, found)| found.iter().flat_map(Found::places))
        .collect();
    let grants = refs::Grants::new(world);
    let sessions = backend::sessions(world);
    let mut attached = Attached::default();
    for (route, parents) in routes.into_iter().zip(found) {
        for mut found in parents {
            if route.name.kind == RouteKind::Http {
                found.give_way(&of_grpc);
            }
            let mut resolver = refs::Resolver::new(world, (&grants, &sessions, route), found.service);
            let rules = resolver.rules();
            let faults = resolver.faults;
            let standing = Standing {
                parent: found.parent.clone(),
                conditions: vec![parent::accepted(found.fault.as_ref(), &found.notes), refs::resolved(&faults)],
            };
            attached.standings.entry(route.name.clone()).or_default().push(standing);
            attached.faults.extend(found.fault.into_iter().chain(faults));
            if let (Some(service), false) = (found.service, found.ports.is_empty()) {
                attached.bound.entry(service.clone()).or_default().push(Bound {
                    route: route.name.clone(),
                    clients: found.clients,
                    ports: found.ports,
                    hosts: route.hosts.clone(),
                    rules,
                });
            }
        }
    }
    attached
}
