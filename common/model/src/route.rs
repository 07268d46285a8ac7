//! Says what becomes of the requests to a service: the routes that are bound to its ports, with every reference resolved.
//!
//! A [`Routes`] is what the data plane is told of one service. Who may bind, which ports are meant and what a reference leads
//! to was decided before it was made; how a request finds its rule is `millrace_routes`'s to say.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ObjectName, Retry, Session};

/// Everything that is bound to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The service whose address is called.
    pub service: ObjectName,
    /// What is bound to it, the older before the younger: of two matches that are as good, the earlier has the request.
    pub bound: Vec<Bound>,
}

/// One route, as far as it is bound to one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The object.
    pub route: RouteName,
    /// Whose requests it is for.
    pub clients: Clients,
    /// The service's ports that it is bound to.
    pub ports: BTreeSet<u16>,
    /// The hosts that it speaks of; without any, of all.
    pub hosts: Vec<Host>,
    /// Its rules, in order.
    pub rules: Vec<RouteRule>,
}

/// Whose requests a route is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Clients {
    /// Everybody's: the route stands in the service's own namespace (a producer's).
    All,
    /// Those of this namespace's pods: the route stands there (a consumer's). For them it counts in place of the producer's.
    Namespace(Arc<str>),
}

/// A route object: two kinds may have one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteName {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub name: ObjectName,
}

/// The kinds of routes that speak of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// HTTPRoute
    Http,
    /// GRPCRoute
    Grpc,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Http => "HTTPRoute",
            RouteKind::Grpc => "GRPCRoute",
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// A host, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Host {
    /// This one.
    Exact(Arc<str>),
    /// Every host below this one, at any depth: what stood behind `*.`.
    Below(Arc<str>),
}

/// Which requests, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
    /// Any of these; never empty.
    pub matches: Vec<RequestMatch>,
    /// What is done to every request, in order.
    pub filters: Vec<Filter>,
    /// Among whom requests are shared out. Empty where a filter answers; else nobody takes them, and they get a 500.
    pub backends: Vec<RouteBackend>,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// When one is sent again.
    #[serde(default)]
    pub retry: Option<Retry>,
}

/// What a request must be. All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its method, where one is asked for.
    pub method: Option<Arc<str>>,
    /// Its headers, by name in lower case, each name once.
    pub headers: Vec<ValueMatch>,
    /// Its query parameters, each name once.
    pub query: Vec<ValueMatch>,
}

/// What a path must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathMatch {
    /// This one, letter by letter.
    Exact(Arc<str>),
    /// This one or one below it, by whole segments. Ends in no slash: "" is every path.
    Prefix(Arc<str>),
    /// As a whole, what this expression says.
    Regex(Arc<str>),
    /// That of a gRPC method: `/service/method`.
    Grpc {
        /// The service; any where None.
        service: Option<Text>,
        /// The method; any where None.
        method: Option<Text>,
    },
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("".into())
    }
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Text {
    /// This.
    Exact(Arc<str>),
    /// As a whole, what this expression says.
    Regex(Arc<str>),
}

/// What the value of a name must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Text,
}

/// What is done to a request or its response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderEdit),
    /// Changes the response's.
    ResponseHeaders(HeaderEdit),
    /// Answers with another address.
    Redirect(Redirect),
    /// Asks the backend for something else.
    Rewrite(Rewrite),
    /// Sends a copy somewhere else, whose answer nobody awaits.
    Mirror(Mirror),
    /// Answers and marks requests of other origins.
    Cors(Cors),
    /// Delays and aborts some.
    Fault(InjectedFault),
    /// One that can't be carried out, for this reason: who reaches it gets a 500, for it must not be skipped.
    Refuse(Arc<str>),
}

/// A header's name, in lower case, and its value.
pub type Header = (Arc<str>, Arc<str>);

/// How headers are changed. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderEdit {
    /// Put in place of what is there.
    pub set: Vec<Header>,
    /// Put beside what is there.
    pub add: Vec<Header>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

/// Where a client is sent instead. What is None stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host.
    pub host: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The schemes of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// What the backend is asked for instead. What is None stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The host.
    pub host: Option<Arc<str>>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathEdit {
    /// This in place of all of it.
    Full(Arc<str>),
    /// This in place of the prefix that matched.
    Prefix(Arc<str>),
}

/// Who gets a copy, of how many requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Who.
    pub to: Target,
    /// Of how many.
    pub share: Share,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// These.
    pub numerator: u32,
    /// Of these; never 0.
    pub denominator: u32,
}

/// Which requests of other origins are welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `scheme://host[:port]`, with `*` for all of it or for the labels before the host; none: no origin.
    pub origins: Vec<Arc<str>>,
    /// Methods, or `*`.
    pub methods: Vec<Arc<str>>,
    /// Headers of the request, or `*`.
    pub headers: Vec<Arc<str>>,
    /// Headers of the response that a page may read, or `*`.
    pub expose: Vec<Arc<str>>,
    /// Whether credentials may be sent along.
    pub credentials: Credentials,
    /// How long the answer may be kept, in seconds.
    pub max_age_s: u32,
}

/// Whether credentials may be sent along to another origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// They may not.
    #[default]
    Omitted,
    /// They may.
    Allowed,
}

/// What is done to some requests to see how callers bear it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFault {
    /// Waits so long, with so many.
    pub delay: Option<(Duration, Share)>,
    /// Answers with this status, so many.
    pub abort: Option<(u16, Share)>,
}

/// One of those among whom a rule's requests are shared out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteBackend {
    /// Its share; 0 takes none.
    pub weight: u32,
    /// Who.
    pub to: Target,
    /// What is done to those that it gets.
    pub filters: Vec<Filter>,
    /// How a client's requests are kept with one of its endpoints.
    #[serde(default)]
    pub session: Option<Session>,
}

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// To the endpoints of a service's port. No route of that service is asked.
    Service {
        /// The service.
        name: ObjectName,
        /// Its port.
        port: u16,
        /// What its endpoints speak.
        speaks: Speaks,
    },
    /// Nowhere: the reference leads to nobody. Its share of the requests gets a 500.
    Invalid(Unresolved),
}

/// What the endpoints of a port speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 from the first byte.
    Http2,
}

/// Why a reference leads to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unresolved {
    /// It names a kind of object that takes no requests.
    Kind,
    /// There is no such Service, or it has no such port.
    Missing,
    /// It stands in another namespace, and no ReferenceGrant there allows it.
    Ungranted,
    /// The port speaks no protocol that requests can be sent in.
    Protocol,
}

/// How long a request may take. Without a time: as long as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the whole head of the request to the whole of the response.
    pub request: Option<Duration>,
    /// From sending to one backend to the whole of its response.
    pub backend_request: Option<Duration>,
}

impl Filter {
    /// True where a request that reaches it goes no further.
    pub fn answers(&self) -> bool {
        match self {
            Self::Redirect(_) | Self::Refuse(_) => true,
            Self::RequestHeaders(_)
            | Self::ResponseHeaders(_)
            | Self::Rewrite(_)
            | Self::Mirror(_)
            | Self::Cors(_)
            | Self::Fault(_) => false,
        }
    }
}

impl Routes {
    /// True where requests of `namespace`'s pods to this port are routed.
    pub fn route(&self, port: u16, namespace: &str) -> bool {
        self.bound.iter().any(|bound| {
            bound.ports.contains(&port)
                && match &bound.clients {
                    Clients::All => true,
                    Clients::Namespace(own) => **own == *namespace,
                }
        })
    }
}
