//! Speaks HTTP/1 with a client: its connection, request after request, and why it ends.
//!
//! Reads from [`serve`]; [`Talk::go_on`] is the life of a connection. It is one task: [`intake`] reads, [`reply`] says how an answer
//! begins, [`coding`](super::coding) frames its body, and the request's own future is polled between the two, with the endpoint's connection beside it.
//! What is to be said waits in one box, and goes when there is nothing more to add: head and body in one call, and answers to
//! requests that came together, together.

pub(crate) mod intake;
mod reply;

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedWriteHalf},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use super::{
    FIRST_HEAD, NEXT_HEAD,
    body::Broken,
    coding::{Encoder, Framing, Misfit, Outbox},
    driven::Both,
    fault::Fault,
    flaw::Flaw,
    heads::{Asked, Bad},
    orderly,
    received::Received,
    request::Callers,
    upgrade,
    waiting::Held,
    wire::Client,
};
use crate::{
    fault::Why,
    limits::{Limit, Waits},
    rarely::Rarely,
};
use intake::{At, Intake};
use reply::Wishes;

/// How long a connection without a request is kept when the proxy is to end: its client's next one ends it.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// How long a client that is told no more is still listened to, so that what it sends does not reset what it was told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a client may take for what is left of a body that nobody wants.
const UNREAD: Duration = Duration::from_secs(30);

/// Requests that are answered in one turn, where many have come together: a connection must not keep its worker.
const REQUESTS: u32 = 16;

/// How often what waits is filled up and written in one turn, for the same reason.
const FILLS: usize = 8;

/// What is said to a client that waits to be asked for its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// When a connection is to end.
struct Closing<'c> {
    /// With the answer that comes next.
    soon: &'c AtomicBool,
    /// Where no request is under way, at once.
    now: &'c AtomicBool,
}

/// How a connection came to an end of which nobody is at fault, or its client by what it has sent.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All that was asked was answered.
    Over,
    /// The same, and something of what its client sends was never read.
    Unread,
    /// Its bytes are no request.
    Bad(Bad),
    /// It is another protocol's now.
    Switched,
}

/// Why a connection broke.
#[derive(Debug, thiserror::Error)]
enum Broke {
    #[error("its client has gone")]
    Gone(#[source] io::Error),
    #[error("its client was silent within a head")]
    Silent,
    #[error("what waits for its client is over a bound")]
    Limited(#[source] Limit),
    #[error("an answer broke off")]
    Answer(#[source] Broken),
    #[error("an answer can't be framed")]
    Misfit(#[source] Misfit),
}

/// A connection, from the moment that its version is known.
struct Talk {
    intake: Intake,
    /// There until it is another protocol's.
    write: Option<OwnedWriteHalf>,
    outbox: Outbox,
    held: Held,
    /// Told rarely, and looked at when a client is silent.
    silence: Option<Pin<Box<Sleep>>>,
}

/// One connection, from its first request.
pub(super) async fn serve(callers: &Arc<Callers>, client: Client, began: Instant) -> Result<(), Why> {
    let mut talk = Talk::new(client, &callers.waits(), &callers.flaw);
    let mut drain = callers.worker.proxy.drain.clone();
    let draining = async {
        drain.begun().await;
        // Not at once: a request may be on its way just now, and would be lost. It is answered, and told that the connection closes.
        callers.is_closing.store(true, Relaxed);
        sleep(LAST_REQUEST).await;
    };
    tokio::pin!(draining);
    let mut draining = Rarely::new(draining);
    let now = AtomicBool::new(false);
    let closing = Closing { soon: &callers.is_closing, now: &now };
    let both = Both::at(&callers.desk);
    let ended = {
        let mut life = pin!(talk.go_on(began, closing, |request| callers.clone().answer(request)));
        poll_fn(|cx| {
            if !now.load(Relaxed) && Pin::new(&mut draining).poll(cx).is_ready() {
                // Nobody has asked for so long: it closes now, or with the answer that is under way.
                now.store(true, Relaxed);
                both.look();
            }
            both.poll(cx, |cx| life.as_mut().poll(cx))
        })
        .await
    };
    match ended {
        Ok(End::Over | End::Bad(Bad::NotHttp)) => {
            // Whoever spoke no HTTP may speak anything: an answer would be one more thing that it does not understand.
            talk.orderly();
            Ok(())
        }
        Ok(End::Unread) => {
            talk.last_words(None).await;
            Ok(())
        }
        Ok(End::Bad(bad)) => {
            talk.last_words(Some(&Fault::Bad(bad))).await;
            Ok(())
        }
        Ok(End::Switched) => {
            let Some(mut lease) = callers.switch.take() else { return Err(Why::UpstreamReset) };
            let _held = callers.waits().charge(upgrade::HELD).map_err(Why::Limited)?;
            let raw = talk.into_raw().ok_or(Why::ClientReset)?;
            Box::pin(upgrade::carry(raw, &mut lease)).await
        }
        Err(broke) => {
            tracing::debug!(error = &broke as &dyn std::error::Error, "a client's connection broke");
            Err(Why::ClientReset)
        }
    }
}

impl Talk {
    fn new(client: Client, waits: &Arc<Waits>, flaw: &Flaw) -> Self {
        let Client { socket, heads, early } = client;
        let (read, write) = socket.into_split();
        let intake = Intake::new(read, (heads, early), flaw.clone());
        Self { intake, write: Some(write), outbox: Outbox::default(), held: Held::new(waits), silence: None }
    }

    /// Request after request: its head, its answer, what is left of its body.
    async fn go_on<B, F>(
        &mut self,
        began: Instant,
        closing: Closing<'_>,
        mut answer: impl FnMut(Request<Received>) -> F,
    ) -> Result<End, Broke>
    where
        B: Body<Data = Bytes, Error = Broken> + Unpin,
        F: Future<Output = Result<Response<B>, Infallible>>,
    {
        let mut until = began + FIRST_HEAD;
        let mut n_at_once = 0;
        loop {
            let asked = match self.asked(until, closing.now).await {
                Ok(Some(asked)) => asked,
                Ok(None) => return Ok(End::Over),
                Err(Unasked::Bad(bad)) => {
                    poll_fn(|cx| self.poll_flush(cx)).await?;
                    return Ok(End::Bad(bad));
                }
                Err(Unasked::Broke(broke)) => return Err(broke),
            };
            let Asked { head, framing } = asked;
            let (head, ()) = head.into_parts();
            let wishes = Wishes::of(&head);
            let body = self.intake.body(framing, wishes.waits);
            let request = Request::from_parts(head, Received::Client(body));
            let response = self.answered(Box::pin(answer(request))).await?;
            let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let is_kept = self.reply(&wishes, response, closing.soon).await?;
            let is_over = self.settled(is_kept, closing.now).await?;
            if is_switching || !is_kept || !is_over {
                poll_fn(|cx| self.poll_flush(cx)).await?;
                return Ok(match (is_switching, is_over) {
                    (true, _) => End::Switched,
                    (false, true) => End::Over,
                    (false, false) => End::Unread,
                });
            }
            n_at_once += 1;
            if n_at_once % REQUESTS == 0 && self.intake.has_more() {
                tokio::task::yield_now().await;
            }
            until = Instant::now() + NEXT_HEAD;
        }
    }

    /// The next head; None where none comes any more.
    async fn asked(&mut self, until: Instant, now: &AtomicBool) -> Result<Option<Asked>, Unasked> {
        poll_fn(|cx| {
            loop {
                // Before anything is said or read: requests that have come together are answered together.
                if self.outbox.has_room()
                    && let Some(asked) = self.intake.next().map_err(Unasked::Bad)?
                {
                    return Poll::Ready(Ok(Some(asked)));
                }
                ready!(self.poll_flush(cx))?;
                if now.load(Relaxed) {
                    return Poll::Ready(Ok(None));
                }
                match self.intake.poll_more(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broke::Gone(error).into())),
                    Poll::Pending => return self.poll_silence(until, cx),
                }
            }
        })
        .await
    }

    /// Ready when a client has been silent for too long. One timer serves for many requests: it is set anew when it has run out, and not
    /// for each of them.
    fn poll_silence(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<Result<Option<Asked>, Unasked>> {
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep_until(until)));
        // Another request's end may be later than this one's: the first alone has less time.
        if silence.deadline() > until {
            silence.as_mut().reset(until);
        }
        while silence.as_mut().poll(cx).is_ready() {
            if silence.deadline() >= until {
                let is_within = self.intake.has_more();
                return Poll::Ready(if is_within { Err(Broke::Silent.into()) } else { Ok(None) });
            }
            silence.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// The head of the answer, by the request's own future.
    async fn answered<B>(
        &mut self,
        mut answering: Pin<Box<impl Future<Output = Result<Response<B>, Infallible>>>>,
    ) -> Result<Response<B>, Broke> {
        poll_fn(|cx| {
            if let Poll::Ready(Ok(response)) = answering.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            if self.intake.is_due() {
                self.outbox.head().extend_from_slice(CONTINUE);
            }
            self.poll_while_waiting(cx)
        })
        .await
    }

    /// Says the whole answer, as far as somebody must wait for that; whether another may follow it.
    async fn reply<B>(&mut self, wishes: &Wishes, response: Response<B>, closes: &AtomicBool) -> Result<bool, Broke>
    where
        B: Body<Data = Bytes, Error = Broken> + Unpin,
    {
        let (head, mut body) = response.into_parts();
        let framing = reply::framing(wishes, &head, &body.size_hint());
        let is_kept =
            wishes.is_kept && framing != Framing::UntilClose && self.intake.may_go_on() && !closes.load(Relaxed);
        let mut encoder = Encoder::new(framing);
        if wishes.takes_trailers {
            encoder = encoder.announcing(&head.headers);
        }
        reply::write(wishes, head, (framing, is_kept), self.outbox.head());
        if framing == Framing::None || body.is_end_stream() {
            encoder.end(&mut self.outbox).map_err(Broke::Misfit)?;
            return Ok(is_kept);
        }
        poll_fn(|cx| {
            for _ in 0..FILLS {
                let filled = self.poll_fill(&mut body, &mut encoder, cx);
                if let Poll::Ready(ended) = filled {
                    return Poll::Ready(ended.map(|()| is_kept));
                }
                // The body has no more to say now, or the client does not take what was said.
                if self.outbox.has_room() || self.poll_flush(cx)?.is_pending() {
                    return self.poll_while_waiting(cx);
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Takes on what the body has, while there is room; ready at its end.
    fn poll_fill<B>(&mut self, body: &mut B, encoder: &mut Encoder, cx: &mut Context<'_>) -> Poll<Result<(), Broke>>
    where
        B: Body<Data = Bytes, Error = Broken> + Unpin,
    {
        while self.outbox.has_room() {
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => encoder.piece(frame, &mut self.outbox).map_err(Broke::Misfit)?,
                Some(Err(broken)) => return Poll::Ready(Err(Broke::Answer(broken))),
                None => return Poll::Ready(encoder.end(&mut self.outbox).map_err(Broke::Misfit)),
            }
            if body.is_end_stream() {
                return Poll::Ready(encoder.end(&mut self.outbox).map_err(Broke::Misfit));
            }
        }
        Poll::Pending
    }

    /// Whether the request's body was read to its end, once that is known; only then its connection can go on. Who has it reads it in any
    /// case; what nobody wants is waited for only where it stands before another request.
    async fn settled(&mut self, is_kept: bool, now: &AtomicBool) -> Result<bool, Broke> {
        if self.intake.at() == At::Over {
            return Ok(true);
        }
        let mut patience = pin!(sleep(UNREAD));
        poll_fn(|cx| {
            // The client may wait for the answer before it sends the rest.
            if let Poll::Ready(Err(broke)) = self.poll_flush(cx) {
                return Poll::Ready(Err(broke));
            }
            let is_left = matches!(self.intake.at(), At::Left(_));
            if is_left && (!is_kept || now.load(Relaxed)) {
                return Poll::Ready(Ok(false));
            }
            if let Poll::Ready(at) = self.intake.poll_over(cx) {
                return Poll::Ready(Ok(at == At::Over));
            }
            // Who sends on to somebody that takes it may take as long as that does.
            if is_left { patience.as_mut().poll(cx).map(|()| Ok(false)) } else { Poll::Pending }
        })
        .await
    }

    /// Says what waits, and sees whether the client has gone: then nobody waits for what is under way.
    fn poll_while_waiting<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Broke>> {
        if let Poll::Ready(Err(broke)) = self.poll_flush(cx) {
            return Poll::Ready(Err(broke));
        }
        self.intake.poll_gone(cx).map(|error| Err(Broke::Gone(error)))
    }

    /// Writes what is to be said. What the socket does not take is charged for as long as it waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broke>> {
        let Some(write) = &mut self.write else { return Poll::Ready(Ok(())) };
        let written = self.outbox.poll_write(write, cx);
        let waits = if written.is_pending() { self.outbox.len() } else { 0 };
        if waits != self.held.count() {
            self.held.set(waits).map_err(Broke::Limited)?;
        }
        written.map_err(Broke::Gone)
    }

    /// From here on closing says no more than that.
    fn orderly(&self) {
        if let Some(write) = &self.write {
            orderly(write.as_ref());
        }
    }

    /// Answers bytes that are no request, where there is a fault, and closes.
    async fn last_words(self, fault: Option<&Fault>) {
        self.orderly();
        let Some((mut socket, _unread)) = self.into_raw() else { return };
        let text = fault.map_or_else(String::new, |fault| {
            let (status, reason, name) = (fault.status(), crate::outbound::REASON, fault.name());
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n{reason}: {name}\r\n\r\n")
        });
        let said = async {
            socket.write_all(text.as_bytes()).await?;
            socket.shutdown().await?;
            // What it still sends is forgotten.
            let mut scratch = [0; 1024];
            while socket.read(&mut scratch).await? > 0 {}
            io::Result::Ok(())
        };
        match timeout(LAST_WORDS, said).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a client did not hear the last that it was told"),
        }
    }

    /// The socket, and what was read of it: it is HTTP no more.
    fn into_raw(mut self) -> Option<(TcpStream, Bytes)> {
        let (read, early) = self.intake.take_raw();
        let socket = read?.reunite(self.write.take()?).ok()?;
        Some((socket, early))
    }
}

impl Drop for Talk {
    /// Whoever closes the socket says how: half of it that is dropped would say that all is well.
    fn drop(&mut self) {
        if let Some(write) = self.write.take() {
            write.forget();
        }
    }
}

/// Why no head came.
enum Unasked {
    Bad(Bad),
    Broke(Broke),
}

impl From<Broke> for Unasked {
    fn from(broke: Broke) -> Self {
        Self::Broke(broke)
    }
}

#[cfg(test)]
mod tests;
