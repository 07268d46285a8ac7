//! States how answers' heads are written, and their bodies framed.

use http::{HeaderValue, Request, Response};

use super::*;

fn wishes(text: &str) -> Wishes {
    let mut request = Request::builder();
    let mut lines = text.lines();
    let (method, version) = lines.next().and_then(|line| line.split_once(' ')).expect("method and version");
    request = request.method(method).version(if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 });
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    Wishes::of(&request.body(()).unwrap().into_parts().0)
}

/// A head, as it is written for this request.
fn written(asked: &str, status: u16, headers: &[(&str, &str)], body: SizeHint) -> (Framing, String) {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let (wishes, head) = (wishes(asked), response.body(()).unwrap().into_parts().0);
    let framing = framing(&wishes, &head, &body);
    let mut to = BytesMut::new();
    write(&wishes, head, (framing, wishes.is_kept), &mut to);
    let text = String::from_utf8(to.to_vec()).unwrap();
    assert!(text.ends_with("\r\n\r\n") && !text.trim_end().contains("\r\n\r\n"), "{text:?}");
    let lengths = text.lines().filter(|line| line.starts_with("content-length") || line.starts_with("transfer-"));
    assert!(lengths.count() <= 1, "one length at most: {text:?}");
    (framing, text)
}

const SOME: &[(&str, &str)] = &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("x-a", "1"), ("x-a", "2")];

#[test]
fn an_answer_says_its_status_its_fields_and_the_length_that_it_has() {
    let (framing, text) = written("GET 1.1", 200, SOME, SizeHint::with_exact(3));
    assert_eq!(framing, Framing::Length(3));
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(text, format!("HTTP/1.1 200 OK\r\n{date}\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 3\r\n\r\n"));
    let (_, text) = written("GET 1.1", 299, &SOME[..1], SizeHint::with_exact(0));
    assert_eq!(text, format!("HTTP/1.1 299 \r\n{date}\r\ncontent-length: 0\r\n\r\n"));
}

#[test]
fn a_date_is_added_where_there_is_none() {
    let (_, text) = written("GET 1.1", 200, &[], SizeHint::with_exact(0));
    let date = text.lines().find_map(|line| line.strip_prefix("date: ")).expect("a date");
    let said = httpdate::parse_http_date(date).unwrap();
    let now = SystemTime::UNIX_EPOCH + clock::unix_time();
    assert!(now.duration_since(said).unwrap().as_secs() < 5, "{date}");
    assert_eq!(written("GET 1.1", 200, SOME, SizeHint::with_exact(0)).1.matches("date: ").count(), 1);
}

#[test]
fn what_is_known_of_a_body_frames_it_and_not_what_its_head_says() {
    let said: &[_] = &[("content-length", "7"), ("transfer-encoding", "gzip"), ("connection", "x-a, keep-alive")];
    for (asked, status, headers, body, want) in [
        ("GET 1.1", 200, said, SizeHint::with_exact(5), Framing::Length(5)),
        // HTTP/2 says a length, and its stream none.
        ("GET 1.1", 200, said, SizeHint::default(), Framing::Length(7)),
        ("GET 1.1", 200, &[], SizeHint::default(), Framing::Chunked),
        ("GET 1.1", 200, &[("content-length", "7"), ("content-length", "7")], SizeHint::default(), Framing::Chunked),
        ("GET 1.1", 200, &[("content-length", "+7")], SizeHint::default(), Framing::Chunked),
        ("GET 1.0", 200, &[], SizeHint::default(), Framing::UntilClose),
        ("GET 1.0", 200, &[], SizeHint::with_exact(5), Framing::Length(5)),
        ("HEAD 1.1", 200, said, SizeHint::with_exact(0), Framing::None),
        ("GET 1.1", 204, said, SizeHint::with_exact(0), Framing::None),
        ("GET 1.1", 304, said, SizeHint::with_exact(0), Framing::None),
        ("GET 1.1", 101, &[], SizeHint::with_exact(0), Framing::None),
    ] {
        let (framing, text) = written(asked, status, headers, body);
        assert_eq!(framing, want, "{asked} {status} {headers:?}: {text}");
        // What a GET would get is said to a HEAD; a 204 has no length at all.
        let length = match (framing, status, asked) {
            (Framing::Length(length), ..) => Some(length),
            (_, 304, _) | (_, 200, "HEAD 1.1") => Some(7),
            _ => None,
        };
        let line = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(line, length.map(|length| length.to_string()).as_deref(), "{asked} {status}: {text}");
        assert_eq!(text.contains("transfer-encoding: chunked"), framing == Framing::Chunked, "{text}");
        assert!(!text.contains("gzip") && !text.contains("x-a"), "{text}");
    }
}

#[test]
fn who_asks_says_whether_its_connection_is_kept() {
    for (asked, is_kept, line) in [
        ("GET 1.1", true, None),
        ("GET 1.1\nconnection: Close", false, Some("connection: close")),
        ("GET 1.1\nconnection: keep-alive, close", false, Some("connection: close")),
        ("GET 1.1\nconnection: close\nconnection: keep-alive", false, Some("connection: close")),
        ("GET 1.0", false, None),
        ("GET 1.0\nconnection: Keep-Alive", true, Some("connection: keep-alive")),
        ("GET 1.0\nconnection: keep-alive\nconnection: close", false, None),
    ] {
        assert_eq!(wishes(asked).is_kept, is_kept, "{asked}");
        let (_, text) = written(asked, 200, &[], SizeHint::with_exact(0));
        assert_eq!(text.lines().find(|line| line.starts_with("connection")), line, "{asked}");
        let version = if asked.starts_with("GET 1.0") { "HTTP/1.0 " } else { "HTTP/1.1 " };
        assert!(text.starts_with(version), "{text}");
    }
}

#[test]
fn trailers_and_words_before_an_answer_are_for_those_who_ask_for_them() {
    assert!(wishes("GET 1.1\nte: gzip, Trailers").takes_trailers);
    assert!(!wishes("GET 1.1").takes_trailers && !wishes("GET 1.0\nte: trailers").takes_trailers);
    assert!(wishes("POST 1.1\nexpect: 100-Continue").waits && !wishes("POST 1.0\nexpect: 100-continue").waits);
}

/// The protocol that both have agreed to stands where HTTP ends.
#[test]
fn a_change_of_protocol_keeps_what_says_so() {
    let mut response = Response::builder().status(101).body(()).unwrap();
    response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let (wishes, mut to) = (wishes("GET 1.1"), BytesMut::new());
    write(&wishes, response.into_parts().0, (Framing::None, true), &mut to);
    let text = String::from_utf8(to.to_vec()).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"),
        "{text}"
    );
    assert!(!text.contains("content-length"), "{text}");
}
