//! What filters make of heads, by example.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use millrace_model::route::{HeaderEdit, PathEdit, PathMatch, Redirect, Rewrite, Scheme};

use super::{edit, redirected, rewritten, strip_hop_by_hop};

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix(text.into())
}

#[test]
fn headers_are_set_then_added_then_removed() {
    let mut map = headers(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let of = |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let filter = HeaderEdit { set: of(&[("a", "2"), ("d", "2")]), add: of(&[("b", "2")]), remove: vec!["c".into()] };
    edit(&mut map, &filter);
    assert_eq!(map.get_all("b").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(map["a"] == "2" && map["d"] == "2" && map.get("c").is_none(), "{map:?}");
}

#[test]
fn what_is_for_one_connection_stays_there() {
    let mut map = headers(&[
        ("connection", "close, X-Own"),
        ("x-own", "1"),
        ("keep-alive", "1"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("x-else", "1"),
    ]);
    strip_hop_by_hop(&mut map);
    assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-else"]);
    let mut grpc = headers(&[("te", "trailers")]);
    strip_hop_by_hop(&mut grpc);
    assert_eq!(grpc["te"], "trailers");
}

/// The table in HTTPPathModifier's documentation.
#[test]
fn a_prefix_is_replaced_as_the_specifications_table_says() {
    for (path, matched, new, wanted) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "", "/xyz", "/xyz/bar"),
        ("/", "", "/xyz", "/xyz"),
    ] {
        let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
        let uri: Uri = format!("{path}?q=1").parse().unwrap();
        let found = rewritten(&rewrite, &prefix(matched), &uri).unwrap();
        assert_eq!(found.as_str(), format!("{wanted}?q=1"), "{path} {matched} {new}");
    }
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    let plain = Redirect { scheme: None, host: None, path: None, port: None, status: 302 };
    let uri: Uri = "/a/b?q=1".parse().unwrap();
    let to = |redirect: Redirect, authority: &str, port: u16| {
        let (status, location) = redirected(&redirect, &prefix("/a"), (&uri, authority, port)).unwrap();
        (status.as_u16(), location.to_str().unwrap().to_owned())
    };
    assert_eq!(to(plain.clone(), "web", 80), (302, "http://web/a/b?q=1".to_owned()));
    assert_eq!(to(plain.clone(), "web:8080", 8080).1, "http://web:8080/a/b?q=1");
    assert_eq!(
        to(Redirect { scheme: Some(Scheme::Https), ..plain.clone() }, "web:8080", 8080).1,
        "https://web/a/b?q=1"
    );
    assert_eq!(
        to(Redirect { port: Some(81), status: 308, ..plain.clone() }, "web", 80),
        (308, "http://web:81/a/b?q=1".to_owned())
    );
    assert_eq!(
        to(Redirect { host: Some("new.org".into()), ..plain.clone() }, "[fd00::1]:80", 80).1,
        "http://new.org/a/b?q=1"
    );
    assert_eq!(to(plain.clone(), "[fd00::1]", 80).1, "http://[fd00::1]/a/b?q=1");
    let path = Some(PathEdit::Prefix("/new".into()));
    assert_eq!(to(Redirect { path, ..plain.clone() }, "web", 80).1, "http://web/new/b?q=1");
    let path = Some(PathEdit::Full("/whole".into()));
    assert_eq!(to(Redirect { path, ..plain }, "web", 80).1, "http://web/whole?q=1");
}
