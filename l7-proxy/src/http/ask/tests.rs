//! What is asked and what is heard, between the client's half and an endpoint that says exactly what a test has it say.

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use millrace_model::ObjectName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::{JoinHandle, yield_now},
    time::timeout,
};

use super::{
    super::{
        body::Broken,
        coding::{Decoder, Reason, Step},
        expect::hold,
        received::Received,
    },
    head::Head,
    *,
};
use crate::{
    handshakes::Caller,
    home::Pod,
    limits::{Accounts, Budget},
};

/// What the connection holds in either direction.
const PIPE: usize = 1024 * 1024;

/// What an endpoint reads at once.
const HEAD: usize = 1024;

/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// A connection, its endpoint's end, and what moves its bytes.
struct Stage {
    asker: Asker,
    endpoint: DuplexStream,
    driver: JoinHandle<Over<DuplexStream>>,
}

fn stage_with(pipe: usize) -> Stage {
    let accounts = Accounts::new(Budget::new(1 << 30));
    let account = accounts.of(&Pod { name: ObjectName::new("shop", "web"), uid: "1".into() });
    let waits = Arc::new(account.waits(Caller::Other(Ipv4Addr::LOCALHOST.into())));
    let (ours, endpoint) = duplex(pipe);
    let (asker, mut asking) = Asking::new(ours, &waits);
    let driver = tokio::spawn(poll_fn(move |cx| asking.poll(cx)));
    Stage { asker, endpoint, driver }
}

fn stage() -> Stage {
    stage_with(PIPE)
}

impl Stage {
    /// What the endpoint reads at once.
    async fn reads(&mut self) -> String {
        let mut bytes = vec![0; PIPE];
        let n = timeout(SOON, self.endpoint.read(&mut bytes)).await.expect("something is asked").unwrap();
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.endpoint.write_all(bytes).await.unwrap();
    }

    /// Asks for `/` and answers by these bytes; the head, the body, and whether the connection is good for another request.
    async fn answered(&mut self, method: Method, bytes: &[u8]) -> Result<(Response<()>, Vec<u8>, bool), Lost> {
        let Self { asker, endpoint, .. } = self;
        let mut request = get();
        *request.method_mut() = method;
        let (answer, ()) = tokio::join!(asker.ask(request, None), async {
            let mut head = [0; HEAD];
            endpoint.read(&mut head).await.map(drop).unwrap();
            for byte in bytes {
                // One that is refused is told no more.
                if endpoint.write_all(&[*byte]).await.is_err() {
                    return;
                }
                yield_now().await;
            }
            if bytes.ends_with(b"until close") {
                endpoint.shutdown().await.unwrap();
            }
        });
        let (head, body) = answer.map_err(|unanswered| unanswered.lost)?.into_parts();
        let body = whole(body).await.map_err(|broken| *broken.downcast::<Lost>().unwrap())?;
        settled().await;
        Ok((Response::from_parts(head, ()), body, self.asker.is_ready()))
    }
}

/// All that can go on has gone on.
async fn settled() {
    for _ in 0..20 {
        yield_now().await;
    }
}

async fn whole(body: Reply) -> Result<Vec<u8>, Broken> {
    let whole = timeout(SOON, body.collect()).await.expect("the body ends")?;
    Ok(whole.to_bytes().to_vec())
}

fn with(method: Method, body: Outgoing) -> Request<Outgoing> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    request.headers_mut().insert(header::HOST, http::HeaderValue::from_static("web"));
    request
}

fn get() -> Request<Outgoing> {
    with(Method::GET, Outgoing::Empty)
}

fn post(body: impl Into<Bytes>) -> Request<Outgoing> {
    with(Method::POST, Outgoing::Whole(Full::new(body.into())))
}

/// A body that comes as a test has it come: the answer of another endpoint.
struct Streaming(Stage);

impl Streaming {
    async fn new() -> (Self, Outgoing) {
        let mut stage = stage_with(16 * 1024);
        let Stage { asker, endpoint, .. } = &mut stage;
        let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
            endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
            endpoint.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        });
        (Self(stage), Outgoing::Client(Received::Reply(answer.ok().unwrap().into_body())))
    }

    async fn give(&mut self, bytes: &[u8]) {
        self.0.says(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()).await;
    }

    async fn end(&mut self) {
        self.0.says(b"0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn a_request_is_one_write_and_connections_are_used_again() {
    let mut stage = stage();
    for n in [0, 3, 100] {
        assert!(stage.asker.is_ready());
        let Stage { asker, endpoint, .. } = &mut stage;
        let (answer, said) = tokio::join!(asker.ask(post(vec![b'x'; n]), None), async {
            let mut bytes = vec![0; HEAD];
            let n = endpoint.read(&mut bytes).await.unwrap();
            endpoint.write_all(b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok").await.unwrap();
            String::from_utf8(bytes[..n].to_vec()).unwrap()
        });
        let length = if n == 0 { String::new() } else { format!("content-length: {n}\r\n") };
        assert_eq!(said, format!("POST / HTTP/1.1\r\nhost: web\r\n{length}\r\n{}", "x".repeat(n)));
        let answer = answer.ok().unwrap();
        assert_eq!((answer.status(), answer.headers()["x-a"].as_bytes()), (StatusCode::OK, &b"1"[..]));
        assert_eq!(answer.extensions().get::<Reason>(), Some(&Reason(Bytes::from_static(b"Fine"))));
        assert!(!stage.asker.is_ready(), "its answer is not read");
        let body = answer.into_body();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(2), false));
        assert_eq!(whole(body).await.unwrap(), b"ok");
    }
    assert!(stage.asker.is_ready());
}

#[tokio::test]
async fn answers_end_where_they_say_however_they_come() {
    let cases = [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc", "abc", true),
        (Method::GET, "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", "", true),
        (Method::GET, "HTTP/1.1 200 OK\ncontent-length: 1\n\na", "a", true),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x\r\nab\r\n0\r\nx-sum: 1\r\n\r\n",
            "ab",
            true,
        ),
        (Method::GET, "HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "", true),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "", true),
        (Method::GET, "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\na", "a", false),
        (Method::GET, "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", "a", false),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nuntil close", "until close", false),
        // What follows is nobody's answer.
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", "", false),
        (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 1\r\n\r\na", "", false),
    ];
    for (method, bytes, body, is_kept) in cases {
        let (_, read, kept) = stage().answered(method.clone(), bytes.as_bytes()).await.expect(bytes);
        assert_eq!((&*String::from_utf8(read).unwrap(), kept), (body, is_kept), "{method} {bytes:?}");
    }
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_none_and_takes_its_connection_along() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            Bad::BothLengths,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", Bad::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\na", Bad::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", Bad::ContentLength),
        ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\na", Bad::ContentLength),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nuntil close", Bad::TransferEncoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Bad::TransferEncoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Bad::TransferEncoding),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Bad::TransferEncoding,
        ),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Bad::TransferEncoding),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab", Bad::ChunkEnd),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nhost: h\r\n\r\n", Bad::Trailer),
        ("HTTP/1.1 200 OK\r\nx : 1\r\n\r\n", Bad::FieldName),
        ("HTTP/1.1 200 OK\r\nx: 1\r\n y\r\n\r\n", Bad::FieldName),
        ("HTTP/1.1 200 OK\r\nx: \u{0}\r\n\r\n", Bad::FieldValue),
        ("HTTP/2.0 200 OK\r\n\r\n", Bad::Version),
        ("HTTP/1.1 099 Odd\r\n\r\n", Bad::NotHttp),
        ("SSH-2.0-OpenSSH\r\n", Bad::Version),
        (&*many, Bad::TooLarge),
        (&*large, Bad::TooLarge),
    ];
    for (bytes, bad) in cases {
        let mut stage = stage();
        let answered = timeout(SOON, stage.answered(Method::GET, bytes.as_bytes())).await.expect(bytes);
        assert_eq!(answered.err(), Some(Lost::Bad(bad)), "{bytes:?}");
        settled().await;
        assert!(stage.asker.is_ended(), "{bytes:?}");
    }
}

#[tokio::test]
async fn what_an_endpoint_says_behind_an_answer_or_unasked_is_never_an_answer() {
    let mut stage = stage();
    let two = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
        endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
        endpoint.write_all(two).await.unwrap();
    });
    assert!(answer.ok().unwrap().into_body().is_end_stream());
    assert!(stage.asker.is_ended() && !stage.asker.is_ready());

    let mut stage = self::stage();
    stage.says(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await;
    settled().await;
    assert!(stage.asker.is_ended());
    let unanswered = stage.asker.ask(post("abc"), None).await.err().unwrap();
    assert_eq!(unanswered.lost, Lost::Unasked);
    assert!(unanswered.request.is_some(), "none of it was sent");
}

#[tokio::test]
async fn a_request_to_an_endpoint_that_has_closed_comes_back_whole() {
    let Stage { asker, endpoint, driver } = stage();
    settled().await;
    drop(endpoint);
    // Not noticed yet: the driver has had no turn.
    assert!(asker.is_ready());
    let Err(unanswered) = asker.ask(post("abc"), None).await else { panic!("nobody answers") };
    assert_eq!(unanswered.lost, Lost::Closed);
    let body = unanswered.request.expect("none of it was sent").into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    assert!(matches!(driver.await.unwrap(), Over::Lost(Lost::Closed)));
}

#[tokio::test]
async fn a_request_that_was_sent_comes_back_where_it_is_bare_and_nothing_was_heard_of_it() {
    for (request, said, is_back) in [
        (get(), "", true),
        (get(), "HTTP/1.1 2", false),
        (get(), "HTTP/1.1 102 Processing\r\n\r\n", false),
        (get(), "HTTP/9", false),
        (post("abc"), "", false),
    ] {
        let mut stage = stage();
        let Stage { asker, endpoint, .. } = &mut stage;
        let (answer, ()) = tokio::join!(asker.ask(request, None), async {
            endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
            endpoint.write_all(said.as_bytes()).await.unwrap();
            endpoint.shutdown().await.unwrap();
        });
        let unanswered = answer.err().unwrap();
        assert!(unanswered.request.is_none(), "the endpoint had it");
        let again = unanswered.sent.map(|request| (request.method().clone(), request.headers()["host"].clone()));
        assert_eq!(again, is_back.then(|| (Method::GET, "web".parse().unwrap())), "{said:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_one_that_ends_with_its_connection_is_not() {
    for (head, lost) in [
        ("content-length: 3\r\n", Some(Lost::Closed)),
        ("transfer-encoding: chunked\r\n", Some(Lost::Closed)),
        ("", None),
    ] {
        let mut stage = stage();
        let Stage { asker, endpoint, .. } = &mut stage;
        let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
            endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
            endpoint.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes()).await.unwrap();
            endpoint.shutdown().await.unwrap();
        });
        let read = whole(answer.ok().unwrap().into_body()).await;
        assert_eq!(read.err().map(|broken| *broken.downcast::<Lost>().unwrap()), lost, "{head:?}");
    }
    // Where the proxy itself lets go of it, nobody has said that this was all.
    let Stage { asker, mut endpoint, driver } = stage();
    let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
        endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
        endpoint.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc").await.unwrap();
    });
    driver.abort();
    let read = whole(answer.ok().unwrap().into_body()).await;
    assert_eq!(*read.unwrap_err().downcast::<Lost>().unwrap(), Lost::LetGo);
}

#[tokio::test]
async fn a_body_goes_on_being_sent_while_nobody_reads_the_answer() {
    let mut stage = stage_with(16 * 1024);
    let (mut body, outgoing) = Streaming::new().await;
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, ()) = tokio::join!(asker.ask(with(Method::POST, outgoing), None), async {
        let mut bytes = [0; HEAD];
        let n = endpoint.read(&mut bytes).await.unwrap();
        assert!(bytes[..n].ends_with(b"transfer-encoding: chunked\r\n\r\n"));
        endpoint.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n").await.unwrap();
        endpoint.write_all(&[b'x'; 9000]).await.unwrap();
    });
    let answer = answer.ok().unwrap();
    // Many times what any buffer holds.
    let (mut bytes, mut n_left) = (vec![0; PIPE], 100 * 8 * 1024);
    for _ in 0..100 {
        body.give(&[b'y'; 8 * 1024]).await;
        let n = timeout(SOON, stage.endpoint.read(&mut bytes)).await.expect("the body goes on").unwrap();
        n_left -= bytes[..n].iter().filter(|byte| **byte == b'y').count();
    }
    while n_left > 0 {
        let n = timeout(SOON, stage.endpoint.read(&mut bytes)).await.expect("the body goes on").unwrap();
        n_left -= bytes[..n].iter().filter(|byte| **byte == b'y').count();
    }
    assert_eq!(whole(answer.into_body()).await.unwrap().len(), 9000);
    assert!(!stage.asker.is_ready() && !stage.asker.is_ended(), "its request is not whole");
    body.end().await;
    assert_eq!(stage.reads().await, "0\r\n\r\n");
    settled().await;
    assert!(stage.asker.is_ready());
}

#[tokio::test]
async fn who_does_not_read_stops_who_writes_either_way() {
    // The endpoint reads nothing of a request.
    let stage = stage_with(16 * 1024);
    let (mut body, outgoing) = Streaming::new().await;
    let mut asking = Box::pin(stage.asker.ask(with(Method::POST, outgoing), None));
    let mut n_given = 0;
    while n_given < 100 {
        assert!(asking.as_mut().now_or_never().is_none());
        settled().await;
        if body.give(&[b'y'; 8 * 1024]).now_or_never().is_none() {
            break;
        }
        n_given += 1;
    }
    assert!(n_given < 40, "{n_given} pieces of 8 KiB went into two pipes of 16 and what waits to be written");

    // The client reads nothing of an answer.
    let mut stage = stage_with(16 * 1024);
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
        endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
        endpoint.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    });
    let mut n_said = 0;
    while n_said < 100 && stage.endpoint.write_all(&[b'x'; 8 * 1024]).now_or_never().is_some() {
        settled().await;
        n_said += 1;
    }
    assert!(n_said < 30, "{n_said} pieces of 8 KiB went into a pipe of 16 and what waits to be read");
    // And goes on when it does.
    let mut body = answer.ok().unwrap().into_body();
    let mut n_read = 0;
    while n_read < n_said * 8 * 1024 {
        n_read += timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap().len();
    }
}

#[tokio::test]
async fn what_is_said_before_an_answer_opens_the_gate_and_nothing_else() {
    let mut stage = stage();
    let mut head = with(Method::POST, Outgoing::Empty).into_parts().0;
    let (body, gate) = hold(true, &mut head, Outgoing::Whole(Full::new(Bytes::from_static(b"abc"))));
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, ()) = tokio::join!(asker.ask(Request::from_parts(head, body), gate), async {
        let mut bytes = [0; HEAD];
        let n = endpoint.read(&mut bytes).await.unwrap();
        assert!(bytes[..n].ends_with(b"expect: 100-continue\r\ncontent-length: 3\r\n\r\n"));
        endpoint.write_all(b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n").await.unwrap();
        settled().await;
        assert!(endpoint.read(&mut bytes).now_or_never().is_none(), "its body was not asked for");
        endpoint.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let n = endpoint.read(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..n], b"abc");
        endpoint.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    });
    assert_eq!(answer.ok().unwrap().status(), StatusCode::NO_CONTENT);
    assert!(stage.asker.is_ready());
}

#[tokio::test]
async fn a_connection_that_speaks_something_else_is_handed_over_with_what_came_behind_the_head() {
    let Stage { asker, mut endpoint, driver } = stage();
    let (answer, ()) = tokio::join!(asker.ask(get(), None), async {
        endpoint.read(&mut [0; HEAD]).await.map(drop).unwrap();
        endpoint.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nearly").await.unwrap();
    });
    let answer = answer.ok().unwrap();
    assert!(answer.status() == StatusCode::SWITCHING_PROTOCOLS && answer.into_body().is_end_stream());
    let Over::Switched(mut io, read) = driver.await.unwrap() else { panic!("it has not switched") };
    assert_eq!(read, "early");
    assert!(asker.is_ended());
    io.write_all(b"raw").await.unwrap();
    let mut bytes = [0; 3];
    endpoint.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"raw");
}

#[tokio::test]
async fn an_endpoint_that_refuses_a_body_and_closes_is_heard() {
    let mut stage = stage_with(1024);
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, ()) = tokio::join!(asker.ask(post(vec![b'x'; 100_000]), None), async {
        endpoint.read(&mut [0; 100]).await.map(drop).unwrap();
        endpoint.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        // From here on a write to it breaks, and what it has said is there to be read.
        let (closed, _theirs) = duplex(1);
        *endpoint = closed;
    });
    let answer = answer.ok().unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(whole(answer.into_body()).await.unwrap(), b"no");
    settled().await;
    assert!(stage.asker.is_ended(), "the rest of its request was never sent");
}

#[tokio::test]
async fn a_request_whose_body_breaks_off_is_cut_and_not_ended() {
    let mut stage = stage();
    let (mut body, outgoing) = Streaming::new().await;
    body.give(b"abc").await;
    let Stage { asker, endpoint, .. } = &mut stage;
    let (answer, said) = tokio::join!(asker.ask(with(Method::POST, outgoing), None), async {
        settled().await;
        body.0.says(b"no chunk\r\n").await;
        let mut said = Vec::new();
        timeout(SOON, endpoint.read_to_end(&mut said)).await.expect("the connection is closed").unwrap();
        String::from_utf8(said).unwrap()
    });
    let unanswered = answer.err().unwrap();
    assert_eq!((unanswered.lost, unanswered.request.is_some()), (Lost::CutOff, false));
    assert!(said.ends_with("\r\n\r\n3\r\nabc\r\n"), "{said:?}");
}

#[test]
fn a_request_says_the_length_of_its_body_once_and_as_its_body_has_it() {
    let full = || Outgoing::Whole(Full::new(Bytes::from_static(b"abc")));
    let cases = [
        (Outgoing::Empty, "", Framing::None),
        (Outgoing::Empty, "0", Framing::Length(0)),
        (full(), "", Framing::Length(3)),
        (full(), "3", Framing::Length(3)),
        (full(), "9", Framing::Length(3)),
    ];
    for (body, said, framing) in cases {
        let mut head = with(Method::POST, Outgoing::Empty).into_parts().0;
        if !said.is_empty() {
            head.headers.insert(header::CONTENT_LENGTH, http::HeaderValue::from_static(said));
        }
        head.headers.insert(header::TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        assert_eq!(head::framing(&head, &body), framing);
        let mut to = BytesMut::new();
        head::write(&head, framing, &mut to);
        let mut length = BytesMut::new();
        framing.write(&mut length);
        let text = String::from_utf8(to.to_vec()).unwrap();
        assert_eq!(text, format!("POST / HTTP/1.1\r\nhost: web\r\n{}\r\n", std::str::from_utf8(&length).unwrap()));
    }
}

/// An answer's status and body.
type Heard = (u16, Vec<u8>);

/// The answers in bytes that come so many at a time: statuses, bodies, and what the rest is refused for.
fn heard(bytes: &[u8], piece: usize) -> (Vec<Heard>, Option<Bad>) {
    let (mut from, mut seen, mut heard) = (BytesMut::new(), 0, Vec::<Heard>::new());
    let mut body: Option<Decoder> = None;
    for part in bytes.chunks(piece) {
        from.extend_from_slice(part);
        loop {
            let Some(decoder) = &mut body else {
                match read(&mut from, &mut seen, false) {
                    Ok(Some(Head::Informational(status))) => heard.push((status.as_u16(), Vec::new())),
                    Ok(Some(Head::Answer { head, framing, .. })) => {
                        heard.push((head.status().as_u16(), Vec::new()));
                        body = Some(Decoder::new(framing));
                    }
                    Ok(None) => break,
                    Err(bad) => return (heard, Some(bad)),
                }
                continue;
            };
            match decoder.decode(&mut from) {
                Ok(Step::Data(bytes)) => heard.last_mut().unwrap().1.extend_from_slice(&bytes),
                Ok(Step::Trailers(_)) => {}
                Ok(Step::End) => body = None,
                Ok(Step::More) => break,
                Err(bad) => return (heard, Some(bad)),
            }
        }
    }
    (heard, None)
}

/// What answers are made of, good and bad.
const PARTS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.0 204 No\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "content-length: 3\r\n",
    "Content-Length: 5\r\n",
    "transfer-encoding: chunked\r\n",
    "x: y\r\n",
    "x: y\n",
    " z\r\n",
    "\r\n",
    "\n",
    "\r",
    "3\r\nabc\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "abc",
    "\u{0}",
    "GET / HTTP/1.1\r\n",
];

proptest::proptest! {
    /// Where answers end and what is refused must not depend on how their bytes come.
    #[test]
    fn answers_are_the_same_however_they_come(
        parts in proptest::collection::vec(0..PARTS.len(), 0..14),
        piece in 1_usize..40,
    ) {
        let bytes: Vec<u8> = parts.into_iter().flat_map(|part| PARTS[part].bytes()).collect();
        let (answers, refused) = heard(&bytes, usize::MAX);
        let (in_pieces, refused_so) = heard(&bytes, piece);
        proptest::prop_assert_eq!(answers, in_pieces);
        // A head that is not whole is looked at again where it may end: its fault can show later, and never earlier.
        proptest::prop_assert!(refused.is_some() || refused_so.is_none());
    }
}
