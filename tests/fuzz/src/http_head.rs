//! Feeds any bytes to the check of a client's HTTP/1, in pieces of any size, and any path to the choice of a rule and its rewriting.

#![no_main]

use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use millrace_l7_proxy::foreign::{checked, with_prefix};
use millrace_model::{
    ObjectName, Routes,
    route::{Bound, Clients, PathMatch, RequestMatch, RouteKind, RouteName, RouteRule, Timeouts},
};
use millrace_routes::{Request, Table};

/// Rules by prefix and by whole path.
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let rule = |path: PathMatch| RouteRule {
        name: None,
        matches: vec![RequestMatch { path, ..RequestMatch::default() }],
        filters: vec![],
        backends: vec![],
        timeouts: Timeouts::default(),
        retry: None,
    };
    let paths = ["/a", "/a/b", "/ab"].map(|prefix| PathMatch::Prefix(prefix.into()));
    let mut rules: Vec<RouteRule> = paths.into_iter().map(rule).collect();
    rules.push(rule(PathMatch::Exact("/a/b".into())));
    let route = RouteName { kind: RouteKind::Http, name: ObjectName::new("shop", "fuzz") };
    let bound = Bound { route, clients: Clients::All, ports: [80].into(), hosts: vec![], rules };
    Table::new(Arc::new(Routes { service: ObjectName::new("shop", "web"), bound: vec![bound] }))
});

/// What passes is one thing, however it comes, and the next parser takes it for the same.
fn heads(piece: usize, bytes: &[u8]) {
    let (passed, refused) = checked(bytes, bytes.len());
    assert!(passed <= bytes.len());
    let (in_pieces, refused_so) = checked(bytes, piece);
    // By which name can depend on it: of two faults the one that shows first is told.
    assert_eq!((passed, refused.is_some()), (in_pieces, refused_so.is_some()), "it depends on how bytes come");
    let sent = bytes.get(..passed).unwrap_or_default();
    if sent.is_empty() || sent.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 136];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(sent) {
        Ok(httparse::Status::Complete(_)) => {}
        other => panic!("a head that is let pass is whole for the next parser: {other:?}"),
    }
    let count = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    assert!(count("host") <= 1 && count("content-length") + count("transfer-encoding") <= 1, "one Host, one framing");
}

fn paths(target: &str) {
    let Ok(uri) = target.parse::<http::Uri>() else { return };
    let headers = HeaderMap::new();
    let (path, query) = (uri.path(), uri.query());
    let request = Request { authority: "web", method: "GET", path, query, headers: &headers };
    let view = TABLE.view(80, "shop").expect("it has a port");
    if let Some(found) = TABLE.choose(view, &request) {
        match &found.matched.path {
            PathMatch::Exact(exact) => assert_eq!(&**exact, path),
            PathMatch::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix).expect("it begins so");
                assert!(rest.is_empty() || rest.starts_with('/'), "a prefix is of whole segments");
                let new = with_prefix(target, prefix, "/new").expect("a path");
                assert!(new.starts_with("/new"), "{new}");
                with_prefix(target, prefix, "/").filter(|new| new.starts_with('/')).expect("a path");
            }
            other => panic!("no such rule: {other:?}"),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    heads(usize::from(*first).max(1), rest);
    if let Some(target) = rest.split(|byte| *byte == b' ').nth(1).and_then(|target| std::str::from_utf8(target).ok()) {
        paths(target);
    }
});
