//! What is held back, until when.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Version, request::Parts};
use http_body_util::{BodyExt as _, Full};
use tokio::time::timeout;

use super::{Asked, Gate, PATIENCE, hold, take};
use crate::http::body::Outgoing;

fn head(version: Version, expect: Option<&str>) -> Parts {
    let mut request = Request::builder().version(version);
    if let Some(expect) = expect {
        request = request.header("expect", expect);
    }
    request.body(()).unwrap().into_parts().0
}

fn body() -> Outgoing {
    Outgoing::Whole(Full::new(Bytes::from_static(b"abc")))
}

fn held() -> (Outgoing, Arc<Gate>, Asked) {
    let mut request = Request::builder().header("expect", "100-continue").body(()).unwrap();
    let asked = Asked::enter(&mut request).unwrap();
    let mut head = request.into_parts().0;
    assert!(take(&mut head));
    let (body, gate) = hold(true, &mut head, body());
    assert_eq!(head.headers["expect"], "100-continue");
    (body, gate.unwrap(), asked)
}

#[test]
fn only_who_may_expects_to_be_asked() {
    let is_taken = |version, expect| {
        let mut head = head(version, expect);
        let is_taken = take(&mut head);
        assert!(!head.headers.contains_key("expect"));
        is_taken
    };
    assert!(is_taken(Version::HTTP_11, Some("100-Continue")));
    assert!(is_taken(Version::HTTP_2, Some("100-continue")));
    assert!(!is_taken(Version::HTTP_10, Some("100-continue")));
    assert!(!is_taken(Version::HTTP_11, Some("tea")));
    assert!(!is_taken(Version::HTTP_11, None));
    // What has no body has nothing to be asked for.
    let mut head = head(Version::HTTP_11, None);
    let (_, gate) = hold(true, &mut head, Outgoing::Empty);
    assert!(gate.is_none() && !head.headers.contains_key("expect"));
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_once_it_is_asked_for_and_its_client_is_told() {
    let (mut body, gate, asked) = held();
    assert!(timeout(PATIENCE / 2, body.frame()).await.is_err(), "nobody has asked");
    gate.heard(StatusCode::PROCESSING);
    assert!(timeout(PATIENCE / 4, body.frame()).await.is_err(), "nor does another word ask");
    gate.heard(StatusCode::CONTINUE);
    let came = timeout(PATIENCE / 8, body.collect()).await.expect("it is asked for").unwrap();
    assert_eq!(came.to_bytes(), "abc");
    assert!(timeout(Duration::ZERO, Asked::come(Some(&asked))).await.is_ok());
    assert!(!gate.close(), "it was asked for");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_asks_gets_it_after_a_while() {
    let (body, _gate, asked) = held();
    let began = tokio::time::Instant::now();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
    assert!(timeout(Duration::ZERO, Asked::come(Some(&asked))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_first_never_gets_it() {
    let (mut body, gate, asked) = held();
    assert!(timeout(PATIENCE / 2, body.frame()).await.is_err());
    assert!(gate.close());
    assert!(timeout(PATIENCE * 10, body.frame()).await.is_err());
    assert!(timeout(PATIENCE, Asked::come(Some(&asked))).await.is_err(), "its client keeps it");
}
