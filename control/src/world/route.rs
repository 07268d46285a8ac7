//! Holds routes as they are written: everything checked that a route can be checked for by itself, its references not followed yet.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::{
    ObjectName, Retry, Session,
    route::{Filter, Host, InjectedFault, RequestMatch, RouteName, Share, Timeouts},
};

use super::Made;

/// The group of Gateway API's kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// An HTTPRoute or a GRPCRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its kind, namespace and name.
    pub name: RouteName,
    /// Of two that quarrel, the lower has its way.
    pub age: Age,
    /// What it asks to be attached to, in order.
    pub parents: Vec<Parent>,
    /// The hosts that it speaks of; none: all.
    pub hosts: Vec<Host>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// When an object was made, and where it stands: files have no times, but an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// The time, where there is one.
    pub made: Made,
    /// File and document, where there is no time.
    pub place: Option<(Arc<str>, usize)>,
}

/// What a route asks to be attached to, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Empty for Kubernetes' own.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Whether the namespace was written.
    pub namespace: Written,
    /// The port's name.
    pub section: Option<Arc<str>>,
    /// The port.
    pub port: Option<u16>,
}

impl Parent {
    /// True for a Service: anything else is another controller's to speak of.
    pub fn is_service(&self) -> bool {
        (&*self.group, &*self.kind) == ("", "Service")
    }
}

/// Whether something was written, or taken from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was.
    There,
    /// It was left out.
    Not,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Any of these; never empty.
    pub matches: Vec<RequestMatch>,
    /// What is done to requests.
    pub filters: Vec<RouteFilter>,
    /// Who takes them.
    pub backends: Vec<Backend>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// When they are sent again.
    pub retry: Option<Retry>,
    /// How a client's are kept with one endpoint, whichever backend it is of. Without name and tag, unless one was written.
    pub session: Option<Session>,
}

/// What is done to requests: as the data plane has it, but for what names another object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFilter {
    /// It names none.
    Whole(Filter),
    /// A copy for this one.
    Mirror(Reference, Share),
    /// What this HTTPFault says.
    Fault(ObjectName),
}

/// An HTTPFault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpFault {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What it does, to how many.
    pub injects: InjectedFault,
}

/// One who takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its share.
    pub weight: u32,
    /// Who.
    pub to: Reference,
    /// What is done to those that it gets.
    pub filters: Vec<RouteFilter>,
}

/// Another object, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Empty for Kubernetes' own.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The port.
    pub port: Option<u16>,
}

/// A ReferenceGrant: who may name what stands in its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Any of these may name.
    pub from: BTreeSet<GrantFrom>,
    /// Any of these may be named.
    pub to: BTreeSet<GrantTo>,
}

/// Who may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantFrom {
    /// The group of its kind.
    pub group: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// What may be named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantTo {
    /// The group of its kind.
    pub group: Arc<str>,
    /// Its kind.
    pub kind: Arc<str>,
    /// Its name; None: all.
    pub name: Option<Arc<str>>,
}
