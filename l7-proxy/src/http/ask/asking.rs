//! Moves a connection's bytes: what is asked to the endpoint, what it answers into the buffer.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::{
    super::{
        body::Outgoing,
        coding::{Encoder, Outbox},
        expect::Gate,
        waiting::Waiting,
    },
    Asker, Awaited, Given, Lost, READ, Shared, State,
    head::{self, Head},
    shared,
};
use crate::limits::Waits;

/// Read at once while each read brings as much as there is room for, and what may wait for its reader: as much as waits to be written.
const MOST_READ: usize = 64 * 1024;

/// Reads, or pieces of a body, in one poll. A connection with more to do leaves its task, for others to have theirs.
const STEPS: usize = 32;

/// What moves a connection's bytes. Dropped, it closes the connection.
pub(crate) struct Asking<T> {
    /// None once it speaks something else.
    io: Option<Waiting<T>>,
    shared: Arc<Shared>,
    out: Outbox,
    sending: Option<Sending>,
    /// Told what the endpoint says before its answer.
    gate: Option<Arc<Gate>>,
    /// Whether what is asked for is a head alone.
    is_to_head: bool,
    /// How much of a head that is not whole was looked at already.
    seen: usize,
}

/// A body on its way.
struct Sending {
    body: Outgoing,
    encoder: Encoder,
}

/// How a connection's HTTP ends.
#[derive(Debug)]
pub(crate) enum Over<T> {
    /// The connection has ended, or is to.
    Lost(Lost),
    /// It speaks something else from now on: the connection, and what was read behind the answer's head.
    Switched(T, Bytes),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Asking<T> {
    /// Begins to speak HTTP/1 as a client; whoever gives requests, and what moves the bytes. What waits to be written is charged.
    pub(crate) fn new(io: T, waits: &Arc<Waits>) -> (Asker, Self) {
        let shared = shared();
        let asking = Self {
            io: Some(Waiting::new(io, waits)),
            shared: shared.clone(),
            out: Outbox::default(),
            sending: None,
            gate: None,
            is_to_head: false,
            seen: 0,
        };
        (Asker(shared), asking)
    }

    /// Moves what there is. Not to be polled again when that is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over<T>> {
        match self.turn(cx) {
            Ok(false) => Poll::Pending,
            Ok(true) => {
                let mut state = self.shared.lock();
                state.end(Lost::Closed);
                let read = state.inbox.split().freeze();
                drop(state);
                let io = self.io.take().map(Waiting::into_inner);
                Poll::Ready(io.map_or(Over::Lost(Lost::Closed), |io| Over::Switched(io, read)))
            }
            Err(lost) => {
                self.shared.lock().end(lost);
                Poll::Ready(Over::Lost(lost))
            }
        }
    }

    /// One turn; whether the endpoint has switched to another protocol.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Lost> {
        // First, so that a connection which the endpoint has closed meanwhile has nothing of a request.
        if self.receive(cx)? {
            return Ok(true);
        }
        let request = self.shared.lock().begun();
        if let Some((request, gate)) = request {
            self.gate = gate;
            self.begin(request)?;
        }
        self.send(cx)?;
        Ok(false)
    }

    /// Reads what is awaited, until nothing more is there; whether the endpoint has switched.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Lost> {
        let Self { io: Some(io), shared, gate, is_to_head, seen, .. } = self else { return Ok(false) };
        let mut state = shared.lock();
        state.drive(cx);
        state.is_watched = false;
        // A read that did not fill its room has taken all there was: another one costs no call, and has the next byte wake this.
        let mut was_short = false;
        for _ in 0..STEPS {
            let is_awaited = match state.awaited {
                Awaited::Nothing | Awaited::Head => true,
                Awaited::Come(..) | Awaited::Body => state.is_thirsty || (was_short && state.inbox.len() < MOST_READ),
            };
            if !is_awaited {
                return Ok(false);
            }
            let spare = state.room();
            let read = match pin!(io.read_buf(&mut state.inbox)).poll(cx) {
                Poll::Pending => {
                    state.is_watched = true;
                    return Ok(false);
                }
                Poll::Ready(read) => read,
            };
            let n = read.map_err(|error| Lost::Io(error.kind()))?;
            if n == 0 {
                return Err(Lost::Closed);
            }
            was_short = n < spare;
            state.room = next_room(state.room, n, was_short);
            if state.came((seen, *is_to_head), gate.as_deref())? {
                return Ok(true);
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Writes the head of a request.
    fn begin(&mut self, request: Request<Outgoing>) -> Result<(), Lost> {
        let (head, body) = request.into_parts();
        self.is_to_head = head.method == Method::HEAD;
        let framing = head::framing(&head, &body);
        let mut encoder = Encoder::new(framing).announcing(&head.headers);
        head::write(&head, framing, self.out.head());
        if body.is_end_stream() {
            encoder.end(&mut self.out)?;
            self.shared.lock().sent = Some(head);
        } else {
            self.sending = Some(Sending { body, encoder });
        }
        Ok(())
    }

    /// Sends what there is of a request. Its head goes with what is ready of its body.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        let Some(io) = &mut self.io else { return Ok(()) };
        let mut n_steps = 0;
        loop {
            let mut has_more = true;
            while has_more && self.out.has_room() && n_steps < STEPS {
                let Some(sending) = &mut self.sending else { break };
                n_steps += 1;
                match sending.poll(&mut self.out, cx)? {
                    Poll::Ready(true) => self.sending = None,
                    Poll::Ready(false) => {}
                    Poll::Pending => has_more = false,
                }
            }
            match self.out.poll_write(io, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if is_by_endpoint(&error) => {
                    // It takes no more: perhaps it has answered already. That, or its end, is read next.
                    (self.sending, self.out) = (None, Outbox::default());
                    let mut state = self.shared.lock();
                    (state.is_kept, state.is_sending) = (false, false);
                    return Ok(());
                }
                Poll::Ready(Err(error)) => return Err(Lost::Io(error.kind())),
            }
            if self.sending.is_none() {
                let mut state = self.shared.lock();
                state.is_sending = false;
                return Ok(());
            }
            if !has_more {
                return Ok(());
            }
            if n_steps >= STEPS {
                cx.waker().wake_by_ref();
                return Ok(());
            }
        }
    }
}

impl<T> Drop for Asking<T> {
    fn drop(&mut self) {
        self.shared.lock().end(Lost::LetGo);
    }
}

/// How much is read after a read of `n`: more for who fills what there is, less again for who does not.
fn next_room(room: usize, n: usize, was_short: bool) -> usize {
    if !was_short {
        (room * 2).min(MOST_READ)
    } else if n < room / 4 {
        (room / 2).max(READ)
    } else {
        room
    }
}

/// Whether an endpoint that takes no more has said so, and nothing here.
fn is_by_endpoint(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl Sending {
    /// The next piece into `out`; whether it was the last.
    fn poll(&mut self, out: &mut Outbox, cx: &mut Context<'_>) -> Result<Poll<bool>, Lost> {
        let Self { body, encoder } = self;
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Ok(frame))) => {
                encoder.piece(frame, out)?;
                if !body.is_end_stream() {
                    return Ok(Poll::Ready(false));
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a request's body broke off");
                return Err(Lost::CutOff);
            }
            Poll::Ready(None) => {}
        }
        encoder.end(out)?;
        Ok(Poll::Ready(true))
    }
}

impl State {
    /// Has this task told of requests, and of readers that wait.
    fn drive(&mut self, cx: &Context<'_>) {
        if !self.driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    /// Makes room for what is read next; how much. Where an answer holds the buffer still, what is left of it will mostly do.
    fn room(&mut self) -> usize {
        if self.inbox.capacity() - self.inbox.len() < self.room / 4 {
            self.inbox.reserve(self.room);
        }
        self.inbox.capacity() - self.inbox.len()
    }

    /// The request that was given, where one was.
    fn begun(&mut self) -> Option<Given> {
        let given = self.request.take()?;
        (self.awaited, self.is_sending) = (Awaited::Head, true);
        Some(given)
    }

    /// Looks at what was read; whether the endpoint has switched.
    fn came(&mut self, (seen, is_to_head): (&mut usize, bool), gate: Option<&Gate>) -> Result<bool, Lost> {
        match self.awaited {
            Awaited::Nothing => return Err(Lost::Unasked),
            Awaited::Come(..) | Awaited::Body => {
                self.is_thirsty = false;
                self.wake_asker();
                return Ok(false);
            }
            Awaited::Head => {}
        }
        while !self.inbox.is_empty() {
            match head::read(&mut self.inbox, seen, is_to_head).map_err(Lost::Bad)? {
                None => break,
                Some(Head::Informational(status)) => {
                    self.sent = None;
                    if let Some(gate) = gate {
                        gate.heard(status);
                    }
                }
                Some(Head::Answer { head, framing, is_kept }) => {
                    let is_switching = head.status() == http::StatusCode::SWITCHING_PROTOCOLS;
                    self.is_kept &= is_kept;
                    self.sent = None;
                    self.awaited = Awaited::Come(head, framing);
                    self.wake_asker();
                    return Ok(is_switching);
                }
            }
        }
        Ok(false)
    }
}
