//! Holds a body back until its endpoint asks for it (RFC 9110, 10.1.1). The expectation goes on with the head; the client is asked for
//! its body when the endpoint asks, or has said nothing for a second. An endpoint that answers before that never gets it.
//!
//! An HTTP/1 client is told `100 Continue` as soon as its body is first read, so not reading it is enough. To one of
//! HTTP/2 the stream's own task says it, which is told by [`Asked`].

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header::EXPECT, request::Parts};
use http_body::{Body, SizeHint};
use tokio::{
    sync::Notify,
    time::{Sleep, sleep},
};

use super::body::{Next, Outgoing};

/// How long an endpoint may say nothing: the time after which common clients send their bodies unasked. Many servers never ask.
const PATIENCE: Duration = Duration::from_secs(1);

const CONTINUE: &[u8] = b"100-continue";

/// Tells who speaks HTTP/2 with a client that the client is to send its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<Notify>);

impl Asked {
    /// For a request that waits to be asked, known to whoever sends it on.
    pub(crate) fn enter<B>(request: &mut Request<B>) -> Option<Self> {
        if !is_expected(request.version(), request.headers()) {
            return None;
        }
        let asked = Self::default();
        request.extensions_mut().insert(asked.clone());
        Some(asked)
    }

    /// What is said then.
    pub(crate) fn word() -> Response<()> {
        let mut word = Response::new(());
        *word.status_mut() = StatusCode::CONTINUE;
        word
    }

    /// Waits until it is asked; for ever where it doesn't wait for that.
    pub(crate) async fn come(asked: Option<&Self>) {
        match asked {
            Some(Self(asked)) => asked.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Takes the expectation away from a head; whether it was there. Clients of HTTP/1.0 have none, whatever they say.
pub(crate) fn take(head: &mut Parts) -> bool {
    let is_expected = is_expected(head.version, &head.headers);
    head.headers.remove(EXPECT);
    is_expected
}

pub(crate) fn is_expected(version: Version, headers: &HeaderMap) -> bool {
    version >= Version::HTTP_11
        && headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(CONTINUE))
}

/// Holds a body back, where one is expected to be asked for. The head says so, and carries the gate to who sends it.
pub(crate) fn hold(is_expected: bool, head: &mut Parts, body: Outgoing) -> (Outgoing, Option<Arc<Gate>>) {
    if !is_expected || body.is_end_stream() {
        return (body, None);
    }
    head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    let gate =
        Arc::new(Gate { state: Mutex::new(State { body: Some(body), is_open: false }), reader: AtomicWaker::new() });
    head.extensions.insert(gate.clone());
    let asked = head.extensions.remove();
    (Outgoing::HeldBack(Box::new(HeldBack { gate: gate.clone(), body: None, patience: None, asked })), Some(gate))
}

/// Opens when an endpoint asks for a body.
pub(crate) struct Gate {
    state: Mutex<State>,
    reader: AtomicWaker,
}

struct State {
    /// Until it is asked for.
    body: Option<Outgoing>,
    is_open: bool,
}

impl Gate {
    /// The gate of a request that has one.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Arc<Self>> {
        request.extensions().get::<Arc<Self>>().cloned()
    }

    /// The endpoint said this before its answer.
    pub(crate) fn heard(&self, status: StatusCode) {
        if status == StatusCode::CONTINUE {
            self.lock().is_open = true;
            self.reader.wake();
        }
    }

    /// The endpoint has answered: whether it never asked. Then nobody reads the body any more.
    pub(crate) fn close(&self) -> bool {
        let unwanted = self.lock().body.take();
        unwanted.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body behind its gate.
pub(crate) struct HeldBack {
    gate: Arc<Gate>,
    /// Once it is asked for.
    body: Option<Outgoing>,
    patience: Option<Pin<Box<Sleep>>>,
    asked: Option<Asked>,
}

impl HeldBack {
    /// Takes the body out once the gate is open. Where it was closed nothing ever comes.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.gate.reader.register(cx.waker());
        if !self.gate.lock().is_open {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            ready!(patience.as_mut().poll(cx));
        }
        self.body = self.gate.lock().body.take();
        if self.body.is_none() {
            return Poll::Pending;
        }
        if let Some(Asked(asked)) = self.asked.take() {
            asked.notify_one();
        }
        Poll::Ready(())
    }
}

impl Body for HeldBack {
    type Data = Bytes;
    type Error = <Outgoing as Body>::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let this = self.get_mut();
        if this.body.is_none() {
            ready!(this.poll_open(cx));
        }
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        // One that is held back has something in it.
        self.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => self.gate.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }
}

#[cfg(test)]
mod tests;
