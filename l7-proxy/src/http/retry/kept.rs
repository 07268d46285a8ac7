//! Keeps the body of a request as it goes by, so that it can be sent again from its beginning: up to a bound, and charged to who sends it.

use std::{
    collections::VecDeque,
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

/// What is kept of one body: forms and calls whole, no upload. A request with more is sent once.
const MAX_KEPT: usize = 64 * 1024;

/// What a piece costs beside its bytes.
const PER_PIECE: usize = 128;

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
    pieces: VecDeque<Piece>,
    /// How many of them the reader has had.
    at: usize,
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

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
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
        let held = Held::new(&waits());
        let state = State { source, pieces: VecDeque::new(), at: 0, held, turn: 0, fate: Fate::Kept, is_read: false };
        Self::Body(Arc::new(Mutex::new(state)))
    }

    fn reader(&self) -> Option<Repeated<B>> {
        let Self::Body(state) = self else { return None };
        let mut locked = lock(state);
        locked.turn += 1;
        (locked.at, locked.is_read) = (0, false);
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
    /// Keeps a piece where there is room, else nothing of all.
    fn keep(&mut self, piece: impl FnOnce() -> Piece, count: usize) {
        let all = self.held.count() + count + PER_PIECE;
        if self.fate == Fate::Kept && all <= MAX_KEPT && self.held.set(all).is_ok() {
            self.pieces.push_back(piece());
            self.at += 1;
        } else if self.fate == Fate::Kept {
            self.fate = Fate::Lost;
            self.forget();
        }
    }

    /// Lets go of what was read.
    fn forget(&mut self) {
        drop(self.pieces.drain(..self.at.min(self.pieces.len())));
        self.at = 0;
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
            // Giving back never fails.
            drop(self.held.set(0));
        }
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> State<B> {
    /// The next of what is kept.
    fn kept(&mut self) -> Option<Frame<Bytes>> {
        let piece = if self.fate == Fate::Over {
            self.pieces.pop_front()?
        } else {
            let piece = self.pieces.get(self.at)?.clone();
            self.at += 1;
            piece
        };
        self.is_read = self.at >= self.pieces.len() && self.source.is_end_stream();
        Some(match piece {
            Piece::Data(bytes) => Frame::data(bytes),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> Repeated<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
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
        if let Some(bytes) = frame.data_ref() {
            // A copy: a piece of what was read at once would hold all of that.
            state.keep(|| Piece::Data(Bytes::copy_from_slice(bytes)), bytes.len());
        } else if let Some(trailers) = frame.trailers_ref() {
            let count = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            state.keep(|| Piece::Trailers(trailers.clone()), count);
        }
        state.is_read = state.source.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }
}

impl<B: Body<Data = Bytes, Error = Broken> + Unpin> Body for Repeated<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.turn == self.turn && state.at >= state.pieces.len() && state.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let rest = state.source.size_hint();
        let left = state.pieces.iter().skip(state.at).map(|piece| match piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Trailers(_) => 0,
        });
        let left: u64 = left.sum();
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
