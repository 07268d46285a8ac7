//! Gathers what HTTP/2 writes in one turn of its connection, so that it is one write: one system call, one record of TLS.
//!
//! h2 writes each frame of data by itself, and flushes after each: a hundred answers of a kilobyte that are ready at once are a
//! hundred writes, each with its headers on the wire and a wake-up at its far end. Here they wait until the connection has nothing
//! more to say in this turn, and whoever polls it then sends them by [`Gather::flush`]. Nothing waits longer than that.
//!
//! What waits, at most [`MOST`] for each connection and only while there is something, is charged to nobody, as h2's own buffer of the same size.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may be gathered: a record of TLS whole.
const MOST: usize = 16 * 1024;

/// From here on a write is worth a call of its own, and a copy is not.
const LARGE: usize = 8 * 1024;

/// A connection whose small writes are gathered, once [`Gather::begin`] was called.
#[derive(Debug)]
pub(crate) struct Gathered<T>(Arc<Mutex<Shared<T>>>);

/// Sends what was gathered. For whoever polls the connection's HTTP/2.
#[derive(Debug)]
pub(crate) struct Gather<T>(Arc<Mutex<Shared<T>>>);

#[derive(Debug)]
struct Shared<T> {
    io: T,
    out: BytesMut,
    is_gathering: bool,
    /// Whether something was written that was not flushed.
    is_dirty: bool,
    /// What broke a flush: told to who reads or writes next.
    broken: Option<io::ErrorKind>,
}

/// The connection, and who sends what it gathers.
pub(crate) fn gathered<T>(io: T) -> (Gathered<T>, Gather<T>) {
    let shared = Shared { io, out: BytesMut::new(), is_gathering: false, is_dirty: false, broken: None };
    let shared = Arc::new(Mutex::new(shared));
    (Gathered(shared.clone()), Gather(shared))
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// Writes wait for [`Self::flush`] from now on. Not before the handshake is over: that waits for what it has flushed.
    pub(crate) fn begin(&self) {
        lock(&self.0).is_gathering = true;
    }

    /// Sends what there is. Where the socket takes no more, the task is woken when it does, and must call this again.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) {
        let mut shared = lock(&self.0);
        if !shared.is_dirty {
            return;
        }
        match shared.poll_flush(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => shared.is_dirty = false,
            Poll::Ready(Err(error)) => {
                shared.broken = Some(error.kind());
                shared.is_dirty = false;
                // Who polls the connection again hears of it.
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn whole(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Writes what was gathered.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
        }
        // One that is silent holds none.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Takes a write of so many bytes: by `take` into what is gathered, or else by `write` after it.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        count: usize,
        take: impl FnOnce(&mut BytesMut),
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.whole()?;
        self.is_dirty = true;
        let is_small = self.is_gathering && count < LARGE;
        if !is_small || self.out.len() + count > MOST {
            ready!(self.poll_out(cx))?;
        }
        if !is_small {
            return write(Pin::new(&mut self.io), cx);
        }
        if self.out.capacity() == 0 {
            self.out.reserve(MOST);
        }
        take(&mut self.out);
        Poll::Ready(Ok(count))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        shared.whole()?;
        Pin::new(&mut shared.io).poll_read(cx, to)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let take = |out: &mut BytesMut| out.extend_from_slice(from);
        lock(&self.0).poll_take(cx, from.len(), take, |io, cx| io.poll_write(cx, from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let take = |out: &mut BytesMut| from.iter().for_each(|slice| out.extend_from_slice(slice));
        let count = from.iter().map(|slice| slice.len()).sum();
        lock(&self.0).poll_take(cx, count, take, |io, cx| io.poll_write_vectored(cx, from))
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).io.is_write_vectored()
    }

    /// While writes are gathered this is no more than a promise, which [`Gather::flush`] keeps.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        shared.whole()?;
        if shared.is_gathering { Poll::Ready(Ok(())) } else { shared.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        shared.whole()?;
        ready!(shared.poll_out(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
