//! A client's connection until it is known which version of HTTP it speaks; from then on another's to read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::heads::{Heads, Version};

/// Read at once: most first requests fit whole.
const READ: usize = 4 * 1024;

/// A client's connection, and what was read of it and given to nobody yet.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    pub(crate) heads: Heads,
    pub(crate) early: BytesMut,
}

impl Client {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, heads: Heads::default(), early: BytesMut::new() }
    }

    /// Reads until it is known which version the client speaks; None where it ends before.
    pub(crate) async fn version(&mut self) -> io::Result<Option<Version>> {
        loop {
            if let Some(version) = self.heads.version(&self.early) {
                return Ok(Some(version));
            }
            self.early.reserve(READ);
            if self.socket.read_buf(&mut self.early).await? == 0 {
                return Ok(None);
            }
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, to);
        }
        let n = self.early.len().min(to.remaining());
        to.put_slice(self.early.get(..n).unwrap_or_default());
        self.early.advance(n);
        if self.early.is_empty() {
            self.early = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
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
