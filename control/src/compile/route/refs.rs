//! Follows what a route's rules name: whether it is there, whether it may be named from here, and what it speaks.

use std::{collections::BTreeMap, fmt};

use millrace_model::{
    ObjectName, Protocol, RouteKind,
    route::{Filter, Mirror, RouteBackend, RouteRule, Speaks, Target, Unresolved},
};

use super::{
    Fault, kind,
    session::{self, Sessions},
};
use crate::{
    status::condition::{Holds, Wanted},
    world::{
        ServicePort, World,
        route::{Backend, GATEWAY_GROUP, Grant, GrantFrom, GrantTo, Reference, Route, RouteFilter, Rule},
    },
};

/// Faults that a message lists; the rest are counted.
const LISTED: usize = 5;

/// ReferenceGrants by the namespace they stand in.
pub(super) struct Grants<'w>(BTreeMap<&'w str, Vec<&'w Grant>>);

impl<'w> Grants<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut grants: BTreeMap<&str, Vec<&Grant>> = BTreeMap::new();
        for grant in world.objects.grants.values() {
            grants.entry(&grant.name.namespace).or_default().push(grant);
        }
        Self(grants)
    }

    /// Whether this route may name the Service.
    fn allow(&self, route: &Route, service: &ObjectName) -> bool {
        let from = (GATEWAY_GROUP, kind(route.name.kind).name(), &*route.name.name.namespace);
        let may_name = |one: &GrantFrom| (&*one.group, &*one.kind, &*one.namespace) == from;
        let is_meant = |one: &GrantTo| {
            (&*one.group, &*one.kind) == ("", "Service") && one.name.as_ref().is_none_or(|name| *name == service.name)
        };
        let of = |grant: &&Grant| grant.from.iter().any(may_name) && grant.to.iter().any(is_meant);
        self.0.get(&*service.namespace).into_iter().flatten().any(of)
    }
}

/// Follows the references of one route, attached to one service.
pub(super) struct Resolver<'w> {
    world: &'w World,
    grants: &'w Grants<'w>,
    sessions: &'w Sessions<'w>,
    route: &'w Route,
    own: Option<&'w ObjectName>,
    /// What leads nowhere.
    pub(super) faults: Vec<Fault>,
}

impl<'w> Resolver<'w> {
    pub(super) fn new(
        world: &'w World,
        (grants, sessions, route): (&'w Grants<'w>, &'w Sessions<'w>, &'w Route),
        own: Option<&'w ObjectName>,
    ) -> Self {
        Self { world, grants, sessions, route, own, faults: vec![] }
    }

    /// The rules, with every reference followed.
    pub(super) fn rules(&mut self) -> Vec<RouteRule> {
        self.route
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| self.rule((index, rule), &format!("spec.rules[{index}]")))
            .collect()
    }

    fn rule(&mut self, (at, rule): (usize, &Rule), field: &str) -> RouteRule {
        let Rule { name, matches, filters, backends, timeouts, retry, session: _ } = rule;
        let backends = backends.iter().enumerate().map(|(index, Backend { weight, to, filters })| {
            let field = format!("{field}.backendRefs[{index}]");
            let to = self.follow(to, &field);
            let session = session::of(self.sessions, (&self.route.name, at, rule), &to);
            RouteBackend { weight: *weight, to, filters: self.filters(filters, &field), session }
        });
        let backends = backends.collect();
        RouteRule {
            name: name.clone(),
            matches: matches.clone(),
            filters: self.filters(filters, field),
            backends,
            timeouts: *timeouts,
            retry: retry.clone(),
        }
    }

    fn filters(&mut self, filters: &[RouteFilter], field: &str) -> Vec<Filter> {
        let follow = |(index, filter): (usize, &RouteFilter)| match filter {
            RouteFilter::Whole(filter) => filter.clone(),
            RouteFilter::Mirror(to, share) => {
                let to = self.follow(to, &format!("{field}.filters[{index}].requestMirror.backendRef"));
                Filter::Mirror(Mirror { to, share: *share })
            }
            RouteFilter::Fault(name) => match self.world.objects.faults.get(name) {
                Some(fault) => Filter::Fault(fault.injects.clone()),
                None => {
                    let problem = format!("there is no HTTPFault {name}: requests that reach this filter get a 500");
                    let field = format!("{field}.filters[{index}].extensionRef");
                    self.note("BackendNotFound", &field, problem, "add the HTTPFault, or correct the name");
                    Filter::Refuse(format!("there is no HTTPFault {name}").into())
                }
            },
        };
        filters.iter().enumerate().map(follow).collect()
    }

    fn follow(&mut self, to: &Reference, field: &str) -> Target {
        let Reference { group, kind, name, port } = to;
        if (&**group, &**kind) != ("", "Service") {
            let problem = format!("a {kind:?} of group {group:?} takes no requests");
            return self.lost(Unresolved::Kind, field, problem, "name a Service");
        }
        let is_own = self.own == Some(name);
        if name.namespace != self.route.name.name.namespace && !is_own && !self.grants.allow(self.route, name) {
            let problem = format!("no ReferenceGrant in namespace {} lets it name Service {name}", name.namespace);
            return self.lost(Unresolved::Ungranted, field, problem, "have one written there, or name another Service");
        }
        let Some(service) = self.world.objects.services.get(name) else {
            let problem = format!("there is no Service {name}");
            return self.lost(Unresolved::Missing, field, problem, "add the Service, or correct the name");
        };
        let found = service.ports.iter().find(|one| one.protocol == Protocol::Tcp && Some(one.port) == *port);
        let Some(found) = found else {
            let problem = format!("Service {name} has no TCP port {}", port.unwrap_or_default());
            return self.lost(Unresolved::Missing, field, problem, "correct the port");
        };
        match speaks(found, self.route.name.kind) {
            Some(speaks) => Target::Service { name: name.clone(), port: found.port, speaks },
            None => {
                let said = found.speaks.as_deref().unwrap_or_default();
                let problem =
                    format!("port {} of Service {name} speaks {said:?}, which requests can't be sent in", found.port);
                self.lost(
                    Unresolved::Protocol,
                    field,
                    problem,
                    "name a port of http, kubernetes.io/h2c, kubernetes.io/ws or grpc",
                )
            }
        }
    }

    fn lost(&mut self, why: Unresolved, field: &str, problem: String, mend: &'static str) -> Target {
        let reason = match why {
            Unresolved::Kind => "InvalidKind",
            Unresolved::Missing => "BackendNotFound",
            Unresolved::Ungranted => "RefNotPermitted",
            Unresolved::Protocol => "UnsupportedProtocol",
        };
        self.note(reason, field, problem, mend);
        Target::Invalid(why)
    }

    fn note(&mut self, reason: &'static str, field: &str, problem: String, mend: &'static str) {
        self.faults.push(Fault { route: self.route.name.clone(), field: field.to_owned(), problem, mend, reason });
    }
}

/// What a port speaks, by its `appProtocol`, else its name, else the kind of route; None where requests can't be sent in it.
fn speaks(port: &ServicePort, kind: RouteKind) -> Option<Speaks> {
    match port.speaks.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("http" | "http1" | "ws" | "kubernetes.io/ws") => match kind {
            // gRPC is HTTP/2 whatever the port says of itself.
            RouteKind::Grpc => Some(Speaks::Http2),
            RouteKind::Http => Some(Speaks::Http1),
        },
        Some("h2c" | "http2" | "grpc" | "kubernetes.io/h2c") => Some(Speaks::Http2),
        Some(_) => None,
        None if kind == RouteKind::Grpc || port.name.starts_with("grpc") || port.name.starts_with("http2") => {
            Some(Speaks::Http2)
        }
        None => Some(Speaks::Http1),
    }
}

/// `ResolvedRefs`, for one parent.
pub(super) fn resolved(faults: &[Fault]) -> Wanted {
    let Some(first) = faults.first() else {
        return Wanted {
            name: "ResolvedRefs",
            holds: Holds::True,
            reason: "ResolvedRefs",
            message: "every reference leads to somebody".to_owned(),
        };
    };
    let mut message: Vec<String> = faults.iter().take(LISTED).map(ToString::to_string).collect();
    if faults.len() > LISTED {
        message.push(format!("And {} more.", faults.len() - LISTED));
    }
    message.push("What they would have got is answered with 500.".to_owned());
    Wanted { name: "ResolvedRefs", holds: Holds::False, reason: first.reason, message: message.join(" ") }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route: _, field, problem, mend, reason: _ } = self;
        write!(f, "{field}: {problem}; {mend}.")
    }
}
