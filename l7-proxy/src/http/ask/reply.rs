//! An answer's body, read out of its connection's buffer as it is asked for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    super::{
        body::{Broken, Next},
        coding::{Decoder, Framing, Step},
    },
    Lost, Shared, State,
};

/// An answer's body.
pub(crate) struct Reply {
    /// None once the body is over: from then on the connection is another request's.
    shared: Option<Arc<Shared>>,
    decoder: Decoder,
}

impl Reply {
    /// The body of the answer whose head was just taken.
    pub(super) fn new(framing: Framing, shared: &Arc<Shared>, state: &mut State) -> Self {
        let decoder = Decoder::new(framing);
        let shared = if decoder.is_end() {
            state.is_over();
            None
        } else {
            Some(shared.clone())
        };
        Self { shared, decoder }
    }

    /// What was read, or else what broke; None where more is awaited.
    fn step(&mut self, state: &mut State) -> Option<Next> {
        let step = match self.decoder.decode(&mut state.inbox) {
            Ok(step) => step,
            Err(bad) => {
                state.is_kept = false;
                self.shared = None;
                return Some(Some(Err(Lost::Bad(bad).into())));
            }
        };
        let next = match step {
            Step::Data(bytes) => Some(Ok(Frame::data(bytes))),
            Step::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Step::End => None,
            Step::More => {
                let lost = state.lost?;
                // Any other end leaves open whether that was all.
                if lost != Lost::Closed || !self.decoder.eof() {
                    self.shared = None;
                    return Some(Some(Err(lost.into())));
                }
                None
            }
        };
        if self.decoder.is_end() {
            self.shared = None;
            state.is_over();
        }
        Some(next)
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let Some(shared) = self.shared.clone() else { return Poll::Ready(None) };
        let mut state = shared.lock();
        if let Some(next) = self.step(&mut state) {
            return Poll::Ready(next);
        }
        state.tell(cx);
        state.is_thirsty = true;
        if !state.is_watched {
            state.wake_driver();
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }
}
