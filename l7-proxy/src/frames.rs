//! Counts a tunnel's HTTP/2 frames before h2 sees them: what costs its sender a few bytes and this end work has a rate.
//!
//! h2 bounds what it stores (streams, heads, resets that it has not seen through, small unread DATA), but answers any number
//! of PING, SETTINGS and the like. Each kind of such frames has a bucket, wide enough for any peer that means well; an
//! overdrawn one ends the tunnel, by name ([`Flood`]). A head must be whole within a time.

mod bucket;
mod meter;

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

pub(crate) use self::bucket::Bucket;
use self::meter::Meter;

/// How long a head may take from its first frame to its last: it fits into one packet or a few.
const HEAD: Duration = Duration::from_secs(10);

/// What a peer did too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flood {
    /// PING.
    Ping,
    /// SETTINGS.
    Settings,
    /// WINDOW_UPDATE: tiny ones, or for nothing.
    Window,
    /// RST_STREAM of streams that did not come to be: "rapid reset".
    Reset,
    /// HEADERS: more streams than any application opens.
    Headers,
    /// CONTINUATION: a head in too many pieces.
    Continuation,
    /// DATA of no bytes.
    Empty,
    /// PRIORITY, GOAWAY and frames of no known kind.
    Other,
    /// A head that was begun and does not end.
    SlowHead,
}

impl Flood {
    /// Its one name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ping => "flood_ping",
            Self::Settings => "flood_settings",
            Self::Window => "flood_window",
            Self::Reset => "flood_reset",
            Self::Headers => "flood_headers",
            Self::Continuation => "flood_continuation",
            Self::Empty => "flood_empty",
            Self::Other => "flood_other",
            Self::SlowHead => "slow_head",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Flood {}

/// Which end of the tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It accepted: the peer begins with the preface.
    Server,
    /// It dialled.
    Client,
}

/// Streams that came to be: their resets are in order, however many. And what ended their tunnel, if that was a flood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Carried(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    n_unreset: AtomicU32,
    /// h2 keeps an error's kind and text, and not the error.
    flood: OnceLock<Flood>,
}

impl Carried {
    /// One more was answered with 200.
    pub(crate) fn one_more(&self) {
        self.0.n_unreset.fetch_add(1, Ordering::Relaxed);
    }

    /// The flood as an error, which ends the tunnel.
    fn ends_by(&self, flood: Flood) -> io::Error {
        io::Error::other(*self.0.flood.get_or_init(|| flood))
    }

    /// Sets one reset against a stream that came to be.
    fn spend(&self) -> bool {
        self.0.n_unreset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// Frames that are read before others on the same worker have their turn: h2 handles all that it can read in one poll, and small ones
/// cost it microseconds each whatever their bytes. Bulk comes in frames a hundred times as large, and never has as many.
const AT_ONCE: u32 = 256;

/// A tunnel whose frames are counted.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    inner: T,
    meter: Meter,
    carried: Carried,
    /// While a head is not whole.
    head: Option<Pin<Box<Sleep>>>,
}

impl<T> Counted<T> {
    /// Counts what is read from `inner`; what carried streams earn is known by the second.
    pub(crate) fn new(inner: T, role: Role) -> (Self, Carried) {
        let carried = Carried::default();
        let meter = Meter::new(role, carried.clone());
        (Self { inner, meter, carried: carried.clone(), head: None }, carried)
    }

    /// The same of an application's own HTTP/2, whose requests are work for the application and may be as many as it answers.
    pub(crate) fn of_requests(inner: T) -> (Self, Carried) {
        let carried = Carried::default();
        let meter = Meter::of_requests(carried.clone());
        (Self { inner, meter, carried: carried.clone(), head: None }, carried)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, meter, carried, head } = &mut *self;
        if let Some(deadline) = head
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(carried.ends_by(Flood::SlowHead)));
        }
        if meter.n_at_once >= AT_ONCE {
            meter.n_at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(inner).poll_read(cx, buf) else {
            meter.n_at_once = 0;
            return Poll::Pending;
        };
        read?;
        meter.count(buf.filled().get(before..).unwrap_or_default()).map_err(|flood| carried.ends_by(flood))?;
        match (meter.is_in_head(), &head) {
            (true, None) => {
                // Looked at by the next poll, which h2 makes before it waits.
                *head = Some(Box::pin(tokio::time::sleep(HEAD)));
            }
            (false, Some(_)) => *head = None,
            (true, Some(_)) | (false, None) => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Why a tunnel ended that did not end in order: what its peer flooded, or what h2 says of it.
pub(crate) fn why_ended(error: &h2::Error, carried: &Carried) -> &'static str {
    if let Some(flood) = carried.0.flood.get() {
        return flood.name();
    }
    match error.reason() {
        _ if error.is_io() => "broken",
        Some(_) if error.is_remote() => "peer_left",
        Some(h2::Reason::ENHANCE_YOUR_CALM) => "http2_calm",
        Some(h2::Reason::FRAME_SIZE_ERROR) => "http2_frame_size",
        Some(h2::Reason::FLOW_CONTROL_ERROR) => "http2_flow_control",
        Some(h2::Reason::COMPRESSION_ERROR) => "http2_compression",
        Some(_) | None => "http2_protocol",
    }
}

#[cfg(test)]
mod tests;
