//! Hands a body on to copies of its request as it goes by, within bounds. Who gives never waits: a queue that is full is given up.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, mpsc};

use super::super::body::Broken;

/// What waits for one copy: a mirror that lags by a round trip of 8 ms at 1 Gbit/s is not slow.
const MAX_HELD: usize = 1024 * 1024;

/// What waits for all copies of one worker.
const MAX_HELD_BY_ALL: usize = 16 * 1024 * 1024;

/// Pieces that wait for one copy: so many that the bytes are the bound where they are of a packet's size and more.
const MAX_PIECES: usize = 1024;

/// One piece of a body.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// The end of a queue that a copy is fed by. Dropped before the body's end, it cuts the copy.
#[derive(Debug)]
pub(crate) struct Feed {
    queue: mpsc::Sender<Piece>,
    held: Arc<Held>,
    is_over: bool,
}

/// What waits in a queue, in bytes.
#[derive(Debug)]
pub(crate) struct Held {
    here: AtomicUsize,
    by_all: Arc<AtomicUsize>,
    was_full: AtomicBool,
    cut: Notify,
}

/// The body of a copy.
#[derive(Debug)]
pub(crate) struct Copying {
    queue: mpsc::Receiver<Piece>,
    held: Arc<Held>,
    is_over: bool,
}

/// The request's own body, and those to whom it is handed on.
#[derive(Debug)]
pub(crate) struct Copied<B> {
    body: B,
    feeds: Vec<Feed>,
}

/// The body broke off, or the copy lagged too far behind.
#[derive(Debug, thiserror::Error)]
#[error("the rest of the body does not come")]
struct CutOff;

/// Both ends of a queue. `by_all` is what waits in all of the worker's.
pub(crate) fn pair(by_all: Arc<AtomicUsize>) -> (Feed, Copying) {
    let (sender, receiver) = mpsc::channel(MAX_PIECES);
    let held =
        Arc::new(Held { here: AtomicUsize::new(0), by_all, was_full: AtomicBool::new(false), cut: Notify::new() });
    (Feed { queue: sender, held: held.clone(), is_over: false }, Copying { queue: receiver, held, is_over: false })
}

impl Held {
    /// Whether the copy was cut for lagging behind.
    pub(crate) fn was_full(&self) -> bool {
        self.was_full.load(Ordering::Relaxed)
    }

    /// Returns once the rest of the body does not come: who writes to a mirror that reads nothing would not hear of it.
    pub(crate) async fn cut(&self) {
        self.cut.notified().await;
    }

    /// Takes on so many bytes, if there is room.
    fn take(&self, n: usize) -> bool {
        let has_room = self.here.load(Ordering::Relaxed) + n <= MAX_HELD
            && self.by_all.load(Ordering::Relaxed) + n <= MAX_HELD_BY_ALL;
        if has_room {
            self.here.fetch_add(n, Ordering::Relaxed);
            self.by_all.fetch_add(n, Ordering::Relaxed);
        }
        has_room
    }

    fn give_back(&self, n: usize) {
        self.here.fetch_sub(n, Ordering::Relaxed);
        self.by_all.fetch_sub(n, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.by_all.fetch_sub(*self.here.get_mut(), Ordering::Relaxed);
    }
}

impl Feed {
    /// Hands a piece on; false where this copy gets no more.
    fn give(&mut self, piece: Piece) -> bool {
        let n = match &piece {
            Piece::Data(bytes) => bytes.len(),
            Piece::Trailers(_) | Piece::End => 0,
        };
        if !self.held.take(n) {
            self.held.was_full.store(true, Ordering::Relaxed);
            return false;
        }
        match self.queue.try_send(piece) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.held.was_full.store(true, Ordering::Relaxed);
                false
            }
            // It has its answer already, or has failed.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.is_over = true;
                false
            }
        }
    }

    /// The copy is whole. One that can't be told so is cut as this goes.
    fn end(mut self) {
        self.is_over = self.give(Piece::End);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.is_over {
            self.held.cut.notify_one();
        }
    }
}

impl<B> Copied<B> {
    pub(crate) fn new(body: B, feeds: Vec<Feed>) -> Self {
        Self { body, feeds }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Broken>> + Unpin> Body for Copied<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { body, feeds } = self.get_mut();
        let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    feeds.retain_mut(|feed| feed.give(Piece::Data(data.clone())));
                } else if let Some(trailers) = frame.trailers_ref() {
                    feeds.retain_mut(|feed| feed.give(Piece::Trailers(trailers.clone())));
                }
                // Who knows the length asks no further.
                if body.is_end_stream() {
                    feeds.drain(..).for_each(Feed::end);
                }
            }
            // Without their end copies are not taken for whole.
            Some(Err(_)) => feeds.clear(),
            None => feeds.drain(..).for_each(Feed::end),
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // While a copy waits for the end, it is asked for.
        self.feeds.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Copying {
    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.clone()
    }
}

impl Body for Copying {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Self { queue, held, is_over } = self.get_mut();
        if *is_over {
            return Poll::Ready(None);
        }
        let frame = match ready!(queue.poll_recv(cx)) {
            Some(Piece::Data(bytes)) => {
                held.give_back(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::End) => {
                *is_over = true;
                None
            }
            None => {
                *is_over = true;
                Some(Err(CutOff.into()))
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests;
