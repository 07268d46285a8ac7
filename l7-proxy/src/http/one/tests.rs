//! States how a client of HTTP/1 is served, over real sockets: what it reads, and what becomes of its requests.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    handshakes::Caller,
    home::Pod,
    http::{body::Next, heads::Heads},
    limits::{Account, Accounts, Budget},
};

mod endings;

const SOON: Duration = Duration::from_secs(20);

/// Long enough for what must not happen.
const MOMENT: Duration = Duration::from_millis(50);

/// An answer's body: pieces that are here, then those that come.
#[derive(Default)]
struct Said {
    here: VecDeque<Frame<Bytes>>,
    coming: Option<mpsc::Receiver<Result<Bytes, &'static str>>>,
    /// Whether its length is told.
    is_exact: bool,
    n_taken: Arc<AtomicUsize>,
    #[expect(dead_code, reason = "held for its drop")]
    guard: Option<mpsc::Sender<()>>,
}

impl Body for Said {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(frame) = self.here.pop_front() {
            self.n_taken.fetch_add(1, Relaxed);
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(None) };
        coming.poll_recv(cx).map(|next| next.map(|next| next.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_exact && self.here.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let count = self.here.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        if self.is_exact { SizeHint::with_exact(count) } else { SizeHint::default() }
    }
}

fn whole(text: &str) -> Said {
    Said { here: [Frame::data(Bytes::copy_from_slice(text.as_bytes()))].into(), is_exact: true, ..Said::default() }
}

fn good(body: Said) -> Result<Response<Said>, Infallible> {
    Ok(Response::new(body))
}

/// Says method, target and body of its request.
async fn echo(request: Request<Received>) -> Result<Response<Said>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    good(whole(&format!("{} {} {}", head.method, head.uri, String::from_utf8_lossy(&body))))
}

/// A workload's account, and what waits for one of its callers.
fn account() -> (Arc<Account>, Arc<Waits>) {
    let pod = Pod { name: millrace_model::ObjectName::new("shop", "web"), uid: "1".into() };
    let account = Accounts::new(Budget::new(64 << 20)).of(&pod);
    let waits = Arc::new(account.waits(Caller::Pod("10.0.0.1".parse().unwrap())));
    (account, waits)
}

/// A connection that is served.
struct Served {
    client: TcpStream,
    ended: JoinHandle<Result<End, Broke>>,
    /// To end with the next answer, and at once.
    closing: Arc<(AtomicBool, AtomicBool)>,
    flaw: Flaw,
    account: Arc<Account>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, served) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), served.unwrap().0)
}

/// Serves a client that has sent `early` already.
async fn served_after<F>(early: &str, answer: impl FnMut(Request<Received>) -> F + Send + 'static) -> Served
where
    F: Future<Output = Result<Response<Said>, Infallible>> + Send + 'static,
{
    let (client, socket) = pair().await;
    let (account, waits) = account();
    let (flaw, closing) = (Flaw::default(), Arc::new((AtomicBool::new(false), AtomicBool::new(false))));
    let mut talk = Talk::new(Client { socket, heads: Heads::default(), early: BytesMut::from(early) }, &waits, &flaw);
    let both = closing.clone();
    let ended = tokio::spawn(async move {
        let ended = talk.go_on(Instant::now(), Closing { soon: &both.0, now: &both.1 }, answer).await;
        // As the connection's own function does.
        if ended.as_ref().is_ok_and(|ended| *ended != End::Switched) {
            talk.last_words(None).await;
        }
        ended
    });
    Served { client, ended, closing, flaw, account }
}

async fn served<F>(answer: impl FnMut(Request<Received>) -> F + Send + 'static) -> Served
where
    F: Future<Output = Result<Response<Said>, Infallible>> + Send + 'static,
{
    served_after("", answer).await
}

impl Served {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// What one read brings: what was said in one call.
    async fn hear(&mut self) -> String {
        let mut heard = vec![0; 64 * 1024];
        let n = timeout(SOON, self.client.read(&mut heard)).await.expect("something is said").unwrap();
        String::from_utf8_lossy(&heard[..n]).into_owned()
    }

    async fn is_silent(&mut self) -> bool {
        timeout(MOMENT, self.client.read_u8()).await.is_err()
    }

    /// All that is said until the connection ends.
    async fn hear_all(&mut self) -> String {
        let mut heard = Vec::new();
        timeout(SOON, self.client.read_to_end(&mut heard)).await.expect("it ends").unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    }

    async fn ended(self) -> Result<End, Broke> {
        let Self { client, ended, .. } = self;
        let ended = timeout(SOON, ended).await.expect("it ends").unwrap();
        drop(client);
        ended
    }
}

/// What an answer's body is.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

const ASK: &str = "GET /a HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn head_and_body_go_in_one_call_and_the_connection_is_kept() {
    let mut served = served(echo).await;
    for _ in 0..3 {
        served.send(ASK).await;
        let answer = served.hear().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && body(&answer) == "GET /a ", "{answer}");
    }
    served.client.shutdown().await.unwrap();
    assert_eq!(served.hear_all().await, "");
    assert_eq!(served.ended().await.unwrap(), End::Over);
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order_and_together() {
    let mut served = served(echo).await;
    let chunked = "POST /b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n";
    let sized = "POST /c HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc";
    served.send(&format!("{ASK}{chunked}{sized}")).await;
    let answers = served.hear().await;
    let bodies: Vec<_> = answers.split("HTTP/1.1 200 OK").skip(1).map(body).collect();
    assert_eq!(bodies, ["GET /a ", "POST /b xy", "POST /c abc"]);
}

#[tokio::test]
async fn many_requests_that_come_together_are_all_answered() {
    let mut served = served(echo).await;
    let many = ASK.repeat(5 * REQUESTS as usize) + "GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    served.send(&many).await;
    assert_eq!(served.hear_all().await.matches("GET /a ").count(), 5 * REQUESTS as usize + 1);
}

#[tokio::test]
async fn a_head_and_a_body_may_come_in_any_pieces() {
    let mut served = served(echo).await;
    for byte in
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\nx-t: 1\r\n\r\n"
            .bytes()
    {
        served.client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(body(&served.hear().await), "POST / abcd");
}

#[tokio::test]
async fn what_is_to_come_of_a_body_is_known_exactly() {
    let mut served = served(async |request: Request<Received>| {
        let mut body = request.into_body();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
        let mut n = 0;
        while n < 3 {
            n += body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3 - n), n == 3));
        }
        assert!(body.frame().await.is_none());
        good(whole("good"))
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nab").await;
    sleep(MOMENT).await;
    served.send("c").await;
    assert_eq!(body(&served.hear().await), "good");
}

#[tokio::test]
async fn trailers_come_behind_a_body_and_go_to_those_who_take_them() {
    let mut served = served(async |request: Request<Received>| {
        let came = request.into_body().collect().await.unwrap();
        let mut trailers = came.trailers().cloned().unwrap_or_default();
        trailers.insert("x-secret", http::HeaderValue::from_static("not announced"));
        let here = [Frame::data("abc".into()), Frame::trailers(trailers)].into();
        let mut response = Response::new(Said { here, ..Said::default() });
        response.headers_mut().insert("trailer", http::HeaderValue::from_static("x-sum"));
        Ok(response)
    })
    .await;
    let body_text = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n";
    served.send(&format!("POST / HTTP/1.1\r\nhost: h\r\nte: trailers\r\n{body_text}")).await;
    assert_eq!(body(&served.hear().await), "3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n");
    served.send(&format!("POST / HTTP/1.1\r\nhost: h\r\n{body_text}")).await;
    assert_eq!(body(&served.hear().await), "3\r\nabc\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_when_that_is_first_read() {
    let go = Arc::new(Notify::new());
    let may = go.clone();
    let mut served = served(move |request| {
        let may = may.clone();
        async move {
            may.notified().await;
            echo(request).await
        }
    })
    .await;
    let head = "POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    served.send(head).await;
    assert!(served.is_silent().await, "nobody has read it");
    go.notify_one();
    assert_eq!(served.hear().await, "HTTP/1.1 100 Continue\r\n\r\n");
    served.send("abc").await;
    assert_eq!(body(&served.hear().await), "POST / abc", "it is said once");
    // Who expects nothing is told nothing.
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n").await;
    go.notify_one();
    assert!(served.is_silent().await);
}

/// A body is read by whoever has it, in whatever task.
#[tokio::test]
async fn a_body_may_be_read_in_another_task_and_asked_for_from_there() {
    let mut served = served(async |request: Request<Received>| {
        let answer = tokio::spawn(async move {
            sleep(MOMENT).await;
            echo(request).await
        });
        answer.await.unwrap()
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert_eq!(served.hear().await, "HTTP/1.1 100 Continue\r\n\r\n");
    served.send("abc").await;
    assert_eq!(body(&served.hear().await), "POST / abc");
}

/// An answer that does not wait for the body of its request.
#[tokio::test]
async fn an_answer_may_come_before_the_whole_body_and_the_next_request_only_behind_it() {
    let (kept, mut bodies) = mpsc::channel(1);
    let mut served = served(move |request: Request<Received>| {
        let kept = kept.clone();
        async move {
            let is_get = request.method() == http::Method::GET;
            if !is_get {
                kept.send(request.into_body()).await.unwrap();
            }
            good(whole("early"))
        }
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\na").await;
    assert_eq!(body(&served.hear().await), "early");
    served.send(&format!("bc{ASK}")).await;
    assert!(served.is_silent().await, "the body is not over");
    let mut body_of = bodies.recv().await.unwrap();
    let mut came = Vec::new();
    while let Some(frame) = body_of.frame().await {
        came.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!((&*came, body(&served.hear().await)), (&b"abc"[..], "early"));
}

#[tokio::test]
async fn a_small_body_that_nobody_reads_is_passed_over() {
    let mut served = served(async |_: Request<Received>| good(whole("no"))).await;
    for text in ["content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        served.send(&format!("POST / HTTP/1.1\r\nhost: h\r\n{text}")).await;
        let answer = served.hear().await;
        assert!(body(&answer) == "no" && !answer.contains("connection: close"), "{answer}");
    }
    // The rest of it comes behind the answer.
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nabc").await;
    assert_eq!(body(&served.hear().await), "no");
    served.send(&format!("def{ASK}")).await;
    assert_eq!(body(&served.hear().await), "no");
}

#[tokio::test]
async fn a_body_that_nobody_reads_and_that_is_long_or_was_not_asked_for_ends_the_connection() {
    for text in [
        "content-length: 9999999\r\n\r\nabc",
        "content-length: 3\r\nexpect: 100-continue\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut served = served(async |_: Request<Received>| good(whole("no"))).await;
        served.send(&format!("POST / HTTP/1.1\r\nhost: h\r\n{text}")).await;
        // It does not wait for the rest, and what still comes does not reset what was said.
        let mut answer = served.hear().await;
        served.send(&"x".repeat(100_000)).await;
        answer += &served.hear_all().await;
        assert!(body(&answer) == "no" && answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(served.ended().await.unwrap(), End::Unread);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_and_keeps_its_connection_only_if_it_asks() {
    let stream = async |_: Request<Received>| good(Said { is_exact: false, ..whole("abc") });
    let mut old = served(stream).await;
    old.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    let answer = old.hear_all().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && body(&answer) == "abc", "{answer}");
    assert!(!answer.contains("connection: keep-alive"), "its end is the connection's: {answer}");
    let mut kept = served(echo).await;
    for _ in 0..2 {
        kept.send("GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        let answer = kept.hear().await;
        assert!(answer.contains("connection: keep-alive\r\n") && body(&answer) == "GET /a ", "{answer}");
    }
    kept.send("GET /a HTTP/1.0\r\n\r\n").await;
    assert_eq!(body(&kept.hear_all().await), "GET /a ");
}

#[tokio::test]
async fn an_answer_without_a_body_has_none_whatever_is_given() {
    let mut served = served(async |request: Request<Received>| {
        let mut response = Response::new(whole("abc"));
        let status = request.uri().path().trim_start_matches('/').parse().unwrap();
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    })
    .await;
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        served.send(&format!("{method} /{status} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        let answer = served.hear().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && body(&answer).is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn what_is_asked_before_bad_bytes_is_answered_first() {
    let go = Arc::new(Notify::new());
    let may = go.clone();
    let mut served = served(move |request| {
        let may = may.clone();
        async move {
            may.notified().await;
            echo(request).await
        }
    })
    .await;
    served.send(&format!("{ASK}GET / HTTP/1.1\r\n\r\n")).await;
    assert!(served.is_silent().await);
    go.notify_one();
    assert_eq!(body(&served.hear_all().await), "GET /a ");
    assert_eq!(served.flaw.bad(), Some(Bad::Host));
    assert_eq!(served.ended().await.unwrap(), End::Bad(Bad::Host));
}

#[tokio::test]
async fn a_body_with_bad_bytes_breaks_off_and_its_request_is_answered() {
    let mut served = served(async |request: Request<Received>| {
        let broke = request.into_body().collect().await.is_err();
        good(whole(if broke { "broke" } else { "whole" }))
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n").await;
    let answer = served.hear_all().await;
    assert!(body(&answer) == "broke" && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!((served.flaw.bad(), served.ended().await.unwrap()), (Some(Bad::ChunkEnd), End::Unread));
}

#[tokio::test]
async fn a_body_whose_client_ends_within_it_breaks_off() {
    let mut served = served(async |request: Request<Received>| {
        let broke = request.into_body().collect().await.is_err();
        good(whole(if broke { "broke" } else { "whole" }))
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc").await;
    served.client.shutdown().await.unwrap();
    assert_eq!(body(&served.hear_all().await), "broke");
    assert_eq!(served.flaw.bad(), None);
}

/// What is under way for a client ends with it: before an answer, and within one.
#[tokio::test]
async fn a_client_that_goes_takes_what_is_under_way_along() {
    for is_answered in [false, true] {
        let (guard, mut dropped) = mpsc::channel::<()>(1);
        let (_never, coming) = mpsc::channel(1);
        let mut guarded = Some((guard, coming));
        let mut served = served(move |_request| {
            let (guard, coming) = guarded.take().expect("one request");
            async move {
                if !is_answered {
                    let _guard = guard;
                    return std::future::pending().await;
                }
                let here = [Frame::data("first".into())].into();
                good(Said { here, coming: Some(coming), guard: Some(guard), ..Said::default() })
            }
        })
        .await;
        served.send(ASK).await;
        if is_answered {
            assert_eq!(body(&served.hear().await), "5\r\nfirst\r\n");
        }
        assert!(timeout(MOMENT, dropped.recv()).await.is_err(), "it is under way");
        served.client.shutdown().await.unwrap();
        assert_eq!(timeout(SOON, dropped.recv()).await.expect("it is dropped"), None);
        assert!(matches!(served.ended().await, Err(Broke::Gone(_))));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_has_no_good_end() {
    let (send, coming) = mpsc::channel(1);
    let mut coming = Some(coming);
    let mut served = served(move |_request| {
        let coming = coming.take();
        async move { good(Said { coming, ..Said::default() }) }
    })
    .await;
    served.send(ASK).await;
    send.send(Ok("abc".into())).await.unwrap();
    let mut heard = served.hear().await;
    send.send(Err("broken")).await.unwrap();
    heard += &served.hear_all().await;
    assert_eq!(body(&heard), "3\r\nabc\r\n");
    assert!(matches!(served.ended().await, Err(Broke::Answer(_))));
}

#[tokio::test]
async fn an_answer_longer_or_shorter_than_its_head_breaks_off() {
    for n_more in [-1, 1] {
        let mut served = served(move |_request| async move {
            let mut response = Response::new(Said { is_exact: false, ..whole("abc") });
            response.headers_mut().insert("content-length", (3 + n_more).into());
            Ok(response)
        })
        .await;
        served.send(ASK).await;
        assert!(matches!(served.ended().await, Err(Broke::Misfit(_))));
    }
}

#[tokio::test]
async fn an_answer_is_taken_as_fast_as_its_client_reads_and_what_waits_is_charged() {
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let (count, n_taken) = (2048, Arc::new(AtomicUsize::new(0)));
    let (here, taken) = (vec![piece; count], n_taken.clone());
    let mut served = served(move |_request| {
        let here = here.iter().cloned().map(Frame::data).collect();
        let n_taken = taken.clone();
        async move { good(Said { here, n_taken, is_exact: true, ..Said::default() }) }
    })
    .await;
    served.send(ASK).await;
    let mut before = 0;
    timeout(SOON, async {
        while n_taken.load(Relaxed) == 0 || n_taken.load(Relaxed) != before {
            before = n_taken.load(Relaxed);
            sleep(MOMENT).await;
        }
    })
    .await
    .expect("it stops");
    assert!(before < count, "{before} of {count} pieces were taken, and nobody reads");
    let waiting = served.account.n_buffered();
    assert!((1..=2 * 64 * 1024).contains(&waiting), "{waiting} bytes are charged");
    let mut n_read = 0;
    let mut heard = vec![0; 256 * 1024];
    while n_read < count * 16 * 1024 {
        n_read += timeout(SOON, served.client.read(&mut heard)).await.expect("it goes on").unwrap();
    }
    assert_eq!(served.account.n_buffered(), 0);
}

/// It has its answer, and sends no more of a body that nobody reads.
#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_back_what_nobody_wants_is_not_waited_for() {
    let early = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\n1";
    let served = served_after(early, |_request| async { good(whole("no")) }).await;
    let ended = timeout(UNREAD * 2, served.ended).await.expect("it ends").unwrap();
    assert_eq!(ended.unwrap(), End::Unread);
}
