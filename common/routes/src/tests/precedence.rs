//! The order of matches, sentence by sentence of HTTPRoute's and GRPCRoute's documentation.

use http::HeaderMap;
use millrace_model::{
    RouteKind,
    route::{Clients, PathMatch, RequestMatch, Text},
};

use super::{ask, bound, exact, get, is, one_route, path, prefix, regex, rule, table};
use crate::Request;

#[test]
fn an_exact_path_goes_before_an_expression_and_that_before_a_prefix() {
    let table = one_route(&[
        ("all", prefix("/")),
        ("prefix", prefix("/a/b")),
        ("regex", regex("/a/.*")),
        ("exact", exact("/a/b")),
    ]);
    assert_eq!(get(&table, "h/a/b", &[]).as_deref(), Some("exact"));
    assert_eq!(get(&table, "h/a/b/c", &[]).as_deref(), Some("regex"));
    assert_eq!(get(&table, "h/b", &[]).as_deref(), Some("all"));
}

#[test]
fn the_longer_prefix_goes_before_the_shorter() {
    let table = one_route(&[("short", prefix("/a")), ("long", prefix("/a/bb")), ("mid", prefix("/a/b"))]);
    assert_eq!(get(&table, "h/a/bb/c", &[]).as_deref(), Some("long"));
    assert_eq!(get(&table, "h/a/b", &[]).as_deref(), Some("mid"));
    assert_eq!(get(&table, "h/a/bbb", &[]).as_deref(), Some("short"));
}

#[test]
fn a_prefix_is_of_whole_segments_and_its_last_slash_means_nothing() {
    let table = one_route(&[("p", prefix("/abc/"))]);
    for (url, fits) in
        [("h/abc", true), ("h/abc/", true), ("h/abc/def", true), ("h/abcd", false), ("h/ab", false), ("h/ABC", false)]
    {
        assert_eq!(get(&table, url, &[]).is_some(), fits, "{url}");
    }
}

#[test]
fn an_exact_path_is_compared_letter_by_letter() {
    let table = one_route(&[("p", exact("/abc"))]);
    for (url, fits) in [("h/abc", true), ("h/abc/", false), ("h/Abc", false), ("h/abc?x=1", true)] {
        assert_eq!(get(&table, url, &[]).is_some(), fits, "{url}");
    }
}

#[test]
fn a_method_goes_before_none_then_more_headers_then_more_parameters() {
    let with = |method: Option<&str>, n_headers: usize, n_query: usize| RequestMatch {
        method: method.map(Into::into),
        headers: [is("x-a", "1"), is("x-b", "1")].into_iter().take(n_headers).collect(),
        query: [is("p", "1"), is("q", "1")].into_iter().take(n_query).collect(),
        ..prefix("/a")
    };
    let table = one_route(&[
        ("plain", with(None, 0, 0)),
        ("one parameter", with(None, 0, 1)),
        ("two parameters", with(None, 0, 2)),
        ("one header", with(None, 1, 0)),
        ("two headers", with(None, 2, 0)),
        ("method", with(Some("GET"), 0, 0)),
    ]);
    let full = [("x-a", "1"), ("x-b", "1")];
    assert_eq!(get(&table, "h/a?p=1&q=1", &full).as_deref(), Some("method"));
    let of = |url, headers: &[(&str, &str)]| ask(&table, "PUT", url, headers);
    assert_eq!(of("h/a?p=1&q=1", &full).as_deref(), Some("two headers"));
    assert_eq!(of("h/a?p=1&q=1", &[("x-a", "1")]).as_deref(), Some("one header"));
    assert_eq!(of("h/a?p=1&q=1", &[]).as_deref(), Some("two parameters"));
    assert_eq!(of("h/a?p=1", &[]).as_deref(), Some("one parameter"));
    assert_eq!(of("h/a?p=2", &[("x-a", "2")]).as_deref(), Some("plain"));
}

#[test]
fn a_longer_path_goes_before_a_method_and_headers() {
    let rich = RequestMatch { method: Some("GET".into()), headers: vec![is("x-a", "1")], ..prefix("/a") };
    let table = one_route(&[("rich", rich), ("long", prefix("/a/b"))]);
    assert_eq!(get(&table, "h/a/b", &[("x-a", "1")]).as_deref(), Some("long"));
}

#[test]
fn of_equals_the_older_route_then_the_earlier_rule_has_it() {
    let two = |name: &str| {
        bound(name, &[], vec![rule(&format!("{name} first"), vec![prefix("/")]), rule("later", vec![prefix("/")])])
    };
    let table = table(vec![two("old"), two("young")]);
    assert_eq!(get(&table, "h/", &[]).as_deref(), Some("old first"));
}

#[test]
fn any_of_a_rules_matches_does_and_all_of_a_match_must() {
    let narrow = RequestMatch { headers: vec![is("version", "v2")], ..prefix("/foo") };
    let table = table(vec![bound("r", &[], vec![rule("it", vec![narrow, prefix("/v2/foo")])])]);
    assert!(get(&table, "h/foo", &[("version", "v2")]).is_some());
    assert!(get(&table, "h/v2/foo", &[]).is_some());
    assert!(get(&table, "h/foo", &[]).is_none());
}

#[test]
fn a_host_is_compared_without_case_port_or_final_dot() {
    let table = table(vec![bound("r", &["foo.example.com"], vec![rule("it", vec![prefix("/")])])]);
    for host in ["foo.example.com", "FOO.Example.com:8080", "foo.example.com."] {
        assert!(get(&table, &format!("{host}/"), &[]).is_some(), "{host}");
    }
    for host in ["example.com", "a.foo.example.com", "foo.example.org", ""] {
        assert!(get(&table, &format!("{host}/"), &[]).is_none(), "{host}");
    }
}

#[test]
fn a_wildcard_is_for_every_depth_below_and_not_for_its_own_name() {
    let table = table(vec![bound("r", &["*.example.com"], vec![rule("it", vec![prefix("/")])])]);
    for (host, fits) in
        [("a.example.com", true), ("b.a.example.com", true), ("example.com", false), ("xexample.com", false)]
    {
        assert_eq!(get(&table, &format!("{host}/"), &[]).is_some(), fits, "{host}");
    }
}

#[test]
fn the_more_exact_host_goes_before_everything_and_what_it_has_no_rule_for_goes_on() {
    let of = |name: &str, hosts: &[&str], path: &str| bound(name, hosts, vec![rule(name, vec![prefix(path)])]);
    let table = table(vec![
        of("none", &[], "/"),
        of("short", &["*.com"], "/a/b/c"),
        of("long", &["*.example.com"], "/a/b"),
        of("exact", &["foo.example.com"], "/a"),
    ]);
    assert_eq!(get(&table, "foo.example.com/a/b/c", &[]).as_deref(), Some("exact"));
    assert_eq!(get(&table, "bar.example.com/a/b/c", &[]).as_deref(), Some("long"));
    assert_eq!(get(&table, "example.com/a/b/c", &[]).as_deref(), Some("short"));
    assert_eq!(get(&table, "foo.example.com/b", &[]).as_deref(), Some("none"));
    assert_eq!(get(&table, "foo.example.org/a/b/c", &[]).as_deref(), Some("none"));
}

#[test]
fn a_header_that_stands_twice_is_one_list() {
    let table = one_route(&[("it", RequestMatch { headers: vec![is("x-a", "1,2")], ..prefix("/") })]);
    assert!(get(&table, "h/", &[("x-a", "1"), ("x-a", "2")]).is_some());
    assert!(get(&table, "h/", &[("x-a", "1")]).is_none());
}

#[test]
fn the_host_can_be_asked_for_as_a_header() {
    let table = one_route(&[("it", RequestMatch { headers: vec![is("host", "foo")], ..prefix("/") })]);
    assert!(get(&table, "foo/", &[]).is_some());
    assert!(get(&table, "bar/", &[("host", "foo")]).is_none(), "what was asked, not what is claimed beside it");
}

#[test]
fn a_consumers_routes_count_in_place_of_the_producers_for_its_own_pods_only() {
    let mut consumer = bound("consumer", &[], vec![rule("consumer", vec![prefix("/only")])]);
    consumer.clients = Clients::Namespace("front".into());
    let table = table(vec![bound("producer", &[], vec![rule("producer", vec![prefix("/")])]), consumer]);
    let headers = HeaderMap::new();
    let of = |namespace: &str, path: &str| {
        let request = Request { authority: "h", method: "GET", path, query: None, headers: &headers };
        table.choose(table.view(80, namespace).unwrap(), &request).and_then(|found| found.rule.name.clone())
    };
    assert_eq!(of("front", "/only").as_deref(), Some("consumer"));
    assert_eq!(of("front", "/other"), None, "the producer's are not merged in");
    assert_eq!(of("back", "/only").as_deref(), Some("producer"));
    assert!(table.view(81, "front").is_none(), "another port has no routes");
}

#[test]
fn a_grpc_match_counts_by_its_services_letters_then_its_methods_then_headers() {
    let grpc = |service: Option<&str>, method: Option<&str>| {
        let text = |text: &str| Text::Exact(text.into());
        path(PathMatch::Grpc { service: service.map(text), method: method.map(text) })
    };
    let with_header = RequestMatch { headers: vec![is("x-a", "1")], ..grpc(None, Some("Get")) };
    let by_regex = path(PathMatch::Grpc { service: Some(Text::Regex("shop\\.[A-Z].*".into())), method: None });
    let mut table_of = bound(
        "r",
        &[],
        [
            ("all", grpc(None, None)),
            ("method", grpc(None, Some("Get"))),
            ("method and header", with_header),
            ("service", grpc(Some("shop.Cart"), None)),
            ("both", grpc(Some("shop.Cart"), Some("Get"))),
            ("regex", by_regex),
        ]
        .into_iter()
        .map(|(name, one)| rule(name, vec![one]))
        .collect(),
    );
    table_of.route.kind = RouteKind::Http;
    let table = table(vec![table_of]);
    let of = |url, headers: &[(&str, &str)]| ask(&table, "POST", url, headers);
    assert_eq!(of("h/shop.Books/Get", &[]).as_deref(), Some("regex"), "its expression has the most letters");
    assert_eq!(of("h/shop.Cart/Get", &[]).as_deref(), Some("regex"));
    assert_eq!(of("h/b.Cart/Get", &[("x-a", "1")]).as_deref(), Some("method and header"));
    assert_eq!(of("h/b.Cart/Get", &[]).as_deref(), Some("method"));
    assert_eq!(of("h/b.Cart/Put", &[]).as_deref(), Some("all"));
    assert_eq!(of("h/no-method", &[]), None);
    assert_eq!(of("h/a/b/c", &[]), None);
}
