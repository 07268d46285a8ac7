//! Buffers what comes from a tunnel's socket: TLS asks for 4 KiB at a time, and each question unbuffered is a system call.
//!
//! The buffer is there only while it holds something, and grows with what comes: a tunnel that is idle, or whose peer sends
//! a byte now and then, holds none. After a burst the task lets others have their turn, however much more there is.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The first read: a TLS record whole.
const FIRST: usize = 16 * 1024;

/// The largest. With 16 KiB a bulk stream is half as fast.
const MOST: usize = 256 * 1024;

/// Bytes read in one go, before others on the same worker have their turn.
const BURST: usize = 1024 * 1024;

/// A socket and what was read from it.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    read: BytesMut,
    next: usize,
    burst: usize,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, read: BytesMut::new(), next: FIRST, burst: 0 }
    }

    /// Reads once from the socket. The buffer is made only where something is there to be read: a read that came out short has
    /// emptied the socket, and tokio knows.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.socket.poll_read_ready(cx)?.is_pending() {
            self.burst = 0;
            return Poll::Pending;
        }
        let mut buffer = BytesMut::with_capacity(self.next).limit(self.next);
        let Poll::Ready(read) = pin!(self.socket.read_buf(&mut buffer)).poll(cx) else {
            self.burst = 0;
            return Poll::Pending;
        };
        let n = read?;
        if n == self.next {
            self.next = (self.next * 4).min(MOST);
        } else if n < self.next / 8 {
            self.next = (self.next / 2).max(FIRST);
        }
        self.read = buffer.into_inner();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read.is_empty() {
            if this.burst >= BURST {
                this.burst = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(this.fill(cx))?;
        }
        let n = this.read.len().min(buf.remaining());
        if let Some(bytes) = this.read.get(..n) {
            buf.put_slice(bytes);
        }
        this.read.advance(n);
        this.burst += n;
        if this.read.is_empty() {
            this.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
