//! Bodies whose bytes are counted as they pass, and whose end is the end of what is recorded.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Kept, Stage};
use crate::{
    fault::Side,
    http::{
        body::{Answer, Broken, Late, Outgoing},
        fault::Fault,
        pipe::said,
    },
};

/// A request's body.
pub(crate) struct Counted {
    body: Outgoing,
    count: Arc<AtomicU64>,
}

impl Counted {
    pub(super) fn new(body: Outgoing, count: Arc<AtomicU64>) -> Self {
        Self { body, count }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = <Outgoing as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.count.fetch_add(length(frame), Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

impl Kept {
    /// The answer did. A gRPC client is told so in trailers, but for the endpoint's own word.
    fn broke_off(&mut self, broken: &Broken) {
        let fault = if broken.is::<Late>() { Fault::RequestTimeout } else { Fault::Broken };
        self.fault(fault.name(), Side::Upstream);
        if said(broken).is_none() {
            self.note_grpc(&fault.grpc_trailers());
        }
    }
}

/// An answer's body. With it ends the request.
pub(crate) struct Recorded {
    body: Answer,
    kept: Box<Kept>,
}

impl Recorded {
    pub(super) fn new(body: Answer, kept: Box<Kept>) -> Self {
        let mut recorded = Self { body, kept };
        recorded.end_if_over();
        recorded
    }

    /// Who writes it asks no further once it says that it is over.
    fn end_if_over(&mut self) {
        if self.body.is_end_stream() {
            self.kept.stage = Stage::Ended;
        }
    }
}

impl Body for Recorded {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let kept = &mut self.kept;
        match &frame {
            Some(Ok(frame)) => {
                kept.response_bytes += length(frame);
                if let Some(trailers) = frame.trailers_ref() {
                    kept.note_grpc(trailers);
                }
            }
            Some(Err(broken)) => kept.broke_off(broken),
            None => kept.stage = Stage::Ended,
        }
        self.end_if_over();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
