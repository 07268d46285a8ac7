//! Converts what is bound to a service. What is done to requests stands in `filter`.

mod filter;

use std::time::Duration;

use millrace_model::route::{
    Bound, Clients, Host, PathMatch, RequestMatch, RouteBackend, RouteKind, RouteName, RouteRule, Routes, Speaks,
    Target, Text, Timeouts, Unresolved, ValueMatch,
};

use super::{Texts, Undecodable, bad, each, name, port_from, retry, session};
use crate::mesh as pb;

pub(super) fn routes(routes: &Routes) -> pb::Routes {
    let Routes { service, bound } = routes;
    pb::Routes { service: Some(name(service)), bound: bound.iter().map(bound_to).collect() }
}

pub(super) fn routes_from(routes: pb::Routes, said: &mut Texts) -> Result<Routes, Undecodable> {
    let pb::Routes { service, bound } = routes;
    Ok(Routes { service: said.name(service, "routes.service")?, bound: each(bound, |one| bound_from(one, said))? })
}

fn bound_to(bound: &Bound) -> pb::BoundRoute {
    let Bound { route: RouteName { kind, name: own }, clients, ports, hosts, rules } = bound;
    pb::BoundRoute {
        kind: match kind {
            RouteKind::Http => pb::RouteKind::Http,
            RouteKind::Grpc => pb::RouteKind::Grpc,
        }
        .into(),
        name: Some(name(own)),
        clients: match clients {
            Clients::All => None,
            Clients::Namespace(namespace) => Some(namespace.to_string()),
        },
        ports: ports.iter().map(|port| u32::from(*port)).collect(),
        hosts: hosts.iter().map(host).collect(),
        rules: rules.iter().map(rule).collect(),
    }
}

fn bound_from(bound: pb::BoundRoute, said: &mut Texts) -> Result<Bound, Undecodable> {
    let pb::BoundRoute { kind, name, clients, ports, hosts, rules } = bound;
    let kind = match pb::RouteKind::try_from(kind) {
        Ok(pb::RouteKind::Http) => RouteKind::Http,
        Ok(pb::RouteKind::Grpc) => RouteKind::Grpc,
        Ok(pb::RouteKind::Unspecified) | Err(_) => return Err(bad("routes.bound.kind", kind)),
    };
    Ok(Bound {
        route: RouteName { kind, name: said.name(name, "routes.bound.name")? },
        clients: clients.map_or(Clients::All, |namespace| Clients::Namespace(said.one(&namespace))),
        ports: ports.into_iter().map(|port| port_from(port, "routes.bound.ports")).collect::<Result<_, _>>()?,
        hosts: each(hosts, |host| host_from(host, said))?,
        rules: each(rules, |rule| rule_from(rule, said))?,
    })
}

fn host(host: &Host) -> pb::RouteHost {
    let kind = match host {
        Host::Exact(text) => pb::route_host::Kind::Exact(text.to_string()),
        Host::Below(text) => pb::route_host::Kind::Below(text.to_string()),
    };
    pb::RouteHost { kind: Some(kind) }
}

fn host_from(host: pb::RouteHost, said: &mut Texts) -> Result<Host, Undecodable> {
    match host.kind.ok_or_else(|| bad("routes.hosts", "missing"))? {
        pb::route_host::Kind::Exact(text) => Ok(Host::Exact(said.one(&text))),
        pb::route_host::Kind::Below(text) => Ok(Host::Below(said.one(&text))),
    }
}

fn rule(rule: &RouteRule) -> pb::RouteRule {
    let RouteRule { name, matches, filters, backends, timeouts: Timeouts { request, backend_request }, retry } = rule;
    pb::RouteRule {
        name: name.as_ref().map(ToString::to_string),
        matches: matches.iter().map(request_match).collect(),
        filters: filters.iter().map(filter::filter).collect(),
        backends: backends.iter().map(backend).collect(),
        request_timeout_ms: request.map(ms),
        backend_timeout_ms: backend_request.map(ms),
        retry: retry.as_ref().map(retry::retry),
    }
}

fn rule_from(rule: pb::RouteRule, said: &mut Texts) -> Result<RouteRule, Undecodable> {
    let pb::RouteRule { name, matches, filters, backends, request_timeout_ms, backend_timeout_ms, retry } = rule;
    if matches.is_empty() {
        return Err(bad("routes.rules.matches", "missing"));
    }
    Ok(RouteRule {
        name: name.map(|name| said.one(&name)),
        matches: each(matches, |one| request_match_from(one, said))?,
        filters: each(filters, |filter| filter::filter_from(filter, said))?,
        backends: each(backends, |backend| backend_from(backend, said))?,
        timeouts: Timeouts {
            request: request_timeout_ms.map(Duration::from_millis),
            backend_request: backend_timeout_ms.map(Duration::from_millis),
        },
        retry: retry.map(retry::retry_from).transpose()?,
    })
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn request_match(one: &RequestMatch) -> pb::RequestMatch {
    let RequestMatch { path, method, headers, query } = one;
    let kind = match path {
        PathMatch::Exact(text) => pb::path_match::Kind::Exact(text.to_string()),
        PathMatch::Prefix(text) => pb::path_match::Kind::Prefix(text.to_string()),
        PathMatch::Regex(text) => pb::path_match::Kind::Regex(text.to_string()),
        PathMatch::Grpc { service, method } => pb::path_match::Kind::Grpc(pb::GrpcMethod {
            service: service.as_ref().map(text),
            method: method.as_ref().map(text),
        }),
    };
    pb::RequestMatch {
        path: Some(pb::PathMatch { kind: Some(kind) }),
        method: method.as_ref().map(ToString::to_string),
        headers: headers.iter().map(value).collect(),
        query: query.iter().map(value).collect(),
    }
}

fn request_match_from(one: pb::RequestMatch, said: &mut Texts) -> Result<RequestMatch, Undecodable> {
    let pb::RequestMatch { path, method, headers, query } = one;
    let path = match path.and_then(|path| path.kind).ok_or_else(|| bad("routes.path", "missing"))? {
        pb::path_match::Kind::Exact(text) => PathMatch::Exact(said.one(&text)),
        pb::path_match::Kind::Prefix(text) => PathMatch::Prefix(said.one(&text)),
        pb::path_match::Kind::Regex(text) => PathMatch::Regex(said.one(&text)),
        pb::path_match::Kind::Grpc(pb::GrpcMethod { service, method }) => PathMatch::Grpc {
            service: service.map(|text| text_from(Some(text), said)).transpose()?,
            method: method.map(|text| text_from(Some(text), said)).transpose()?,
        },
    };
    Ok(RequestMatch {
        path,
        method: method.map(|method| said.one(&method)),
        headers: each(headers, |one| value_from(one, said))?,
        query: each(query, |one| value_from(one, said))?,
    })
}

fn text(text: &Text) -> pb::TextMatch {
    let kind = match text {
        Text::Exact(text) => pb::text_match::Kind::Exact(text.to_string()),
        Text::Regex(text) => pb::text_match::Kind::Regex(text.to_string()),
    };
    pb::TextMatch { kind: Some(kind) }
}

fn text_from(text: Option<pb::TextMatch>, said: &mut Texts) -> Result<Text, Undecodable> {
    match text.and_then(|text| text.kind).ok_or_else(|| bad("routes.text", "missing"))? {
        pb::text_match::Kind::Exact(text) => Ok(Text::Exact(said.one(&text))),
        pb::text_match::Kind::Regex(text) => Ok(Text::Regex(said.one(&text))),
    }
}

fn value(one: &ValueMatch) -> pb::ValueMatch {
    let ValueMatch { name, value } = one;
    pb::ValueMatch { name: name.to_string(), value: Some(text(value)) }
}

fn value_from(one: pb::ValueMatch, said: &mut Texts) -> Result<ValueMatch, Undecodable> {
    let pb::ValueMatch { name, value } = one;
    Ok(ValueMatch { name: said.one(&name), value: text_from(value, said)? })
}

fn backend(backend: &RouteBackend) -> pb::RouteBackend {
    let RouteBackend { weight, to, filters, session } = backend;
    pb::RouteBackend {
        weight: *weight,
        to: Some(target(to)),
        filters: filters.iter().map(filter::filter).collect(),
        session: session.as_ref().map(session::session),
    }
}

fn backend_from(backend: pb::RouteBackend, said: &mut Texts) -> Result<RouteBackend, Undecodable> {
    let pb::RouteBackend { weight, to, filters, session } = backend;
    Ok(RouteBackend {
        weight,
        to: target_from(to, said)?,
        filters: each(filters, |filter| filter::filter_from(filter, said))?,
        session: session.map(|session| session::session_from(session, said)).transpose()?,
    })
}

fn target(target: &Target) -> pb::RouteTarget {
    let kind = match target {
        Target::Service { name: service, port, speaks } => pb::route_target::Kind::Service(pb::ServicePortTarget {
            name: Some(name(service)),
            port: u32::from(*port),
            speaks: match speaks {
                Speaks::Http1 => pb::Speaks::Http1,
                Speaks::Http2 => pb::Speaks::Http2,
            }
            .into(),
        }),
        Target::Invalid(why) => {
            let why = match why {
                Unresolved::Kind => pb::Unresolved::Kind,
                Unresolved::Missing => pb::Unresolved::Missing,
                Unresolved::Ungranted => pb::Unresolved::Ungranted,
                Unresolved::Protocol => pb::Unresolved::Protocol,
            };
            pb::route_target::Kind::Invalid(why.into())
        }
    };
    pb::RouteTarget { kind: Some(kind) }
}

fn target_from(target: Option<pb::RouteTarget>, said: &mut Texts) -> Result<Target, Undecodable> {
    match target.and_then(|target| target.kind).ok_or_else(|| bad("routes.target", "missing"))? {
        pb::route_target::Kind::Service(pb::ServicePortTarget { name, port, speaks }) => Ok(Target::Service {
            name: said.name(name, "routes.target.service.name")?,
            port: port_from(port, "routes.target.service.port")?,
            speaks: match pb::Speaks::try_from(speaks) {
                Ok(pb::Speaks::Http1) => Speaks::Http1,
                Ok(pb::Speaks::Http2) => Speaks::Http2,
                Ok(pb::Speaks::Unspecified) | Err(_) => return Err(bad("routes.target.service.speaks", speaks)),
            },
        }),
        pb::route_target::Kind::Invalid(why) => match pb::Unresolved::try_from(why) {
            Ok(pb::Unresolved::Kind) => Ok(Target::Invalid(Unresolved::Kind)),
            Ok(pb::Unresolved::Missing) => Ok(Target::Invalid(Unresolved::Missing)),
            Ok(pb::Unresolved::Ungranted) => Ok(Target::Invalid(Unresolved::Ungranted)),
            Ok(pb::Unresolved::Protocol) => Ok(Target::Invalid(Unresolved::Protocol)),
            Ok(pb::Unresolved::Unspecified) | Err(_) => Err(bad("routes.target.invalid", why)),
        },
    }
}
