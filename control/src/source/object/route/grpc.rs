//! Reads GRPCRoutes: what they share with HTTPRoutes is read as theirs.

use gateway_api::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRules, GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType,
};
use gateway_api::experimental::httproutes::{HttpRouteParentRefs, HttpRouteRulesBackendRefs, HttpRouteRulesFilters};
use millrace_model::{
    ObjectName,
    route::{PathMatch, RequestMatch, RouteKind, RouteName, Text, Timeouts},
};

use super::{bounds, filter, hosts, matches, refs, rule_name, same, session as session_of};
use crate::{
    diagnostic::Problems,
    source::object::meta,
    world::route::{Age, Backend, Route, Rule},
};

/// Gateway API's own bound.
const MAX_NAME: usize = 1_024;

pub(in crate::source::object) fn grpc(name: &ObjectName, route: &GrpcRoute, problems: &mut Problems) -> Route {
    meta::check(&route.metadata, problems);
    let spec = &route.spec;
    let rules = spec.rules.iter().flatten().enumerate();
    let rules: Vec<Rule> =
        rules.map(|(index, one)| rule(name, one, &format!("spec.rules[{index}]"), problems)).collect();
    bounds(&rules, problems);
    let parents: Vec<HttpRouteParentRefs> = spec.parent_refs.iter().flatten().filter_map(same).collect();
    Route {
        name: RouteName { kind: RouteKind::Grpc, name: name.clone() },
        age: Age { made: meta::made(&route.metadata), place: None },
        parents: refs::parents(name, &parents, problems),
        hosts: hosts(spec.hostnames.as_deref().unwrap_or_default(), problems),
        rules,
    }
}

fn rule(route: &ObjectName, rule: &GrpcRouteRules, field: &str, problems: &mut Problems) -> Rule {
    let GrpcRouteRules { backend_refs, filters, matches, name, session_persistence } = rule;
    let any = PathMatch::Grpc { service: None, method: None };
    let matches: Vec<RequestMatch> = match matches.as_deref().unwrap_or_default() {
        [] => vec![RequestMatch { path: any, ..RequestMatch::default() }],
        list => {
            let place = |index| format!("{field}.matches[{index}]");
            list.iter().enumerate().map(|(index, one)| one_match(one, &place(index), problems)).collect()
        }
    };
    let filters: Vec<HttpRouteRulesFilters> = filters.iter().flatten().filter_map(same).collect();
    let filters = filter::filters(route, &filters, (&format!("{field}.filters"), &matches), problems);
    let backends: Vec<HttpRouteRulesBackendRefs> = backend_refs.iter().flatten().filter_map(same).collect();
    let read = |(index, one)| refs::backend(route, one, (&format!("{field}.backendRefs[{index}]"), &matches), problems);
    let backends: Vec<Backend> = backends.iter().enumerate().filter_map(read).collect();
    let name = rule_name(name.as_deref(), field, problems);
    // Gateway API has no retry here.
    let session = session_persistence.as_ref().and_then(same);
    let session = session.map(|persistence| session_of(&persistence, field, problems));
    Rule { name, matches, filters, backends, timeouts: Timeouts::default(), retry: None, session }
}

fn one_match(one: &GrpcRouteRulesMatches, field: &str, problems: &mut Problems) -> RequestMatch {
    let GrpcRouteRulesMatches { headers, method } = one;
    let headers = headers.iter().flatten().map(|one| {
        let is_regex = one.r#type == Some(GrpcRouteRulesMatchesHeadersType::RegularExpression);
        (one.name.as_str(), one.value.as_str(), is_regex)
    });
    let path = match method {
        None => PathMatch::Grpc { service: None, method: None },
        Some(method) => method_match(method, &format!("{field}.method"), problems),
    };
    RequestMatch {
        path,
        method: None,
        headers: matches::headers(headers, &format!("{field}.headers"), problems),
        query: vec![],
    }
}

fn method_match(one: &GrpcRouteRulesMatchesMethod, field: &str, problems: &mut Problems) -> PathMatch {
    let GrpcRouteRulesMatchesMethod { method, service, r#type } = one;
    let is_regex = *r#type == Some(GrpcRouteRulesMatchesMethodType::RegularExpression);
    let mut part = |text: &Option<String>, name: &str| {
        let text = text.as_deref().filter(|text| !text.is_empty())?;
        let place = format!("{field}.{name}");
        if text.len() > MAX_NAME {
            problems.fatal(&*place, "it is too long", format!("write at most {MAX_NAME} letters"));
        }
        if is_regex {
            matches::expression(text, &place, problems);
            return Some(Text::Regex(text.into()));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.')) {
            let mend = "write it as its proto file has it, such as shop.Cart";
            problems.fatal(place, format!("{text:?} is no name of gRPC"), mend);
        }
        Some(Text::Exact(text.into()))
    };
    let (service, method) = (part(service, "service"), part(method, "method"));
    if service.is_none() && method.is_none() {
        problems.fatal(field, "it names neither service nor method", "name one, or leave the field out");
    }
    PathMatch::Grpc { service, method }
}
