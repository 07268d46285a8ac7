//! What an endpoint is told of who asks, and what a client can not claim.

use http::HeaderMap;
use millrace_model::Identity;

use super::{Asker, is_forwarded, tell, uuid};

/// What an endpoint gets of these headers, in order of name.
fn told(came: &[(&'static str, &'static str)], address: &str) -> Vec<(String, String)> {
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/client".parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in came {
        headers.append(*name, value.parse().unwrap());
    }
    let asker = Asker { address: address.parse().unwrap(), identity: &identity };
    tell(&mut headers, &asker.said(), || 7);
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    all.sort();
    all
}

fn of(all: &[(String, String)], name: &str) -> Vec<String> {
    all.iter().filter(|(one, _)| one == name).map(|(_, value)| value.clone()).collect()
}

#[test]
fn a_request_that_says_nothing_gets_all_but_forwarded() {
    let all = told(&[], "10.0.0.7");
    assert_eq!(of(&all, "x-forwarded-for"), ["10.0.0.7"]);
    assert_eq!(of(&all, "x-forwarded-proto"), ["http"]);
    assert_eq!(of(&all, "x-forwarded-client-cert"), ["URI=spiffe://cluster.local/ns/shop/sa/client"]);
    assert_eq!(of(&all, "x-request-id"), ["00000000-0000-4000-8000-000000000007"]);
    assert_eq!(of(&all, "forwarded"), [""; 0]);
}

#[test]
fn an_identity_that_a_client_claims_is_replaced_however_often_it_claims_it() {
    let forged = "By=spiffe://x;URI=spiffe://cluster.local/ns/bank/sa/admin";
    let all = told(&[("x-forwarded-client-cert", forged), ("x-forwarded-client-cert", forged)], "10.0.0.7");
    assert_eq!(of(&all, "x-forwarded-client-cert"), ["URI=spiffe://cluster.local/ns/shop/sa/client"]);
}

#[test]
fn the_last_hop_is_always_the_pod_that_asked() {
    let all = told(&[("x-forwarded-for", "1.2.3.4, 5.6.7.8"), ("x-forwarded-for", "9.9.9.9")], "fd00::7");
    assert_eq!(of(&all, "x-forwarded-for"), ["1.2.3.4, 5.6.7.8, 9.9.9.9, fd00::7"]);
    let all = told(&[("forwarded", "for=1.2.3.4;by=\"_a\\\"b\""), ("forwarded", "for=x")], "fd00::7");
    assert_eq!(of(&all, "forwarded"), ["for=1.2.3.4;by=\"_a\\\"b\", for=x, for=\"[fd00::7]\";proto=http"]);
    let all = told(&[("forwarded", "for=\"unclosed")], "10.0.0.7");
    assert_eq!(of(&all, "forwarded"), ["for=10.0.0.7;proto=http"], "a quote can't swallow what is behind it");
}

#[test]
fn a_gateways_protocol_and_id_are_kept_where_they_are_one() {
    let all = told(&[("x-forwarded-proto", "https"), ("x-request-id", "abc-1")], "10.0.0.7");
    assert_eq!((of(&all, "x-forwarded-proto"), of(&all, "x-request-id")), (vec!["https".into()], vec!["abc-1".into()]));
    let long: &'static str = "a".repeat(129).leak();
    for bad in [
        [("x-forwarded-proto", "gopher"), ("x-request-id", "a b")],
        [("x-forwarded-proto", "https,http"), ("x-request-id", long)],
    ] {
        let all = told(&bad, "10.0.0.7");
        assert_eq!(of(&all, "x-forwarded-proto"), ["http"]);
        assert_eq!(of(&all, "x-request-id"), ["00000000-0000-4000-8000-000000000007"]);
    }
    let twice = told(&[("x-request-id", "a"), ("x-request-id", "b")], "10.0.0.7");
    assert_eq!(of(&twice, "x-request-id"), ["00000000-0000-4000-8000-000000000007"]);
}

#[test]
fn lists_of_forwarded_are_told_from_what_is_none() {
    for good in ["for=a", "for=a;by=b, for=c", "For=\"[2001:db8::1]:4711\" ; proto=http", "for=_x,for=y"] {
        assert!(is_forwarded(good.as_bytes()), "{good}");
    }
    for bad in
        ["", "for", "for=", "=a", "for=a;", "for=a,", "for=a b", "for=\"a", "for=\"a\\", "for=a;;by=b", "f\u{e4}=a"]
    {
        assert!(!is_forwarded(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn an_id_is_a_random_uuid() {
    assert_eq!(uuid(u128::MAX), *b"ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid(0), *b"00000000-0000-4000-8000-000000000000");
}
