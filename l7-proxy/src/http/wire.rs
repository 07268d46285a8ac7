//! Stands between a client's socket and whoever parses: passes on only what [`Heads`] has found good, and ends there.
//!
//! Where bytes are bad the parser sees the end of the stream, so that what it answers to the requests before still goes out.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    heads::{Heads, Version},
    turn::Turn,
};

/// Read at once. Most heads fit whole.
const READ: usize = 8 * 1024;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Checked {
    socket: TcpStream,
    heads: Heads,
    /// What was read: `good` bytes that may be passed on, then some that are not known yet.
    buffer: BytesMut,
    good: usize,
    is_at_end: bool,
    turn: Turn,
}

impl Checked {
    pub(crate) fn new(socket: TcpStream, turn: Turn) -> Self {
        let (heads, buffer) = (Heads::default(), BytesMut::new());
        Self { socket, heads, buffer, good: 0, is_at_end: false, turn }
    }

    /// Reads until it is known which version the client speaks; None where it ends before.
    pub(crate) async fn version(&mut self) -> io::Result<Option<Version>> {
        std::future::poll_fn(|cx| {
            loop {
                if let Some(version) = self.heads.version() {
                    return Poll::Ready(Ok(Some(version)));
                }
                let bad = self.turn.bad();
                if bad.is_some() || self.is_at_end {
                    return Poll::Ready(Ok(bad.map(|_| Version::One)));
                }
                ready!(self.poll_more(cx))?;
            }
        })
        .await
    }

    /// Whether a message was under way then, which is answered as one that broke off.
    pub(crate) fn is_in_body(&self) -> bool {
        self.heads.is_in_body()
    }

    /// The socket, for a last answer.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The socket and what was read from it, checked or not, behind `taken`: it is HTTP no more.
    pub(crate) fn into_raw(self, taken: Bytes) -> (TcpStream, Bytes) {
        let mut early = BytesMut::from(taken);
        early.extend_from_slice(&self.buffer);
        (self.socket, early.freeze())
    }

    /// Reads what the client still sends, and forgets it.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        let mut scratch = [0; 1024];
        while self.socket.read(&mut scratch).await? > 0 {}
        Ok(())
    }

    /// Reads once more, and checks.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.buffer.reserve(READ);
        let read = self.socket.read_buf(&mut self.buffer);
        tokio::pin!(read);
        let n = ready!(read.poll(cx))?;
        self.is_at_end = n == 0;
        self.check();
        Poll::Ready(Ok(()))
    }

    fn check(&mut self) {
        match self.heads.check(self.buffer.get(self.good..).unwrap_or_default()) {
            Ok(n) => self.good += n,
            Err(bad) => self.turn.is_bad(bad),
        }
    }
}

impl AsyncRead for Checked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.good > 0 {
                let n = this.good.min(to.remaining());
                to.put_slice(this.buffer.get(..n).unwrap_or_default());
                this.buffer.advance(n);
                this.good -= n;
                if this.good == 0 && this.turn.bad().is_none() && !this.buffer.is_empty() {
                    this.check();
                }
                return Poll::Ready(Ok(()));
            }
            // What is left when the client has ended is no whole head: nobody is shown it.
            if this.is_at_end {
                return Poll::Ready(Ok(()));
            }
            if this.turn.bad().is_some() {
                // A message that breaks off does so now; whole ones before the fault have their answers first.
                return match this.heads.is_in_body() {
                    true => Poll::Ready(Ok(())),
                    false => this.turn.poll(this.heads.n_heads(), cx).map(Ok),
                };
            }
            ready!(this.poll_more(cx))?;
        }
    }
}

impl AsyncWrite for Checked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
