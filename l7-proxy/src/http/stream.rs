//! A tunnel's stream as bytes to read and write, for HTTP inside it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::copy::Stream;

/// A tunnel's stream. Dropped before both ends have finished, it is reset.
#[derive(Debug)]
pub(crate) struct Carried {
    stream: Stream,
    /// What came and was not read yet.
    left: Bytes,
    is_read: bool,
    is_written: bool,
}

impl Carried {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, left: Bytes::new(), is_read: false, is_written: false }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !(self.is_read && self.is_written) {
            self.stream.send.send_reset(Reason::CANCEL);
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.left.is_empty() {
            match ready!(this.stream.recv.poll_data(cx)) {
                Some(Ok(bytes)) => this.left = bytes,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => {
                    this.is_read = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let n = this.left.len().min(to.remaining());
        to.put_slice(this.left.get(..n).unwrap_or_default());
        this.left.advance(n);
        // The window comes back as the bytes are read: who does not read stops who writes.
        this.stream.recv.flow_control().release_capacity(n).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let send = &mut self.stream.send;
        send.reserve_capacity(from.len());
        loop {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(room)) => {
                    let n = room.min(from.len());
                    let bytes = Bytes::copy_from_slice(from.get(..n).unwrap_or_default());
                    send.send_data(bytes, false).map_err(broken)?;
                    return Poll::Ready(Ok(n));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_written {
            self.is_written = true;
            // A stream that was reset meanwhile is as shut as can be.
            drop(self.stream.send.send_data(Bytes::new(), true));
        }
        Poll::Ready(Ok(()))
    }
}
