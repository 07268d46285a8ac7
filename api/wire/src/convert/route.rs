//! Converts what is bound to a service. What is done to requests stands in `filter`.

mod filter;

use std::{sync::Arc, time::Duration};

use millrace_model::route::{
    Bound, Clients, Host, PathMatch, RequestMatch, RouteBackend, RouteKind, RouteName, RouteRule, Routes, Speaks,
    Target, Text, Timeouts, Unresolved, ValueMatch,
};

use super::{Undecodable, bad, name, name_from, port_from};
use crate::mesh as pb;

pub(super) fn routes(routes: &Routes) -> pb::Routes {
    let Routes { service, bound } = routes;
    pb::Routes { service: Some(name(service)), bound: bound.iter().map(bound_to).collect() }
}

pub(super) fn routes_from(routes: pb::Routes) -> Result<Routes, Undecodable> {
    let pb::Routes { service, bound } = routes;
    Ok(Routes {
        service: name_from(service, "routes.service")?,
        bound: bound.into_iter().map(bound_from).collect::<Result<_, _>>()?,
    })
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

fn bound_from(bound: pb::BoundRoute) -> Result<Bound, Undecodable> {
    let pb::BoundRoute { kind, name, clients, ports, hosts, rules } = bound;
    let kind = match pb::RouteKind::try_from(kind) {
        Ok(pb::RouteKind::Http) => RouteKind::Http,
        Ok(pb::RouteKind::Grpc) => RouteKind::Grpc,
        Ok(pb::RouteKind::Unspecified) | Err(_) => return Err(bad("routes.bound.kind", kind)),
    };
    Ok(Bound {
        route: RouteName { kind, name: name_from(name, "routes.bound.name")? },
        clients: clients.map_or(Clients::All, |namespace| Clients::Namespace(namespace.into())),
        ports: ports.into_iter().map(|port| port_from(port, "routes.bound.ports")).collect::<Result<_, _>>()?,
        hosts: hosts.into_iter().map(host_from).collect::<Result<_, _>>()?,
        rules: rules.into_iter().map(rule_from).collect::<Result<_, _>>()?,
    })
}

fn host(host: &Host) -> pb::RouteHost {
    let kind = match host {
        Host::Exact(text) => pb::route_host::Kind::Exact(text.to_string()),
        Host::Below(text) => pb::route_host::Kind::Below(text.to_string()),
    };
    pb::RouteHost { kind: Some(kind) }
}

fn host_from(host: pb::RouteHost) -> Result<Host, Undecodable> {
    match host.kind.ok_or_else(|| bad("routes.hosts", "missing"))? {
        pb::route_host::Kind::Exact(text) => Ok(Host::Exact(text.into())),
        pb::route_host::Kind::Below(text) => Ok(Host::Below(text.into())),
    }
}

fn rule(rule: &RouteRule) -> pb::RouteRule {
    let RouteRule { name, matches, filters, backends, timeouts: Timeouts { request, backend_request } } = rule;
    pb::RouteRule {
        name: name.as_ref().map(ToString::to_string),
        matches: matches.iter().map(request_match).collect(),
        filters: filters.iter().map(filter::filter).collect(),
        backends: backends.iter().map(backend).collect(),
        request_timeout_ms: request.map(ms),
        backend_timeout_ms: backend_request.map(ms),
    }
}

fn rule_from(rule: pb::RouteRule) -> Result<RouteRule, Undecodable> {
    let pb::RouteRule { name, matches, filters, backends, request_timeout_ms, backend_timeout_ms } = rule;
    if matches.is_empty() {
        return Err(bad("routes.rules.matches", "missing"));
    }
    Ok(RouteRule {
        name: name.map(Into::into),
        matches: matches.into_iter().map(request_match_from).collect::<Result<_, _>>()?,
        filters: filters.into_iter().map(filter::filter_from).collect::<Result<_, _>>()?,
        backends: backends.into_iter().map(backend_from).collect::<Result<_, _>>()?,
        timeouts: Timeouts {
            request: request_timeout_ms.map(Duration::from_millis),
            backend_request: backend_timeout_ms.map(Duration::from_millis),
        },
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

fn request_match_from(one: pb::RequestMatch) -> Result<RequestMatch, Undecodable> {
    let pb::RequestMatch { path, method, headers, query } = one;
    let path = match path.and_then(|path| path.kind).ok_or_else(|| bad("routes.path", "missing"))? {
        pb::path_match::Kind::Exact(text) => PathMatch::Exact(text.into()),
        pb::path_match::Kind::Prefix(text) => PathMatch::Prefix(text.into()),
        pb::path_match::Kind::Regex(text) => PathMatch::Regex(text.into()),
        pb::path_match::Kind::Grpc(pb::GrpcMethod { service, method }) => PathMatch::Grpc {
            service: service.map(|text| text_from(Some(text))).transpose()?,
            method: method.map(|text| text_from(Some(text))).transpose()?,
        },
    };
    Ok(RequestMatch {
        path,
        method: method.map(Into::into),
        headers: headers.into_iter().map(value_from).collect::<Result<_, _>>()?,
        query: query.into_iter().map(value_from).collect::<Result<_, _>>()?,
    })
}

fn text(text: &Text) -> pb::TextMatch {
    let kind = match text {
        Text::Exact(text) => pb::text_match::Kind::Exact(text.to_string()),
        Text::Regex(text) => pb::text_match::Kind::Regex(text.to_string()),
    };
    pb::TextMatch { kind: Some(kind) }
}

fn text_from(text: Option<pb::TextMatch>) -> Result<Text, Undecodable> {
    match text.and_then(|text| text.kind).ok_or_else(|| bad("routes.text", "missing"))? {
        pb::text_match::Kind::Exact(text) => Ok(Text::Exact(text.into())),
        pb::text_match::Kind::Regex(text) => Ok(Text::Regex(text.into())),
    }
}

fn value(one: &ValueMatch) -> pb::ValueMatch {
    let ValueMatch { name, value } = one;
    pb::ValueMatch { name: name.to_string(), value: Some(text(value)) }
}

fn value_from(one: pb::ValueMatch) -> Result<ValueMatch, Undecodable> {
    let pb::ValueMatch { name, value } = one;
    Ok(ValueMatch { name: Arc::from(name), value: text_from(value)? })
}

fn backend(backend: &RouteBackend) -> pb::RouteBackend {
    let RouteBackend { weight, to, filters } = backend;
    pb::RouteBackend { weight: *weight, to: Some(target(to)), filters: filters.iter().map(filter::filter).collect() }
}

fn backend_from(backend: pb::RouteBackend) -> Result<RouteBackend, Undecodable> {
    let pb::RouteBackend { weight, to, filters } = backend;
    Ok(RouteBackend {
        weight,
        to: target_from(to)?,
        filters: filters.into_iter().map(filter::filter_from).collect::<Result<_, _>>()?,
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

fn target_from(target: Option<pb::RouteTarget>) -> Result<Target, Undecodable> {
    match target.and_then(|target| target.kind).ok_or_else(|| bad("routes.target", "missing"))? {
        pb::route_target::Kind::Service(pb::ServicePortTarget { name, port, speaks }) => Ok(Target::Service {
            name: name_from(name, "routes.target.service.name")?,
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
