//! Charges a workload for what HTTP/1 holds because a socket takes no more: the parser's buffers, at the moment that they must wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{Charge, Limit, Waits};

/// So many bytes, charged.
#[derive(Debug)]
pub(crate) struct Held {
    charge: Charge,
    count: usize,
}

impl Held {
    /// None yet.
    pub(crate) fn new(waits: &Arc<Waits>) -> Self {
        Self { charge: waits.nothing(), count: 0 }
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// So many from now on; where that may not be, as many as before.
    pub(crate) fn set(&mut self, count: usize) -> Result<(), Limit> {
        if count > self.count {
            self.charge.raise(count - self.count)?;
        } else {
            self.charge.lower(self.count - count);
        }
        self.count = count;
        Ok(())
    }
}

/// A connection whose writes are charged while they wait.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    inner: T,
    held: Held,
}

impl<T> Waiting<T> {
    pub(crate) fn new(inner: T, waits: &Arc<Waits>) -> Self {
        Self { inner, held: Held::new(waits) }
    }

    /// The connection, charged no more.
    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// What is left of `count` bytes that were to be written.
    fn settle(&mut self, written: Poll<io::Result<usize>>, count: usize) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.held.set(count).map_err(io::Error::other)?,
            Poll::Ready(_) if self.held.count() > 0 => self.held.set(0).map_err(io::Error::other)?,
            Poll::Ready(_) => {}
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Waiting<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, to)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Waiting<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, from);
        self.settle(written, from.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, from);
        self.settle(written, from.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
