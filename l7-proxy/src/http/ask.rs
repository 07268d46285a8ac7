//! Asks an endpoint by HTTP/1: the client's half of a connection, for one request at a time.
//!
//! Three share a connection: [`Asker`] gives a request and hears the head of its answer, [`Reply`] is that answer's body, and
//! [`Asking`] moves the bytes, in whose task that may be ([`driven`](super::driven)). What they tell one another stands in one [`State`]: there is
//! no channel, and nothing is made for a request. `asking` reads from its `poll`; `head` writes requests' heads and reads answers'.
//!
//! An answer is believed as little as a request: where its framing can be read in two ways it is none, and its connection carries no other. What an
//! endpoint says when nobody has asked ends its connection.

mod asking;
mod head;
mod reply;

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use http::{Request, Response, request::Parts};

use super::{
    body::Outgoing,
    coding::{Framing, Misfit},
    expect::Gate,
    heads::Bad,
};

pub(crate) use asking::{Asking, Over};
pub(in crate::http) use head::{Head, read};
pub(crate) use reply::Reply;

/// Read at once. Most heads, and small bodies with them, fit whole.
const READ: usize = 8 * 1024;

/// Why a connection carries no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// The endpoint has sent all that it sends.
    #[error("the endpoint has closed its connection")]
    Closed,
    /// It broke.
    #[error("the endpoint's connection broke: {0}")]
    Io(io::ErrorKind),
    /// What came is no answer.
    #[error("the endpoint's answer is no HTTP: {}", .0.name())]
    Bad(Bad),
    /// Something came that nobody has asked for.
    #[error("the endpoint spoke unasked")]
    Unasked,
    /// The request's body broke off where it came from.
    #[error("the request's body broke off")]
    CutOff,
    /// The request's body is not what its head says.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The proxy let go of it.
    #[error("the connection is no longer held")]
    LetGo,
}

/// A request that was not answered.
pub(crate) struct Unanswered {
    /// The request again, where none of it was sent.
    pub(crate) request: Option<Request<Outgoing>>,
    /// The request again, where it was sent and has no body, and its connection was closed before a byte of an answer came.
    pub(crate) sent: Option<Request<Outgoing>>,
    /// What broke.
    pub(crate) lost: Lost,
}

/// Gives requests to a connection.
pub(crate) struct Asker(Arc<Shared>);

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").field("is_ready", &self.is_ready()).finish_non_exhaustive()
    }
}

/// What those who share a connection tell one another.
struct Shared(Mutex<State>);

struct State {
    /// What is to be sent and was not begun.
    request: Option<Given>,
    /// The head of what was sent without a body, until it is answered.
    sent: Option<Parts>,
    /// Whether a request is on its way still.
    is_sending: bool,
    awaited: Awaited,
    /// What was read and is not taken.
    inbox: BytesMut,
    /// How much is read next.
    room: usize,
    /// Whether the answer's reader has taken all there is and waits for more.
    is_thirsty: bool,
    /// Whether [`Asking`] will be woken by the next byte.
    is_watched: bool,
    /// Whether there may be another request behind this one.
    is_kept: bool,
    /// Why nothing moves any more. What is in the inbox may be taken still.
    lost: Option<Lost>,
    /// Who waits for the answer.
    asker: Option<Waker>,
    /// Who moves the bytes.
    driver: Option<Waker>,
}

/// A request, and who is told what its endpoint says before the answer.
type Given = (Request<Outgoing>, Option<Arc<Gate>>);

/// An answer, or the request that had none.
type Answered = Result<Response<Reply>, Box<Unanswered>>;

/// What the next bytes belong to.
enum Awaited {
    /// Nothing that was asked for.
    Nothing,
    /// An answer's head.
    Head,
    /// A head has come and was not taken.
    Come(Response<()>, Framing),
    /// A body.
    Body,
}

/// Both ends of a connection that begins to speak HTTP/1 over `io`.
fn shared() -> Arc<Shared> {
    Arc::new(Shared(Mutex::new(State {
        request: None,
        sent: None,
        is_sending: false,
        awaited: Awaited::Nothing,
        inbox: BytesMut::new(),
        room: READ,
        is_thirsty: false,
        is_watched: false,
        is_kept: true,
        lost: None,
        asker: None,
        driver: None,
    })))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a request on.
    fn give(&mut self, request: Request<Outgoing>, gate: Option<Arc<Gate>>) {
        self.request = Some((request, gate));
        self.wake_driver();
    }

    /// The answer has come to its end.
    fn is_over(&mut self) {
        self.awaited = Awaited::Nothing;
        // What follows an answer was not asked for: to take it for the next one is how answers are smuggled.
        self.is_kept &= self.inbox.is_empty();
        // A connection that waits for its next request holds no more than small answers need.
        if self.room > READ {
            (self.inbox, self.room) = (BytesMut::new(), READ);
        }
        if !self.is_watched {
            self.wake_driver();
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    fn wake_asker(&mut self) {
        if let Some(asker) = self.asker.take() {
            asker.wake();
        }
    }

    /// Has whoever awaits the answer told of it.
    fn tell(&mut self, cx: &Context<'_>) {
        if !self.asker.as_ref().is_some_and(|asker| asker.will_wake(cx.waker())) {
            self.asker = Some(cx.waker().clone());
        }
    }

    /// What becomes of the request now that its connection is lost.
    fn unanswered(&mut self, lost: Lost) -> Unanswered {
        let request = self.request.take().map(|(request, _gate)| request);
        // One that was heard of, if only in part, is not silently sent twice.
        let is_unheard = matches!(lost, Lost::Closed | Lost::Io(_)) && self.inbox.is_empty();
        let sent = self.sent.take().filter(|_| is_unheard);
        Unanswered { request, sent: sent.map(|head| Request::from_parts(head, Outgoing::Empty)), lost }
    }

    /// Nothing moves any more.
    fn end(&mut self, lost: Lost) {
        self.lost.get_or_insert(lost);
        (self.is_sending, self.driver) = (false, None);
        self.wake_asker();
    }
}

impl Asker {
    /// Whether a request may be given.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.0.lock();
        let is_free = matches!(state.awaited, Awaited::Nothing) && state.request.is_none() && !state.is_sending;
        is_free && state.is_kept && state.lost.is_none()
    }

    /// Whether none may be given any more, now or later.
    pub(crate) fn is_ended(&self) -> bool {
        let state = self.0.lock();
        state.lost.is_some() || !state.is_kept
    }

    /// Sends a request, and waits for the head of its answer. Informational ones before it are told to the gate.
    pub(crate) async fn ask(&self, request: Request<Outgoing>, gate: Option<Arc<Gate>>) -> Answered {
        self.0.lock().give(request, gate);
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<Answered> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut state.awaited, Awaited::Body) {
            Awaited::Come(head, framing) => {
                let reply = Reply::new(framing, &self.0, &mut state);
                Poll::Ready(Ok(head.map(|()| reply)))
            }
            other @ (Awaited::Nothing | Awaited::Head | Awaited::Body) => {
                state.awaited = other;
                if let Some(lost) = state.lost {
                    return Poll::Ready(Err(Box::new(state.unanswered(lost))));
                }
                state.tell(cx);
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests;
