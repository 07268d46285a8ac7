//! Keeps the body of a request as it goes by, so that it can be sent again from its beginning: up to a bound, and charged to who sends it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::super::{
    body::{Broken, Next, Outgoing},
    waiting::Held,
};
use crate::limits::Waits;

/// What is kept of one body, its trailers too: forms and calls whole, no upload. A request with more is sent once.
const MAX_KEPT: usize = 64 * 1024;

/// A request's body, for as often as it is sent.
pub(crate) enum Kept<B = Outgoing> {
    /// It has none.
    Nothing,
    /// It has one.
    Body(Arc<Mutex<State<B>>>),
}

/// A body, and what has gone by of it.
pub(crate) struct State<B> {
    source: B,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// How many of the bytes the reader has had, and whether the trailers.
    at: usize,
    had_trailers: bool,
    held: Held,
    /// Which reader is the one that counts: those before it were given up.
    turn: u32,
    fate: Fate,
    /// Whether that reader has read it to its end.
    is_read: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// All that was read is kept.
    Kept,
    /// It was too much.
    Lost,
    /// It broke off where it came from.
    Broken,
    /// It is not sent again: what was not read yet is all that is left.
    Over,
}

/// The body, from its beginning.
pub(crate) struct Repeated<B = Outgoing> {
    state: Arc<Mutex<State<B>>>,
    turn: u32,
}

/// The request goes another way by now.
#[derive(Debug, thiserror::Error)]
#[error("the request is sent again elsewhere")]
struct GivenUp;

impl Kept {
    /// The body, from its beginning. Who had it before gets no more of it.
    pub(crate) fn again(&self) -> Outgoing {
        self.reader().map_or(Outgoing::Empty, |reader| Outgoing::Repeated(Box::new(reader)))
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> Kept<B> {
    /// Keeps this one.
    pub(crate) fn new(source: B, waits: impl FnOnce() -> Arc<Waits>) -> Self {
        if source.is_end_stream() {
            return Self::Nothing;
        }
        let state = State {
            source,
            bytes: Vec::new(),
            trailers: None,
            at: 0,
            had_trailers: false,
            held: Held::new(&waits()),
            turn: 0,
            fate: Fate::Kept,
            is_read: false,
        };
        Self::Body(Arc::new(Mutex::new(state)))
    }

    fn reader(&self) -> Option<Repeated<B>> {
        let Self::Body(state) = self else { return None };
        let mut locked = lock(state);
        locked.turn += 1;
        (locked.at, locked.had_trailers, locked.is_read) = (0, false, false);
        Some(Repeated { state: state.clone(), turn: locked.turn })
    }

    /// Whether it is there from its beginning.
    pub(crate) fn can_repeat(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Body(state) => lock(state).fate == Fate::Kept,
        }
    }

    /// Whether all of it was sent.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Body(state) => lock(state).is_read,
        }
    }
}

impl<B> Drop for Kept<B> {
    /// It is not sent again.
    fn drop(&mut self) {
        if let Self::Body(state) = self {
            let mut state = lock(state);
            if state.fate == Fate::Kept {
                state.fate = Fate::Over;
                state.forget();
            }
        }
    }
}

fn lock<B>(state: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> State<B> {
    /// Keeps what goes by where there is room, else nothing of all. By copy: a piece of what was read at once would hold all of that.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.fate != Fate::Kept {
            return;
        }
        let is_kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(bytes), _) => self.keep_bytes(bytes),
            (None, Some(trailers)) => self.keep_trailers(trailers),
            (None, None) => true,
        };
        if !is_kept {
            self.fate = Fate::Lost;
            self.forget();
        }
    }

    fn keep_bytes(&mut self, bytes: &Bytes) -> bool {
        let n = self.bytes.len() + bytes.len();
        if n > MAX_KEPT {
            return false;
        }
        // Charged for the room that it takes, which is doubled as it grows.
        let room = if n > self.bytes.capacity() { n.next_power_of_two() } else { self.bytes.capacity() };
        if self.held.set(room).is_err() {
            return false;
        }
        self.bytes.reserve_exact(room - self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.at = self.bytes.len();
        true
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) -> bool {
        let count: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.bytes.len() + count > MAX_KEPT || self.held.set(self.held.count() + count).is_err() {
            return false;
        }
        self.trailers = Some(trailers.clone());
        self.had_trailers = true;
        true
    }

    /// Whether its reader has had all that is kept.
    fn is_had(&self) -> bool {
        self.at >= self.bytes.len() && (self.had_trailers || self.trailers.is_none())
    }

    /// Lets go of what was read.
    fn forget(&mut self) {
        drop(self.bytes.drain(..self.at.min(self.bytes.len())));
        self.at = 0;
        if self.is_had() {
            (self.bytes, self.trailers) = (Vec::new(), None);
            // Giving back never fails.
            self.held.set(0).unwrap_or_default();
        }
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> State<B> {
    /// The next of what is kept.
    fn kept(&mut self) -> Option<Frame<Bytes>> {
        let frame = match self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) {
            Some(rest) => Frame::data(Bytes::copy_from_slice(rest)),
            None if self.had_trailers => return None,
            None => Frame::trailers(self.trailers.clone()?),
        };
        self.at = self.bytes.len();
        self.had_trailers = frame.is_trailers();
        self.is_read = self.is_had() && self.source.is_end_stream();
        if self.fate == Fate::Over {
            self.forget();
        }
        Some(frame)
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> Repeated<B> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.turn != self.turn {
            return Poll::Ready(Some(Err(GivenUp.into())));
        }
        if let Some(frame) = state.kept() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match ready!(Pin::new(&mut state.source).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(broken)) => {
                state.fate = Fate::Broken;
                return Poll::Ready(Some(Err(broken)));
            }
            None => {
                state.is_read = true;
                return Poll::Ready(None);
            }
        };
        state.keep(&frame);
        state.is_read = state.source.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> Body for Repeated<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        self.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.turn == self.turn && state.is_had() && state.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let rest = state.source.size_hint();
        let left = state.bytes.len().saturating_sub(state.at) as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + left);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[cfg(test)]
mod tests;
