//! The index against a search that asks every match of every route, and ranks what fits by the specification's words.

use std::cmp::Reverse;

use http::HeaderMap;
use millrace_model::route::{Bound, Clients, Host, PathMatch, RequestMatch, Text, ValueMatch};
use proptest::prelude::*;

use super::{bound, headers, rule, table};
use crate::{Pattern, Request, Table};

/// A request as values.
#[derive(Clone, Debug)]
struct Asked {
    host: String,
    method: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
    namespace: &'static str,
}

fn fits_text(text: &Text, value: &str) -> bool {
    Pattern::new(text).unwrap().fits(value.as_bytes())
}

fn fits(one: &RequestMatch, asked: &Asked) -> bool {
    let path = match &one.path {
        PathMatch::Exact(path) => **path == *asked.path,
        PathMatch::Prefix(prefix) => {
            let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
            prefix.is_empty() || asked.path.strip_prefix(&**prefix).is_some_and(below)
        }
        PathMatch::Regex(expression) => fits_text(&Text::Regex(expression.clone()), &asked.path),
        PathMatch::Grpc { service, method } => {
            let parts: Vec<&str> = asked.path.split('/').collect();
            let part = |text: &Option<Text>, value: &str| match text {
                None => !value.is_empty(),
                Some(text) => fits_text(text, value),
            };
            matches!(parts[..], ["", s, m] if part(service, s) && part(method, m))
        }
    };
    let header = |one: &ValueMatch| {
        asked
            .headers
            .iter()
            .find(|(name, _)| **name == *one.name)
            .is_some_and(|(_, value)| fits_text(&one.value, value))
    };
    let query = |one: &ValueMatch| {
        let pairs = asked.query.iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('='));
        pairs.clone().find(|(name, _)| **name == *one.name).is_some_and(|(_, value)| fits_text(&one.value, value))
    };
    path && one.method.as_ref().is_none_or(|method| **method == *asked.method)
        && one.headers.iter().all(header)
        && one.query.iter().all(query)
}

/// How well a route's hosts fit; None where none does.
fn by_host(bound: &Bound, host: &str) -> Option<(usize, usize)> {
    if bound.hosts.is_empty() {
        return Some((0, 0));
    }
    bound
        .hosts
        .iter()
        .filter_map(|one| match one {
            Host::Exact(name) => (**name == *host).then_some((name.len(), name.len())),
            Host::Below(name) => host.ends_with(&format!(".{name}")).then_some((0, name.len() + 2)),
        })
        .max()
}

fn letters(text: &Option<Text>) -> usize {
    match text {
        None => 0,
        Some(Text::Exact(text) | Text::Regex(text)) => text.len(),
    }
}

/// Which rule has it, by asking all.
fn searched(all: &[Bound], asked: &Asked) -> Option<(usize, usize)> {
    let own = Clients::Namespace(asked.namespace.into());
    let has_own = all.iter().any(|bound| bound.clients == own && bound.ports.contains(&80));
    let clients = if has_own { own } else { Clients::All };
    let mut found = Vec::new();
    for (b, bound) in all.iter().enumerate() {
        if bound.clients != clients || !bound.ports.contains(&80) {
            continue;
        }
        let Some(host) = by_host(bound, &asked.host) else { continue };
        for (r, rule) in bound.rules.iter().enumerate() {
            for one in rule.matches.iter().filter(|one| fits(one, asked)) {
                let path = match &one.path {
                    PathMatch::Exact(path) => (3, path.len(), 0),
                    PathMatch::Regex(path) => (2, path.len(), 0),
                    PathMatch::Prefix(path) => (1, path.len(), 0),
                    PathMatch::Grpc { service, method } => (0, letters(service), letters(method)),
                };
                let rank = (host, path, one.method.is_some(), one.headers.len(), one.query.len());
                found.push((Reverse(rank), b, r));
            }
        }
    }
    found.into_iter().min().map(|(_, b, r)| (b, r))
}

fn indexed(table: &Table, asked: &Asked) -> Option<(usize, usize)> {
    let headers: HeaderMap = headers(&asked.headers);
    let authority = format!("{}:80", asked.host);
    let view = table.view(80, asked.namespace)?;
    let request = Request {
        authority: &authority,
        method: asked.method,
        path: &asked.path,
        query: asked.query.as_deref(),
        headers: &headers,
    };
    let found = table.choose(view, &request)?;
    let number = table.routes().bound.iter().position(|bound| std::ptr::eq(bound, found.bound))?;
    Some((number, found.index))
}

fn some<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(of)
}

const HOSTS: &[&str] = &["a.b.c", "b.c", "c", "x.b.c", "y.x.b.c"];
const PATHS: &[&str] = &["/a", "/a/b", "/a/b/c", "/ab", "/", "/a/", "/b/a", "/a/c", "*"];
const TEXTS: &[&str] = &["a", "b", "1", "a.*", "[ab]", ".+"];

fn text() -> impl Strategy<Value = Text> {
    (some(TEXTS), any::<bool>()).prop_map(
        |(text, is_regex)| {
            if is_regex { Text::Regex(text.into()) } else { Text::Exact(text.into()) }
        },
    )
}

fn values(names: &'static [&'static str]) -> impl Strategy<Value = Vec<ValueMatch>> {
    prop::collection::btree_map(some(names), text(), 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| ValueMatch { name: name.into(), value }).collect())
}

fn one_match() -> impl Strategy<Value = RequestMatch> {
    let path = prop_oneof![
        some(PATHS).prop_map(|path| PathMatch::Exact(path.into())),
        some(PATHS).prop_map(|path| PathMatch::Prefix(path.trim_end_matches('/').into())),
        some(&["/a.*", "/[ab]/.*", ".*", "/a/b"]).prop_map(|path| PathMatch::Regex(path.into())),
        (prop::option::of(text()), prop::option::of(text()))
            .prop_map(|(service, method)| PathMatch::Grpc { service, method }),
    ];
    let method = prop::option::of(some(&["GET", "PUT"]).prop_map(Into::into));
    (path, method, values(&["x-a", "x-b"]), values(&["p", "q"]))
        .prop_map(|(path, method, headers, query)| RequestMatch { path, method, headers, query })
}

fn routes() -> impl Strategy<Value = Vec<Bound>> {
    let host = (some(HOSTS), any::<bool>())
        .prop_map(|(host, below)| if below { format!("*.{host}") } else { host.to_owned() });
    let rules = prop::collection::vec(prop::collection::vec(one_match(), 1..3), 1..4);
    let clients = prop_oneof![3 => Just(Clients::All), 1 => Just(Clients::Namespace("front".into()))];
    let one = (prop::collection::vec(host, 0..3), rules, clients).prop_map(|(hosts, rules, clients)| {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let rules = rules.into_iter().map(|matches| rule("r", matches)).collect();
        Bound { clients, ..bound("r", &hosts, rules) }
    });
    prop::collection::vec(one, 0..5)
}

fn asked() -> impl Strategy<Value = Asked> {
    let pair = |name: &'static str| (Just(name), some(&["a", "b", "1", "ab"]));
    let headers = prop::sample::subsequence(vec!["x-a", "x-b"], 0..=2)
        .prop_flat_map(move |names| names.into_iter().map(pair).collect::<Vec<_>>());
    let query = prop::collection::vec((some(&["p", "q"]), some(&["a", "b", "1"])), 0..3)
        .prop_map(|pairs| pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"));
    (some(HOSTS), some(&["GET", "PUT"]), some(PATHS), prop::option::of(query), headers, some(&["front", "back"]))
        .prop_map(|(host, method, path, query, headers, namespace)| Asked {
            host: host.to_owned(),
            method,
            path: path.to_owned(),
            query,
            headers,
            namespace,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_search_of_everything_finds(routes in routes(), asked in prop::collection::vec(asked(), 8)) {
        let table = table(routes.clone());
        for asked in asked {
            prop_assert_eq!(indexed(&table, &asked), searched(&routes, &asked), "{:?}", asked);
        }
    }
}
