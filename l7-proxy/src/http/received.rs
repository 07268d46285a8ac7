//! A body as it comes from either end: HTTP/1's from clients by hyper, from endpoints by [`ask`](super::ask), HTTP/2's by h2.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{
    ask::Reply,
    body::{Broken, Next},
    heads::{Bad, is_no_trailer},
    one::intake::Upload,
    unread::{Entry, Unread},
};

/// What comes behind a head.
pub(crate) enum Received {
    /// A client's, in HTTP/1.
    Client(Upload),
    /// An endpoint's, in HTTP/1.
    Reply(Reply),
    /// In HTTP/2.
    Two(Stream),
}

/// A stream's bytes, and whose buffers they wait in.
pub(crate) struct Stream {
    recv: RecvStream,
    entry: Option<Entry>,
    is_data_over: bool,
}

/// What may only stand in a head came behind a body.
#[derive(Debug, thiserror::Error)]
#[error("{}", Bad::Trailer.name())]
pub(crate) struct BadTrailer;

impl Received {
    /// A stream of a connection whose waiting bytes are counted in `unread`.
    pub(crate) fn two(mut recv: RecvStream, unread: &Unread) -> Self {
        // What has ended already holds no more than it did when it came.
        let entry = (!recv.is_end_stream()).then(|| unread.enter(recv.flow_control()));
        Self::Two(Stream { recv, entry, is_data_over: false })
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(limit) = self.entry.as_ref().and_then(|entry| entry.full(cx)) {
            return Poll::Ready(Some(Err(limit.into())));
        }
        if !self.is_data_over {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // Fails only when the stream has ended, and then nobody waits for the window.
                    drop(self.recv.flow_control().release_capacity(bytes.len()));
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(broken)) => return Poll::Ready(Some(Err(broken.into()))),
                None => self.is_data_over = true,
            }
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(fit(trailers).map(Frame::trailers))),
            Ok(None) => Poll::Ready(None),
            Err(broken) => Poll::Ready(Some(Err(broken.into()))),
        }
    }
}

fn fit(trailers: HeaderMap) -> Result<HeaderMap, Broken> {
    if trailers.keys().any(|name| is_no_trailer(name.as_str().as_bytes())) {
        return Err(BadTrailer.into());
    }
    Ok(trailers)
}

impl Body for Received {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Reply(body) => Pin::new(body).poll_frame(cx),
            Self::Two(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Reply(body) => body.is_end_stream(),
            Self::Two(stream) => stream.recv.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Reply(body) => body.size_hint(),
            Self::Two(stream) if stream.recv.is_end_stream() => SizeHint::with_exact(0),
            Self::Two(_) => SizeHint::default(),
        }
    }
}
