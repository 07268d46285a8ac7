//! Indexes what is bound to a service, once, and is then asked for each request.
//!
//! Which of several matches has a request is the specification's to say, in this order: the more exact host; an exact path, an
//! expression, a prefix, and of these the longer; a method; more headers; more query parameters; the older route, then the
//! first by namespace and name; the earlier rule, the earlier match. Only where expressions stand is left open there: before
//! prefixes, as a prefix may be `/`, which would leave them nothing. Of a gRPC match the service counts by its letters, then the
//! method by its own.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use http::HeaderName;
use millrace_model::route::{Bound, Clients, Host, PathMatch, RequestMatch, RouteRule, Routes, Text, ValueMatch};

use crate::{Pattern, Request, group::Group, query};

/// What is bound to one service, indexed by port and client.
#[derive(Debug)]
pub struct Table {
    routes: Arc<Routes>,
    views: HashMap<(u16, Clients), View>,
}

/// What holds for one port and one client's namespace.
#[derive(Debug)]
pub struct View {
    /// The best first: a lower number goes before a higher one.
    entries: Vec<Entry>,
    exact: HashMap<Box<str>, Group>,
    below: HashMap<Box<str>, Group>,
    any: Group,
}

/// The rule that a request goes by.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// The route, as it is bound.
    pub bound: &'t Bound,
    /// Which of its rules.
    pub index: usize,
    /// The rule.
    pub rule: &'t RouteRule,
    /// Which of the rule's matches fitted.
    pub matched: &'t RequestMatch,
}

/// Where a match stands in the [`Routes`] that were indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    bound: usize,
    rule: usize,
    one: usize,
}

#[derive(Debug)]
struct Entry {
    at: At,
    /// What of the path the group's index leaves to be asked.
    path: Vec<Pattern>,
    is_grpc: bool,
    method: Option<Arc<str>>,
    headers: Vec<(HeaderName, Pattern)>,
    query: Vec<(Arc<str>, Pattern)>,
}

impl Table {
    /// Indexes `routes`.
    pub fn new(routes: Arc<Routes>) -> Self {
        let groups: BTreeSet<(u16, Clients)> = routes
            .bound
            .iter()
            .flat_map(|bound| bound.ports.iter().map(|port| (*port, bound.clients.clone())))
            .collect();
        let views = groups
            .into_iter()
            .map(|(port, clients)| {
                let view = View::new(&routes, port, &clients);
                ((port, clients), view)
            })
            .collect();
        Self { routes, views }
    }

    /// What was indexed.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// What holds for requests of this namespace's pods to this port: its own routes, else the service's; None where none do.
    pub fn view(&self, port: u16, namespace: &str) -> Option<&View> {
        let own = || self.views.get(&(port, Clients::Namespace(namespace.into())));
        own().or_else(|| self.views.get(&(port, Clients::All)))
    }

    /// Each port and client for whom something is bound, in order.
    pub fn places(&self) -> impl Iterator<Item = (u16, &Clients)> {
        let mut places: Vec<(u16, &Clients)> = self.views.keys().map(|(port, clients)| (*port, clients)).collect();
        places.sort();
        places.into_iter()
    }

    /// What is bound for exactly these clients.
    pub fn view_of(&self, port: u16, clients: &Clients) -> Option<&View> {
        self.views.get(&(port, clients.clone()))
    }

    /// True where this namespace's pods have no routes of their own for the port.
    pub fn is_for_all(&self, port: u16, namespace: &str) -> bool {
        !self.views.contains_key(&(port, Clients::Namespace(namespace.into())))
    }

    /// Every match that `view` holds, in the order in which they are asked for one host: by path's kind and length, then as above.
    pub fn in_order<'t>(&'t self, view: &'t View) -> impl Iterator<Item = Found<'t>> {
        view.entries.iter().filter_map(|entry| self.found(entry.at))
    }

    /// The rule that a request goes by, of those that `view` holds; None where it is to get a 404.
    pub fn choose<'t>(&'t self, view: &View, request: &Request<'_>) -> Option<Found<'t>> {
        self.found(view.choose(request)?)
    }

    /// What stands there; None where `at` is of another table.
    pub fn found(&self, at: At) -> Option<Found<'_>> {
        let At { bound, rule: index, one } = at;
        let bound = self.routes.bound.get(bound)?;
        let rule = bound.rules.get(index)?;
        Some(Found { bound, index, rule, matched: rule.matches.get(one)? })
    }
}

impl View {
    fn new(routes: &Routes, port: u16, clients: &Clients) -> Self {
        let holds = |bound: &Bound| bound.clients == *clients && bound.ports.contains(&port);
        let mut all: Vec<(At, &Bound, &RequestMatch)> = Vec::new();
        for (number, bound) in routes.bound.iter().enumerate().filter(|(_, bound)| holds(bound)) {
            for (rule, of) in bound.rules.iter().enumerate() {
                all.extend(of.matches.iter().enumerate().map(|(one, m)| (At { bound: number, rule, one }, bound, m)));
            }
        }
        all.sort_by_key(|(at, _, one)| (rank(one), *at));
        let mut view = Self { entries: vec![], exact: HashMap::new(), below: HashMap::new(), any: Group::default() };
        for (at, bound, one) in all {
            // Control has tried every expression. One that this node can't run matches nothing: it must not match all.
            let Some(entry) = Entry::new(at, one) else { continue };
            let number = view.entries.len();
            view.entries.push(entry);
            if bound.hosts.is_empty() {
                view.any.add(&one.path, number);
            }
            for host in bound.hosts.iter().collect::<BTreeSet<_>>() {
                let group = match host {
                    Host::Exact(host) => view.exact.entry((**host).into()).or_default(),
                    Host::Below(host) => view.below.entry((**host).into()).or_default(),
                };
                group.add(&one.path, number);
            }
        }
        view
    }

    /// Where the match stands that a request goes by; None where it is to get a 404.
    pub fn choose(&self, request: &Request<'_>) -> Option<At> {
        let fits = |number: usize| self.entries.get(number).is_some_and(|entry| entry.fits(request));
        let best = |group: &Group| group.best(request.path, fits);
        let by_host = || {
            if self.exact.is_empty() && self.below.is_empty() {
                return None;
            }
            let host = request.host();
            let of_host = self.exact.get(&*host).and_then(best);
            of_host.or_else(|| parents(&host).find_map(|parent| self.below.get(parent).and_then(best)))
        };
        let number = by_host().or_else(|| best(&self.any))?;
        self.entries.get(number).map(|entry| entry.at)
    }
}

/// The longest name that a route may have for a host (RFC 1123, 2.1). A client can send a longer one, which costs it no more look-ups.
const MAX_HOST: usize = 255;

/// What a host lies below, the nearest first, as far as a route can name it.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(host.split_once('.'), |(_, rest)| rest.split_once('.'))
        .map(|(_, rest)| rest)
        .skip_while(|parent| parent.len() > MAX_HOST)
}

type Rank = (u8, [Reverse<usize>; 2], Reverse<bool>, [Reverse<usize>; 2]);

/// How good a match is, the best first.
fn rank(one: &RequestMatch) -> Rank {
    let RequestMatch { path, method, headers, query } = one;
    let letters = |text: &Option<Text>| match text {
        None => 0,
        Some(Text::Exact(text) | Text::Regex(text)) => text.chars().count(),
    };
    let (kind, first, second) = match path {
        PathMatch::Exact(path) => (0, path.chars().count(), 0),
        PathMatch::Regex(path) => (1, path.chars().count(), 0),
        PathMatch::Prefix(path) => (2, path.chars().count(), 0),
        PathMatch::Grpc { service, method } => (3, letters(service), letters(method)),
    };
    let counts = [Reverse(headers.len()), Reverse(query.len())];
    (kind, [Reverse(first), Reverse(second)], Reverse(method.is_some()), counts)
}

impl Entry {
    fn new(at: At, one: &RequestMatch) -> Option<Self> {
        let RequestMatch { path, method, headers, query } = one;
        let pattern = |expression: &str| Pattern::new(&Text::Regex(expression.into())).ok();
        let (path, is_grpc) = match path {
            PathMatch::Exact(_) | PathMatch::Prefix(_) => (vec![], false),
            PathMatch::Regex(expression) => (vec![pattern(expression)?], false),
            PathMatch::Grpc { service, method } => {
                let part = |text: &Option<Text>| match text {
                    None => pattern("[^/]+"),
                    Some(text) => Pattern::new(text).ok(),
                };
                (vec![part(service)?, part(method)?], true)
            }
        };
        let value = |one: &ValueMatch| Pattern::new(&one.value).ok();
        Some(Self {
            at,
            path,
            is_grpc,
            method: method.clone(),
            headers: headers
                .iter()
                .map(|one| Some((HeaderName::from_bytes(one.name.as_bytes()).ok()?, value(one)?)))
                .collect::<Option<_>>()?,
            query: query.iter().map(|one| Some((one.name.clone(), value(one)?))).collect::<Option<_>>()?,
        })
    }

    /// Whether all but what the index has seen to fits.
    fn fits(&self, request: &Request<'_>) -> bool {
        let Self { at: _, path, is_grpc, method, headers, query } = self;
        let by_path =
            if *is_grpc { fits_grpc(path, request.path) } else { path.iter().all(|p| p.fits(request.path.as_bytes())) };
        by_path
            && method.as_ref().is_none_or(|method| **method == *request.method)
            && headers.iter().all(|(name, pattern)| request.has_header(name, |value| pattern.fits(value)))
            && query.iter().all(|(name, pattern)| {
                request.query.and_then(|query| query::value_of(query, name)).is_some_and(|value| pattern.fits(&value))
            })
    }
}

/// Whether a path is `/service/method` of these two.
fn fits_grpc(patterns: &[Pattern], path: &str) -> bool {
    let parts = path.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    match (patterns, parts) {
        ([service, method], Some((s, m))) => {
            !m.contains('/') && service.fits(s.as_bytes()) && method.fits(m.as_bytes())
        }
        _ => false,
    }
}
