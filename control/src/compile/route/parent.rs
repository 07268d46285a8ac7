//! Finds what a route's parents are: a service, the ports of it that are parsed, and whose requests are meant.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::{Map, ObjectName, Protocol, Service, route::Clients};

use super::{Fault, Place};
use crate::{
    status::condition::{Holds, Wanted},
    world::{
        ServicePort, World,
        route::{Parent, Route},
    },
};

/// What `appProtocol` says of a port whose bytes are HTTP. `https` and `wss` are not: what is inside is nobody's to read.
const HTTP_FAMILY: &[&str] = &["http", "http1", "http2", "h2c", "grpc", "ws", "kubernetes.io/h2c", "kubernetes.io/ws"];

/// Ports that a message lists; the rest are counted.
const LISTED: usize = 5;

/// One parent that is a Service, and what it comes to.
pub(super) struct Found<'w> {
    pub(super) parent: &'w Parent,
    /// The service, where it is there.
    pub(super) service: Option<&'w ObjectName>,
    pub(super) clients: Clients,
    pub(super) ports: BTreeSet<u16>,
    /// Why the route is not attached.
    pub(super) fault: Option<Fault>,
    /// What a person should know though it is.
    pub(super) notes: Vec<String>,
    field: String,
    route: &'w Route,
}

/// The parents of `route` that are Services, in order.
pub(super) fn found<'w>(
    world: &'w World,
    services: &Map<ObjectName, Arc<Service>>,
    route: &'w Route,
) -> Vec<Found<'w>> {
    let parents = route.parents.iter().enumerate();
    let ours = parents.filter(|(_, parent)| parent.is_service());
    ours.map(|(index, parent)| {
        let own = parent.name.namespace == route.name.name.namespace;
        let clients = if own { Clients::All } else { Clients::Namespace(route.name.name.namespace.clone()) };
        let mut found = Found {
            parent,
            service: None,
            clients,
            ports: BTreeSet::new(),
            fault: None,
            notes: vec![],
            field: format!("spec.parentRefs[{index}]"),
            route,
        };
        found.look(world, services);
        found
    })
    .collect()
}

impl Found<'_> {
    /// The service's ports that it is attached to, and for whom.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let service = self.service.cloned();
        self.ports.iter().filter_map(move |port| Some((service.clone()?, *port, self.clients.clone())))
    }

    /// Leaves the ports that a more special kind of route has.
    pub(super) fn give_way(&mut self, taken: &BTreeSet<Place>) {
        let Some(service) = self.service.cloned() else { return };
        let had = self.ports.len();
        self.ports.retain(|port| !taken.contains(&(service.clone(), *port, self.clients.clone())));
        if self.ports.len() == had {
            return;
        }
        let what = format!("a GRPCRoute has Service {service}'s port, and the two kinds are not merged");
        if self.ports.is_empty() {
            self.refuse("Conflicted", what, "write the rules as one kind of route, or name different ports");
        } else {
            self.notes.push(what);
        }
    }

    fn refuse(&mut self, reason: &'static str, problem: String, mend: &'static str) {
        let (route, field) = (self.route.name.clone(), self.field.clone());
        self.fault = Some(Fault { route, field, problem, mend, reason });
    }
}

impl<'w> Found<'w> {
    fn look(&mut self, world: &'w World, services: &Map<ObjectName, Arc<Service>>) {
        let name = &self.parent.name;
        let Some(service) = world.objects.services.get(name).filter(|_| services.contains_key(name)) else {
            let problem = format!("there is no Service {name}");
            return self.refuse("NoMatchingParent", problem, "add the Service, or correct the name or namespace");
        };
        self.service = Some(&service.name);
        if service.addresses.is_empty() {
            let problem = format!("Service {name} is headless: it has no address that requests could be sent to");
            return self.refuse("NoMatchingParent", problem, "give the Service an address, or route another one");
        }
        let (port, section) = (self.parent.port, self.parent.section.as_deref());
        let is_named = |one: &&ServicePort| {
            one.protocol == Protocol::Tcp
                && port.is_none_or(|port| port == one.port)
                && section.is_none_or(|section| *section == *one.name)
        };
        let named: Vec<&ServicePort> = service.ports.iter().filter(is_named).collect();
        if named.is_empty() {
            let problem = format!("Service {name} has no such TCP port");
            return self.refuse("NoMatchingParent", problem, "correct port and sectionName, or leave them out");
        }
        if port.is_some() || section.is_some() {
            self.ports = named.iter().map(|one| one.port).collect();
            return;
        }
        let (parsed, left): (Vec<&ServicePort>, Vec<&ServicePort>) = named.into_iter().partition(|one| is_http(one));
        self.ports = parsed.iter().map(|one| one.port).collect();
        let left = listed(&left);
        if self.ports.is_empty() {
            let problem = format!("no port of Service {name} says that it is HTTP: {left}");
            let mend = "name the port in the parentRef, or give it an appProtocol such as http or grpc";
            self.refuse("NoMatchingParent", problem, mend);
        } else if !left.is_empty() {
            self.notes.push(format!("not parsed, as neither appProtocol nor name says that it is HTTP: {left}"));
        }
    }
}

/// Whether a port that no route names is parsed.
fn is_http(port: &ServicePort) -> bool {
    match &port.speaks {
        Some(speaks) => HTTP_FAMILY.contains(&&*speaks.to_ascii_lowercase()),
        None => (port.name.starts_with("http") && !port.name.starts_with("https")) || port.name.starts_with("grpc"),
    }
}

fn listed(ports: &[&ServicePort]) -> String {
    let text = |one: &&ServicePort| match &*one.name {
        "" => one.port.to_string(),
        name => format!("{} ({name})", one.port),
    };
    let mut list: Vec<String> = ports.iter().take(LISTED).map(text).collect();
    if ports.len() > LISTED {
        list.push(format!("{} more", ports.len() - LISTED));
    }
    list.join(", ")
}

/// `Accepted`, for one parent.
pub(super) fn accepted(fault: Option<&Fault>, notes: &[String]) -> Wanted {
    let (holds, reason, message) = match fault {
        None if notes.is_empty() => (Holds::True, "Accepted", "it is attached".to_owned()),
        None => (Holds::True, "Accepted", format!("it is attached; {}", notes.join("; "))),
        Some(fault) => (Holds::False, fault.reason, fault.to_string()),
    };
    Wanted { name: "Accepted", holds, reason, message }
}
