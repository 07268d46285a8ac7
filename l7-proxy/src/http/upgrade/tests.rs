//! Which requests ask for another protocol, and which answers agree to it.

use http::{HeaderMap, Request, StatusCode, Version, request::Parts};

use super::{asked, is_agreed};

fn head(version: Version, lines: &[(&'static str, &'static str)]) -> Parts {
    let mut request = Request::builder().version(version);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn one_protocol_that_is_not_http_may_be_asked_for() {
    fn may(version: Version, lines: &[(&'static str, &'static str)]) -> bool {
        asked(&head(version, lines), false).is_some()
    }
    let named = ("connection", "keep-alive, Upgrade");
    assert!(may(Version::HTTP_11, &[named, ("upgrade", "websocket")]));
    assert!(may(Version::HTTP_11, &[named, ("upgrade", "SPDY/3.1")]));
    for protocol in ["h2c", "H2C", "HTTP/2.0", "h2", "TLS/1.3", "websocket, h2c", "a b", ""] {
        assert!(!may(Version::HTTP_11, &[named, ("upgrade", protocol)]), "{protocol}");
    }
    assert!(!may(Version::HTTP_11, &[named, ("upgrade", "websocket"), ("upgrade", "h2c")]), "twice");
    assert!(!may(Version::HTTP_11, &[("upgrade", "websocket")]), "Connection does not name it");
    assert!(!may(Version::HTTP_10, &[named, ("upgrade", "websocket")]), "HTTP/1.0 has none");
    assert!(!may(Version::HTTP_2, &[named, ("upgrade", "websocket")]), "nor has HTTP/2");
    assert!(
        asked(&head(Version::HTTP_11, &[named, ("upgrade", "websocket")]), true).is_none(),
        "a body would come first"
    );
}

#[test]
fn an_answer_agrees_to_what_was_asked_for_and_to_nothing_else() {
    let answer = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    };
    let (switching, protocol) = (StatusCode::SWITCHING_PROTOCOLS, "websocket".parse().unwrap());
    let good = answer(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]);
    assert!(is_agreed(switching, &good, &protocol));
    assert!(!is_agreed(StatusCode::OK, &good, &protocol));
    assert!(!is_agreed(switching, &answer(&[("connection", "upgrade"), ("upgrade", "h2c")]), &protocol));
    assert!(!is_agreed(switching, &answer(&[("connection", "upgrade")]), &protocol));
    assert!(!is_agreed(switching, &answer(&[("upgrade", "websocket")]), &protocol));
}
