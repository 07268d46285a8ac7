//! What other origins are told, by Gateway API's words for each field.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use millrace_model::route::{Cors, Credentials};

use super::{Judged, judge};

fn list(texts: &[&str]) -> Vec<std::sync::Arc<str>> {
    texts.iter().map(|text| (*text).into()).collect()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn shop() -> Cors {
    Cors {
        origins: list(&["https://www.foo.com", "https://*.bar.com"]),
        methods: list(&["GET", "OPTIONS"]),
        headers: list(&["x-header-1", "x-header-2"]),
        expose: list(&["x-header-3", "x-header-4"]),
        credentials: Credentials::Allowed,
        max_age_s: 3600,
    }
}

fn all(credentials: Credentials) -> Cors {
    let star = || list(&["*"]);
    Cors { origins: star(), methods: star(), headers: star(), expose: star(), credentials, max_age_s: 5 }
}

fn preflight(cors: &Cors, origin: &'static str, more: &[(&'static str, &'static str)]) -> Option<HeaderMap> {
    let mut asked = headers(&[("origin", origin), ("access-control-request-method", "PUT")]);
    asked.extend(headers(more));
    match judge(cors, &Method::OPTIONS, &asked) {
        Judged::Preflight(answer) => Some(answer),
        Judged::Unwelcome => None,
        Judged::Goes(_) => panic!("a preflight is answered here"),
    }
}

fn marked(cors: &Cors, asked: &[(&'static str, &'static str)], answer: &[(&'static str, &'static str)]) -> HeaderMap {
    let Judged::Goes(marks) = judge(cors, &Method::GET, &headers(asked)) else { panic!("it is no preflight") };
    let mut answer = headers(answer);
    marks.mark(&mut answer);
    answer
}

#[test]
fn a_preflight_of_a_welcome_origin_is_told_all_that_is_written() {
    for origin in ["https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"] {
        let answer = preflight(&shop(), origin, &[("access-control-request-headers", "x-header-1")]).unwrap();
        let wanted = headers(&[
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
            ("access-control-max-age", "3600"),
        ]);
        assert_eq!(answer, wanted, "{origin}");
    }
}

#[test]
fn an_origin_is_welcome_by_scheme_host_and_port() {
    let welcome = |written: &str, origin: &'static str| {
        preflight(&Cors { origins: list(&[written]), ..shop() }, origin, &[]).is_some()
    };
    assert!(welcome("https://foo.com", "https://foo.com:443"), "a port left out is the scheme's");
    assert!(welcome("http://foo.com:80", "http://FOO.com"));
    assert!(!welcome("https://foo.com", "http://foo.com"));
    assert!(!welcome("https://foo.com", "https://foo.com:8443"));
    assert!(welcome("https://*.foo.com", "https://a.b.foo.com"));
    assert!(!welcome("https://*.foo.com", "https://foo.com"), "a star stands for one label at least");
    assert!(!welcome("https://*.foo.com", "https://evilfoo.com"));
    assert!(!welcome("https://foo.com", "https://foo.com.evil.org"));
    assert!(welcome("https://*", "https://any.where"));
    assert!(!welcome("https://*", "https://any.where:8443"));
    assert!(welcome("http://*:8080", "http://[::1]:8080"));
    assert!(welcome("*", "null"));
    assert!(!welcome("https://*", "null"));
    assert!(!welcome("https://*.foo.com", "https://evil.org/.foo.com"), "what stands behind a slash is no host");
}

#[test]
fn a_star_is_what_was_asked_for() {
    let asked = [("access-control-request-headers", "authorization, x-a")];
    for credentials in [Credentials::Omitted, Credentials::Allowed] {
        let answer = preflight(&all(credentials), "https://a.org", &asked).unwrap();
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer["access-control-allow-headers"], "authorization, x-a");
        let without = preflight(&all(credentials), "https://a.org", &[]).unwrap();
        assert!(!without.contains_key("access-control-allow-headers"));
    }
}

#[test]
fn with_credentials_no_star_is_told() {
    let answer = preflight(&all(Credentials::Allowed), "https://a.org", &[]).unwrap();
    assert_eq!(answer["access-control-allow-origin"], "https://a.org");
    assert!(!answer.contains_key("access-control-expose-headers"));
    let asked = [("origin", "https://a.org"), ("cookie", "a=b")];
    let answer = marked(&all(Credentials::Allowed), &asked, &[("x-own", "1"), ("content-type", "a/b")]);
    assert_eq!(answer["access-control-allow-origin"], "https://a.org");
    assert_eq!(answer["access-control-allow-credentials"], "true");
    let exposed = answer["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("x-own") && !exposed.contains('*'), "{exposed}");
    let open = marked(&all(Credentials::Omitted), &asked, &[]);
    assert_eq!(open["access-control-allow-origin"], "*");
    assert_eq!(open["access-control-expose-headers"], "*");
    assert!(!open.contains_key("access-control-allow-credentials") && !open.contains_key("vary"));
}

#[test]
fn an_origin_that_is_not_welcome_is_told_nothing_whatever_the_application_says() {
    assert!(preflight(&shop(), "https://foobar.com", &[]).is_none());
    let own = [("access-control-allow-origin", "*"), ("x-own", "1")];
    for asked in [&[("origin", "https://foobar.com")][..], &[]] {
        let answer = marked(&shop(), asked, &own);
        assert_eq!(answer, headers(&[("x-own", "1"), ("vary", "origin")]), "{asked:?}");
    }
    let answer = marked(&shop(), &[("origin", "https://www.foo.com")], &own);
    assert_eq!(answer["access-control-allow-origin"], "https://www.foo.com");
    assert_eq!(answer["vary"], "origin", "caches keep answers to different origins apart");
}

#[test]
fn what_is_not_written_is_not_told_and_options_without_a_question_go_on() {
    let none = Cors { origins: list(&["*"]), max_age_s: 5, ..Cors::default() };
    let answer = preflight(&none, "https://a.org", &[("access-control-request-headers", "x-a")]).unwrap();
    let wanted = headers(&[("access-control-allow-origin", "*"), ("access-control-max-age", "5")]);
    assert_eq!(answer, wanted, "GET, HEAD and POST need no word");
    for asked in [&[("origin", "https://a.org")][..], &[("access-control-request-method", "GET")], &[]] {
        assert!(matches!(judge(&none, &Method::OPTIONS, &headers(asked)), Judged::Goes(_)), "{asked:?}");
    }
}
