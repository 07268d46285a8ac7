//! States what a token says, to whom, and for how long; and what is no token.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::COOKIE};
use millrace_model::{
    Session,
    route::PathMatch,
    session::{Carrier, CookiePath, Lifetime},
};
use proptest::prelude::*;

use super::{Id, Token, cookie_path, tokens};

const NOW: u64 = 1_800_000_000;

fn session(absolute_s: Option<u64>, idle_s: Option<u64>) -> Session {
    let [absolute, idle] = [absolute_s, idle_s].map(|time| time.map(Duration::from_secs));
    let carrier = Carrier::Cookie { lifetime: Lifetime::Session, path: CookiePath::Matched };
    Session { name: "s".into(), carrier, absolute, idle, tag: 7 }
}

const ONE: Id = [1; 12];
const OTHER: Id = [2; 12];

fn given(session: &Session) -> Token {
    Token::next(None, session, ONE, NOW).unwrap()
}

#[test]
fn a_token_is_read_as_it_was_given_and_by_its_own_rule_alone() {
    for session in [session(None, None), session(Some(60), None), session(None, Some(60)), session(Some(9), Some(8))] {
        let token = given(&session);
        let text = token.written();
        assert_eq!(Token::read(text.as_bytes(), &session, NOW), Some(token));
        let another = Session { tag: 8, ..session.clone() };
        assert_eq!(Token::read(text.as_bytes(), &another, NOW), None, "another rule's");
        assert_eq!(Token::read(text.to_uppercase().as_bytes(), &session, NOW).is_some(), text == text.to_uppercase());
        assert_eq!(Token::read(format!("{text}0").as_bytes(), &session, NOW), None);
    }
    // A rule that ends sessions believes no token without times, nor the other way round.
    let text = given(&session(None, None)).written();
    assert_eq!(Token::read(text.as_bytes(), &session(Some(60), None), NOW), None);
    let text = given(&session(Some(60), None)).written();
    assert_eq!(Token::read(text.as_bytes(), &session(None, None), NOW), None);
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let is_good =
        |session: &Session, token: &Token, at: u64| Token::read(token.written().as_bytes(), session, at).is_some();
    let absolute = session(Some(60), None);
    let token = given(&absolute);
    assert!(is_good(&absolute, &token, NOW + 59) && !is_good(&absolute, &token, NOW + 60));
    assert!(
        is_good(&absolute, &token, NOW - 60) && !is_good(&absolute, &token, NOW - 61),
        "clocks differ, but not so far"
    );
    assert_eq!(Token::next(Some(&token), &absolute, ONE, NOW + 59), None, "the client has it");

    let idle = session(None, Some(80));
    let token = given(&idle);
    assert_eq!(Token::next(Some(&token), &idle, ONE, NOW + 9), None, "it is not given with each answer");
    let next = Token::next(Some(&token), &idle, ONE, NOW + 70).unwrap();
    assert!(!is_good(&idle, &token, NOW + 81) && is_good(&idle, &next, NOW + 149), "who comes back goes on");

    let both = session(Some(100), Some(80));
    let next = Token::next(Some(&given(&both)), &both, ONE, NOW + 70).unwrap();
    assert!(is_good(&both, &next, NOW + 99) && !is_good(&both, &next, NOW + 100), "but not for ever");
}

#[test]
fn a_request_that_another_endpoint_took_is_of_another_session() {
    let session = session(Some(60), None);
    let next = Token::next(Some(&given(&session)), &session, OTHER, NOW + 50).unwrap();
    assert_eq!(next, Token::next(None, &session, OTHER, NOW + 50).unwrap());
}

#[test]
fn tokens_are_found_among_other_cookies() {
    let mut headers = HeaderMap::new();
    headers.append(COOKIE, HeaderValue::from_static("a=b; s=one;s=two ; ss=three"));
    headers.append(COOKIE, HeaderValue::from_static("s=four; S=five"));
    let found = |session: &Session| -> Vec<String> {
        tokens(session, &headers).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    };
    assert_eq!(found(&session(None, None)), ["one", "two", "four"]);
    assert_eq!(found(&Session { carrier: Carrier::Header, ..session(None, None) }), Vec::<String>::new());
}

#[test]
fn a_cookie_is_for_the_paths_that_its_match_is_for() {
    let of = |path: PathMatch| cookie_path(&path).to_owned();
    assert_eq!(of(PathMatch::Prefix("".into())), "/");
    assert_eq!(of(PathMatch::Prefix("/shop".into())), "/shop");
    assert_eq!(of(PathMatch::Exact("/a/b".into())), "/a/b");
    assert_eq!(of(PathMatch::Exact("/a;Domain=x".into())), "/", "it adds nothing to the cookie");
    for (expression, wanted) in
        [("/p1/p2/[^/]+/p3", "/p1/p2"), ("/ab?", "/"), ("/a/?", "/a"), ("^/a/b", "/a/b"), ("/a|/b", "/"), (".*", "/")]
    {
        assert_eq!(of(PathMatch::Regex(expression.into())), wanted, "{expression}");
    }
    assert_eq!(of(PathMatch::Grpc { service: None, method: None }), "/");
}

proptest! {
    #[test]
    fn whatever_a_client_writes_is_a_token_or_none(text in prop::collection::vec(any::<u8>(), 0..64), now in any::<u32>()) {
        for session in [session(None, None), session(Some(60), Some(30))] {
            if let Some(token) = Token::read(&text, &session, now.into()) {
                prop_assert_eq!(token.written().into_bytes(), text.clone());
            }
        }
    }

    #[test]
    fn a_token_with_a_letter_changed_is_another_endpoints_or_none(at in 0usize..48, letter in "[0-9a-f]") {
        let session = session(Some(60), None);
        let token = given(&session);
        let mut text = token.written();
        text.replace_range(at..=at, &letter);
        let read = Token::read(text.as_bytes(), &session, NOW);
        prop_assert!(read.is_none_or(|read| read.written() == text));
    }
}
