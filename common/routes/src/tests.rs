//! States which rule has a request: one test for each sentence of the specification, and that the index says what a plain search does.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use millrace_model::{
    ObjectName, RouteKind, RouteName, Routes,
    route::{Bound, Clients, Host, PathMatch, RequestMatch, RouteRule, Text, Timeouts, ValueMatch},
};

use crate::{Request, Table, naming};

mod cost;
mod naive;
mod pattern;
mod precedence;

/// A match as tests write it.
fn path(path: PathMatch) -> RequestMatch {
    RequestMatch { path, ..RequestMatch::default() }
}

fn exact(text: &str) -> RequestMatch {
    path(PathMatch::Exact(text.into()))
}

fn prefix(text: &str) -> RequestMatch {
    path(PathMatch::Prefix(text.trim_end_matches('/').into()))
}

fn regex(text: &str) -> RequestMatch {
    path(PathMatch::Regex(text.into()))
}

fn is(name: &str, value: &str) -> ValueMatch {
    ValueMatch { name: name.into(), value: Text::Exact(value.into()) }
}

fn rule(name: &str, matches: Vec<RequestMatch>) -> RouteRule {
    RouteRule {
        name: Some(name.into()),
        matches,
        filters: vec![],
        backends: vec![],
        timeouts: Timeouts::default(),
        retry: None,
    }
}

/// A producer's route of port 80.
fn bound(name: &str, hosts: &[&str], rules: Vec<RouteRule>) -> Bound {
    let host = |text: &&str| match text.strip_prefix("*.") {
        Some(below) => Host::Below(below.into()),
        None => Host::Exact((*text).into()),
    };
    Bound {
        route: RouteName { kind: RouteKind::Http, name: ObjectName::new("shop", name) },
        clients: Clients::All,
        ports: [80].into(),
        hosts: hosts.iter().map(host).collect(),
        rules,
    }
}

fn table(bound: Vec<Bound>) -> Table {
    Table::new(Arc::new(Routes { service: ObjectName::new("shop", "store"), bound }))
}

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    list.iter().map(header).collect()
}

/// `GET host/path?query`, and who has it.
fn get(table: &Table, url: &str, with: &[(&str, &str)]) -> Option<String> {
    ask(table, "GET", url, with)
}

fn ask(table: &Table, method: &str, url: &str, with: &[(&str, &str)]) -> Option<String> {
    let (authority, rest) = url.split_at(url.find('/')?);
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let headers = headers(with);
    let view = table.view(80, "elsewhere")?;
    let found = table.choose(view, &Request { authority, method, path, query, headers: &headers })?;
    assert!(naming::rule(&found.bound.route, found.index, found.rule).starts_with("HTTPRoute shop/"));
    found.rule.name.as_deref().map(str::to_owned)
}

/// The rules of one route, each with one match.
fn one_route(rules: &[(&str, RequestMatch)]) -> Table {
    table(vec![bound("r", &[], rules.iter().map(|(name, one)| rule(name, vec![one.clone()])).collect())])
}
