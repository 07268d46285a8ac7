//! Holds what is to be written to a connection, and writes it by as few calls as it can.
//!
//! Heads, chunk sizes and small pieces are copied behind one another, into a buffer that is used again; large pieces stay what they
//! are, and go by one `writev` with what stands around them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// From here on a piece is not copied: a copy of less costs no more than another part of a `writev`.
const LARGE: usize = 4 * 1024;

/// What may wait before no further piece is taken on: some reads of a fast sender.
const MOST: usize = 64 * 1024;

/// Room for heads at the beginning: most are shorter, and a small body with them.
const FIRST: usize = 1024;

/// What is kept of the buffer while nothing waits in it.
const KEPT: usize = 8 * 1024;

/// Parts of one `writev`: sixteen chunks of 4 KiB with their sizes are [`MOST`].
const PARTS: usize = 32;

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What comes first.
    parts: VecDeque<Bytes>,
    /// What comes behind it.
    small: BytesMut,
    /// Whether something was written that was not flushed.
    is_dirty: bool,
}

impl Outbox {
    /// How much waits.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.small.is_empty()
    }

    /// Whether a further piece may be pushed. Who pushes one without asking is not refused.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < MOST
    }

    /// Where a head is written to, behind all that waits.
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        if self.small.capacity() == 0 {
            self.small.reserve(FIRST);
        }
        &mut self.small
    }

    /// The same, for a few bytes.
    pub(super) fn small(&mut self) -> &mut BytesMut {
        &mut self.small
    }

    /// A piece of a body, behind all that waits.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if piece.len() < LARGE {
            self.small.extend_from_slice(&piece);
            return;
        }
        if !self.small.is_empty() {
            self.parts.push_back(self.small.split().freeze());
        }
        self.parts.push_back(piece);
    }

    /// Writes all that waits. Ready when it is written and flushed; nothing of what was written is written again.
    pub(crate) fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            self.is_dirty = true;
            let n = ready!(self.poll_once(io, cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        if self.is_dirty {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.is_dirty = false;
            // The longest heads and many small pieces are rare: who is silent does not hold their room.
            if self.small.capacity() > KEPT {
                self.small = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_once<T: AsyncWrite + Unpin>(&self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        let Some(first) = self.parts.front() else { return io.poll_write(cx, &self.small) };
        if !io.is_write_vectored() {
            return io.poll_write(cx, first);
        }
        let mut slices = [IoSlice::new(&[]); PARTS];
        let parts = self.parts.iter().map(|part| &**part).chain([&*self.small]);
        let n = slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count();
        io.poll_write_vectored(cx, slices.get(..n).unwrap_or_default())
    }

    /// So much was written.
    fn advance(&mut self, mut n: usize) {
        while let Some(first) = self.parts.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.parts.pop_front();
        }
        if n < self.small.len() {
            self.small.advance(n);
        } else {
            // Its room is used again from the beginning.
            self.small.clear();
        }
    }
}
