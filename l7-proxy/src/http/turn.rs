//! Knows how far a client's HTTP/1 has come: what was answered, and the fault in what it sent.
//!
//! What was asked before bad bytes is answered, and only then the parser told that the stream has ended: it takes an end for a client
//! that has gone, and gives up what is under way.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, SizeHint};

use super::{
    body::{Answer, Broken, Next},
    heads::Bad,
};

/// One connection's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were answered whole.
    count: AtomicU64,
    reader: AtomicWaker,
    bad: OnceLock<Bad>,
}

impl Turn {
    /// Its bytes are no HTTP.
    pub(crate) fn is_bad(&self, bad: Bad) {
        self.0.bad.get_or_init(|| bad);
    }

    /// Why they are none, where they are not.
    pub(crate) fn bad(&self) -> Option<Bad> {
        self.0.bad.get().copied()
    }

    /// Ready once so many requests were answered.
    pub(crate) fn poll(&self, count: u64, cx: &Context<'_>) -> Poll<()> {
        self.0.reader.register(cx.waker());
        if self.0.count.load(Ordering::Acquire) >= count { Poll::Ready(()) } else { Poll::Pending }
    }

    /// An answer's body, counted when it is dropped.
    pub(crate) fn with(&self, answer: Answer) -> InTurn {
        InTurn { answer, turn: self.clone() }
    }
}

/// A body that is counted when it is dropped.
pub(crate) struct InTurn {
    answer: Answer,
    turn: Turn,
}

impl Drop for InTurn {
    fn drop(&mut self) {
        self.turn.0.count.fetch_add(1, Ordering::Release);
        self.turn.0.reader.wake();
    }
}

impl Body for InTurn {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        Pin::new(&mut self.answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
