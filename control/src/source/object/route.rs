//! Reads HTTPRoutes, GRPCRoutes and ReferenceGrants. The types are the `gateway-api` crate's, of the experimental channel.
//!
//! The API server checks routes by the definition's rules; a directory has nobody who does, so what those rules say is checked
//! here too. A match that can't be read whole refuses the route: taken in part, it would fit more than was written.

mod cors;
mod filter;
mod grpc;
mod matches;
mod refs;
mod retry;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use gateway_api::experimental::{
    httproutes::{
        HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesSessionPersistence, HttpRouteRulesTimeouts,
    },
    referencegrants::ReferenceGrant,
};
use millrace_model::{
    ObjectName, Session,
    route::{Filter, Host, PathMatch, RequestMatch, RouteKind, RouteName, Timeouts},
    session::CookiePath,
};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{duration::duration, meta};
use crate::{
    diagnostic::{Kind, Problem, Problems, Weight},
    source::kubernetes::Asked,
    world::route::{Age, Backend, Grant, GrantFrom, GrantTo, Parent, Route, RouteFilter, Rule},
};

pub(super) use filter::own_name;
pub(super) use grpc::grpc;

/// Gateway API's own bounds, which a file has too: each rule is asked for each request, in the worst case.
const MAX_RULES: usize = 16;
const MAX_HOSTS: usize = 16;
const MAX_PARENTS: usize = 32;
const MAX_MATCHES: usize = 64;
const MAX_ALL_MATCHES: usize = 128;
const MAX_BACKENDS: usize = 16;
const MAX_FILTERS: usize = 16;
/// A request that takes longer is a connection: it has no time-out then.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// The kind of route that a kind of object is.
pub(crate) fn kind_of(kind: Kind) -> RouteKind {
    if kind == Kind::GrpcRoute { RouteKind::Grpc } else { RouteKind::Http }
}

/// What the route in `value` asks for, as far as that can be read.
pub(super) fn asked(name: &ObjectName, value: &Value) -> Asked {
    let list = |field: &str| value.pointer(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let refs: Vec<HttpRouteParentRefs> =
        list("/spec/parentRefs").iter().filter_map(|one| HttpRouteParentRefs::deserialize(one).ok()).collect();
    // What is wrong with them is told by whoever reads the route.
    let mut parents = refs::parents(name, &refs, &mut Problems::default());
    parents.retain(Parent::is_service);
    Asked { parents, n_rules: list("/spec/rules").len(), in_force: None }
}

/// A field of a match that nobody knows here is fatal: without it the match would fit more.
pub(super) fn weigh(problems: &mut Problems) {
    let in_match = |problem: &&mut Problem| super::is_unknown_field(problem) && problem.field.contains(".matches[");
    problems.0.iter_mut().filter(in_match).for_each(|problem| problem.weight = Weight::Fatal);
}

/// The same fields under another type's name: the crate has a type for each place that a thing can stand at.
pub(super) fn same<A: Serialize, B: DeserializeOwned>(one: &A) -> Option<B> {
    serde_json::from_value(serde_json::to_value(one).ok()?).ok()
}

pub(super) fn http(name: &ObjectName, route: &HttpRoute, problems: &mut Problems) -> Route {
    meta::check(&route.metadata, problems);
    let spec = &route.spec;
    let rules = spec.rules.as_deref().unwrap_or_default();
    let read = |(index, rule)| http_rule(name, rule, &format!("spec.rules[{index}]"), problems);
    let rules: Vec<Rule> = rules.iter().enumerate().map(read).collect();
    bounds(&rules, problems);
    Route {
        name: RouteName { kind: RouteKind::Http, name: name.clone() },
        age: Age { made: meta::made(&route.metadata), place: None },
        parents: refs::parents(name, spec.parent_refs.as_deref().unwrap_or_default(), problems),
        hosts: hosts(spec.hostnames.as_deref().unwrap_or_default(), problems),
        rules,
    }
}

fn http_rule(route: &ObjectName, rule: &HttpRouteRules, field: &str, problems: &mut Problems) -> Rule {
    let HttpRouteRules { backend_refs, filters, matches, name, retry, session_persistence, timeouts } = rule;
    let matches = matches::http(matches.as_deref().unwrap_or_default(), field, problems);
    let place = format!("{field}.filters");
    let filters = filter::filters(route, filters.as_deref().unwrap_or_default(), (&place, &matches), problems);
    let read = |(index, backend)| {
        refs::backend(route, backend, (&format!("{field}.backendRefs[{index}]"), &matches), problems)
    };
    let backends: Vec<Backend> = backend_refs.iter().flatten().enumerate().filter_map(read).collect();
    let redirects = |filter: &RouteFilter| matches!(filter, RouteFilter::Whole(Filter::Redirect(_)));
    if filters.iter().any(redirects) && !backends.is_empty() {
        problems.fatal(
            format!("{field}.backendRefs"),
            "a rule that redirects sends nothing to anybody",
            "leave out the backendRefs, or the RequestRedirect",
        );
    }
    Rule {
        name: rule_name(name.as_deref(), field, problems),
        matches,
        filters,
        backends,
        timeouts: timeouts.as_ref().map(|timeouts| times(timeouts, field, problems)).unwrap_or_default(),
        retry: retry.as_ref().map(|retry| retry::retry(retry, field, problems)),
        session: session_persistence.as_ref().map(|persistence| session(persistence, field, problems)),
    }
}

fn session(persistence: &HttpRouteRulesSessionPersistence, field: &str, problems: &mut Problems) -> Session {
    super::session::session(persistence, CookiePath::Matched, &format!("{field}.sessionPersistence"), problems)
}

fn rule_name(name: Option<&str>, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    let name = name?;
    if !meta::is_dns_subdomain(name) {
        let problem = format!("{name:?} is no rule's name");
        problems.fatal(format!("{field}.name"), problem, "write lower-case letters, digits, '-' and '.'");
    }
    Some(name.into())
}

fn times(timeouts: &HttpRouteRulesTimeouts, field: &str, problems: &mut Problems) -> Timeouts {
    let mut time = |text: &Option<String>, name: &str| {
        let place = format!("{field}.timeouts.{name}");
        let found = duration(text.as_deref()?, &place, (Duration::ZERO, MAX_TIMEOUT), problems)?;
        // By the specification nothing is no time-out.
        (found > Duration::ZERO).then_some(found)
    };
    let request = time(&timeouts.request, "request");
    let backend_request = time(&timeouts.backend_request, "backendRequest");
    if let (Some(whole), Some(part)) = (request, backend_request)
        && part > whole
    {
        let place = format!("{field}.timeouts.backendRequest");
        problems.fatal(place, "it is longer than the time-out of the whole request", "write a shorter time");
    }
    Timeouts { request, backend_request }
}

/// What holds for the rules of either kind together.
fn bounds(rules: &[Rule], problems: &mut Problems) {
    let mut few = |n: usize, most: usize, field: &str| {
        if n > most {
            problems.fatal(
                field,
                format!("there are {n}"),
                format!("write at most {most}, and the rest in another route"),
            );
        }
    };
    few(rules.len(), MAX_RULES, "spec.rules");
    few(rules.iter().map(|rule| rule.matches.len()).sum(), MAX_ALL_MATCHES, "spec.rules");
    for (index, rule) in rules.iter().enumerate() {
        few(rule.matches.len(), MAX_MATCHES, &format!("spec.rules[{index}].matches"));
        few(rule.backends.len(), MAX_BACKENDS, &format!("spec.rules[{index}].backendRefs"));
        few(rule.filters.len(), MAX_FILTERS, &format!("spec.rules[{index}].filters"));
    }
    let mut names = BTreeSet::new();
    for (index, name) in rules.iter().enumerate().filter_map(|(index, rule)| Some((index, rule.name.as_ref()?))) {
        if !names.insert(name) {
            let problem = format!("two rules are named {name:?}");
            problems.fatal(format!("spec.rules[{index}].name"), problem, "give each a name of its own");
        }
    }
}

fn hosts(names: &[String], problems: &mut Problems) -> Vec<Host> {
    if names.len() > MAX_HOSTS {
        let problem = format!("there are {}", names.len());
        problems.fatal("spec.hostnames", problem, format!("write at most {MAX_HOSTS}, and the rest in another route"));
    }
    let mut hosts = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let (text, is_wild) = name.strip_prefix("*.").map_or((name.as_str(), false), |rest| (rest, true));
        if !meta::is_dns_subdomain(text) || text.parse::<IpAddr>().is_ok() {
            let problem = format!("{name:?} is no host's name");
            let mend = "write a name such as web.example.com or *.example.com, without port, in lower case";
            problems.fatal(format!("spec.hostnames[{index}]"), problem, mend);
            continue;
        }
        hosts.push(if is_wild { Host::Below(text.into()) } else { Host::Exact(text.into()) });
    }
    hosts
}

/// Whether a rule's matches are each a prefix: what a filter that puts another in its place asks for.
fn are_prefixes(matches: &[RequestMatch]) -> bool {
    matches.iter().all(|one| matches!(one.path, PathMatch::Prefix(_)))
}

pub(super) fn grant(name: &ObjectName, grant: &ReferenceGrant, problems: &mut Problems) -> Grant {
    meta::check(&grant.metadata, problems);
    let from = &grant.spec.from;
    let to = &grant.spec.to;
    for (list, field) in [(from.len(), "spec.from"), (to.len(), "spec.to")] {
        if list == 0 {
            problems.fatal(field, "it names nobody", "add at least one");
        }
    }
    let text = |text: &String| Arc::from(text.as_str());
    Grant {
        name: name.clone(),
        from: from
            .iter()
            .map(|one| GrantFrom { group: text(&one.group), kind: text(&one.kind), namespace: text(&one.namespace) })
            .collect(),
        to: to
            .iter()
            .map(|one| GrantTo { group: text(&one.group), kind: text(&one.kind), name: one.name.as_ref().map(text) })
            .collect(),
    }
}
