//! Reads what a client of HTTP/1 sends: its requests' heads for its connection, and each one's body for whoever passes that on.
//!
//! A body reads the socket itself, in whatever task it is polled: nobody stands between, and what is not asked for stays in the
//! kernel. While there is none, the connection reads, so that it sees its client go. Both share one buffer; which of them reads is by
//! how far the message is.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::{io::AsyncReadExt as _, net::tcp::OwnedReadHalf};

use crate::http::{
    body::{Broken, Next},
    coding::{Framing, Step},
    flaw::Flaw,
    heads::{Asked, Bad, Heads},
};

/// Read at once. Most requests fit whole.
const READ: usize = 4 * 1024;

/// Read at once of a body that fills whatever room there is.
const MOST: usize = 64 * 1024;

/// What is read of a body that nobody wants, so that its connection can be kept; with more it is closed.
const MAX_UNREAD: u64 = 64 * 1024;

/// What a client of HTTP/1 sends.
#[derive(Debug)]
pub(super) struct Intake(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// None once it speaks HTTP no more.
    socket: Option<OwnedReadHalf>,
    heads: Heads,
    /// What was read and belongs to nobody yet.
    buffer: BytesMut,
    /// How much is read at once.
    room: usize,
    body: At,
    word: Word,
    flaw: Flaw,
    /// The connection's task, while a body is another's to read.
    owner: Option<Waker>,
    /// Who waits for more of a body.
    reader: Option<Waker>,
}

/// What becomes of the body that was begun last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// It was read to its end, or there was none.
    Over,
    /// Somebody has it.
    Held,
    /// Nobody wants it any more: so much of it was read since.
    Left(u64),
    /// Nothing behind it can be read.
    Lost,
}

/// Whether a client that waits to be asked for its body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It does not wait.
    None,
    Waited,
    /// Its body was asked for: it is to be told.
    Due,
}

/// A request's body, as its client sends it.
#[derive(Debug)]
pub(crate) struct Upload {
    intake: Weak<Mutex<Inner>>,
    /// What is still to come, where that was said.
    left: Option<u64>,
    is_over: bool,
}

/// A client's connection has ended within a body.
#[derive(Debug, thiserror::Error)]
#[error("a client's body broke off")]
pub(crate) struct BrokeOff;

impl Intake {
    pub(super) fn new(socket: OwnedReadHalf, (heads, buffer): (Heads, BytesMut), flaw: Flaw) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            socket: Some(socket),
            heads,
            buffer,
            room: READ,
            body: At::Over,
            word: Word::None,
            flaw,
            owner: None,
            reader: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    /// The next head, where it is here whole.
    pub(super) fn next(&self) -> Result<Option<Asked>, Bad> {
        let mut inner = self.lock();
        let Inner { heads, buffer, flaw, room, .. } = &mut *inner;
        if *room > READ {
            *room = READ;
            // What a long body or head took is not held by who is silent.
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
        heads.head(buffer).inspect_err(|bad| flaw.is_bad(*bad))
    }

    /// Reads once more, and says how much.
    pub(super) fn poll_more(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.lock().poll_more(cx)
    }

    /// Whether something is here that nobody had yet.
    pub(super) fn has_more(&self) -> bool {
        !self.lock().buffer.is_empty()
    }

    /// The body of the request whose head came last. Its client `waits` to be asked for it.
    pub(super) fn body(&self, framing: Framing, waits: bool) -> Upload {
        let left = match framing {
            // A request's body never ends with its connection.
            Framing::None | Framing::UntilClose => return Upload { intake: Weak::new(), left: Some(0), is_over: true },
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let mut inner = self.lock();
        inner.body = At::Held;
        inner.word = if waits { Word::Waited } else { Word::None };
        Upload { intake: Arc::downgrade(&self.0), left, is_over: false }
    }

    /// Whether the client is to be told now to send its body: once.
    pub(super) fn is_due(&self) -> bool {
        let mut inner = self.lock();
        let is_due = inner.word == Word::Due;
        if is_due {
            inner.word = Word::None;
        }
        is_due
    }

    /// How far the body is; one that nobody wants is read on, as far as it is here.
    pub(super) fn at(&self) -> At {
        let mut inner = self.lock();
        inner.skip();
        inner.body
    }

    /// Whether another request can come behind this body, as far as can be said now.
    pub(super) fn may_go_on(&self) -> bool {
        let mut inner = self.lock();
        inner.skip();
        match inner.body {
            At::Over | At::Held => true,
            // One in chunks may have any length.
            At::Left(_) => inner.heads.left().is_some_and(|left| left <= MAX_UNREAD),
            At::Lost => false,
        }
    }

    /// Ready when the body is no longer anybody's, and behind it another request may come, or none.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<At> {
        let mut inner = self.lock();
        loop {
            inner.skip();
            match inner.body {
                At::Over | At::Lost => return Poll::Ready(inner.body),
                At::Held => {
                    inner.owner = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                At::Left(_) => match ready!(inner.poll_more(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => inner.body = At::Lost,
                },
            }
        }
    }

    /// Ready when the client has gone, as far as that can be seen without reading what is not to be read yet.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match ready!(self.poll_over(cx)) {
            At::Over => {}
            At::Held | At::Left(_) | At::Lost => return Poll::Pending,
        }
        let mut inner = self.lock();
        // What it has sent ahead is for later.
        if !inner.buffer.is_empty() {
            return Poll::Pending;
        }
        match ready!(inner.poll_more(cx)) {
            Ok(0) => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// The socket, and what was read of it, for another protocol.
    pub(super) fn take_raw(&self) -> (Option<OwnedReadHalf>, Bytes) {
        let mut inner = self.lock();
        (inner.socket.take(), std::mem::take(&mut inner.buffer).freeze())
    }
}

impl Drop for Intake {
    /// Who waits for more of a body learns that none comes.
    fn drop(&mut self) {
        let reader = self.lock().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        // Room is made when there is something to read: who is silent holds none, and what was there before is free again by then.
        ready!(socket.as_ref().poll_read_ready(cx))?;
        self.buffer.reserve(self.room);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = socket.read_buf(&mut self.buffer);
        tokio::pin!(read);
        let n = ready!(read.poll(cx))?;
        if n >= room {
            self.room = (2 * self.room).min(MOST);
        }
        Poll::Ready(Ok(n))
    }

    /// Reads what is here of a body that nobody wants.
    fn skip(&mut self) {
        while let At::Left(n_read) = self.body {
            // Nobody was asked for it: whether it comes, nobody knows.
            if self.word == Word::Waited
                || n_read > MAX_UNREAD
                || self.heads.left().is_some_and(|left| left > MAX_UNREAD)
            {
                self.body = At::Lost;
                return;
            }
            self.body = match self.heads.body(&mut self.buffer) {
                Ok(Step::Data(bytes)) => At::Left(n_read + bytes.len() as u64),
                Ok(Step::Trailers(_)) => At::Left(n_read),
                Ok(Step::End) => At::Over,
                Ok(Step::More) => return,
                Err(bad) => self.is_bad(bad),
            };
        }
    }

    fn is_bad(&self, bad: Bad) -> At {
        self.flaw.is_bad(bad);
        At::Lost
    }

    /// The next of the body that somebody has.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Broken>> {
        if self.word == Word::Waited {
            self.word = Word::Due;
            self.tell_owner();
        }
        let step = loop {
            match self.heads.body(&mut self.buffer) {
                Ok(Step::More) => {}
                Ok(step) => break step,
                Err(bad) => {
                    self.body = self.is_bad(bad);
                    return Poll::Ready(Err(BrokeOff.into()));
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(ended) => {
                    self.body = At::Lost;
                    return Poll::Ready(Err(ended.err().map_or_else(|| BrokeOff.into(), Into::into)));
                }
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        if !self.heads.is_in_body() {
            self.body = At::Over;
            self.tell_owner();
        }
        Poll::Ready(Ok(step))
    }

    fn tell_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Some(inner) = self.intake.upgrade() else {
            self.is_over = true;
            return Poll::Ready(Some(Err(BrokeOff.into())));
        };
        let mut inner = lock(&inner);
        let step = ready!(inner.poll_body(cx));
        self.is_over = inner.body != At::Held;
        drop(inner);
        match step {
            Ok(Step::Data(bytes)) => {
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Ok(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(Step::End | Step::More) => Poll::Ready(None),
            Err(broken) => Poll::Ready(Some(Err(broken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_over => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Upload {
    /// Nobody wants the rest.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let Some(inner) = self.intake.upgrade() else { return };
        let mut inner = lock(&inner);
        if inner.body == At::Held {
            inner.body = At::Left(0);
        }
        inner.tell_owner();
    }
}
