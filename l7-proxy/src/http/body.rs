//! Bodies on their way: what goes to an endpoint, and what comes back with the connection that it comes by.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::time::Sleep;

use super::{
    expect::HeldBack,
    mirror::feed::{Copied, Copying},
    received::Received,
    record::{Counted, Recorded},
    retry::Repeated,
    upstream::Lease,
};

/// Why a body broke off.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What comes next of a body.
pub(crate) type Next = Option<Result<Frame<Bytes>, Broken>>;

/// What an endpoint gets.
pub(crate) enum Outgoing {
    /// The client's.
    Client(Received),
    /// The client's, which others get copies of.
    Copied(Box<Copied<Received>>),
    /// Such a copy.
    Copy(Box<Copying>),
    /// The client's, which waits until its endpoint asks for it.
    HeldBack(Box<HeldBack>),
    /// The client's, from its beginning as often as it is sent.
    Repeated(Box<Repeated>),
    /// One whose bytes are counted.
    Counted(Box<Counted>),
    /// One that is here.
    Whole(Full<Bytes>),
    /// None.
    Empty,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Copied(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Copy(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::HeldBack(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Repeated(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Counted(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Copied(body) => body.is_end_stream(),
            Self::Copy(body) => body.is_end_stream(),
            Self::HeldBack(body) => body.is_end_stream(),
            Self::Repeated(body) => body.is_end_stream(),
            Self::Counted(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Copied(body) => body.size_hint(),
            Self::Copy(body) => body.size_hint(),
            Self::HeldBack(body) => body.size_hint(),
            Self::Repeated(body) => body.size_hint(),
            Self::Counted(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// What the client gets.
pub(crate) enum Answer {
    /// Of the mesh itself.
    Own(Full<Bytes>),
    /// An application's.
    Application(Box<Streamed>),
    /// Either, recorded as it ends.
    Recorded(Box<Recorded>),
}

/// An application's body. Dropped before its end, it closes the connection that it came by: the application sees at once that
/// nobody listens.
pub(crate) struct Streamed {
    body: Received,
    lease: Option<Lease>,
    /// When the request's time is over.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// The request's time was over while its answer still came.
#[derive(Debug, thiserror::Error)]
#[error("the request's time is over")]
pub(crate) struct Late;

impl Streamed {
    pub(crate) fn new(body: Received, lease: Lease, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        let mut streamed = Self { body, lease: Some(lease), deadline };
        streamed.end_if_over();
        streamed
    }

    /// Gives the connection back once the body has ended.
    fn end_if_over(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        let streamed = match self.get_mut() {
            Self::Own(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Application(streamed) => streamed,
            Self::Recorded(body) => return Pin::new(&mut **body).poll_frame(cx),
        };
        if let Some(deadline) = &mut streamed.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Late.into())));
        }
        match ready!(Pin::new(&mut streamed.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                streamed.end_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                if let Some(lease) = streamed.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Application(streamed) => streamed.body.is_end_stream(),
            Self::Recorded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Application(streamed) => streamed.body.size_hint(),
            Self::Recorded(body) => body.size_hint(),
        }
    }
}
