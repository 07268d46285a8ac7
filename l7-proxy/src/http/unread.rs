//! Counts what waits unread in the streams of one HTTP/2 connection, and charges its workload for it.
//!
//! A reader that stops leaves up to a window of each stream in h2's queues, where no guard can be put around it. h2 says how much of
//! each window is used; it is asked whenever a step's worth of bytes has come. Over a bound the fullest stream is broken off.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use h2::FlowControl;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::waiting::Held;
use crate::limits::{Limit, Waits};

/// Bytes that may come before the streams are looked at again: what is not counted is less than this for each connection.
const STEP: u64 = 64 * 1024;

/// One connection's.
#[derive(Clone, Debug)]
pub(crate) struct Unread(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    n_read: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    n_looked: u64,
    streams: HashMap<u32, Arc<One>>,
    held: Held,
}

/// One stream's place, until its body is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    unread: Unread,
    id: u32,
    one: Arc<One>,
}

struct One {
    flow: FlowControl,
    full: OnceLock<Limit>,
    reader: AtomicWaker,
}

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("One").field("full", &self.full).finish_non_exhaustive()
    }
}

impl Unread {
    pub(crate) fn new(waits: &Arc<Waits>) -> Self {
        let state = State { n_looked: 0, streams: HashMap::new(), held: Held::new(waits) };
        Self(Arc::new(Shared { n_read: AtomicU64::new(0), state: Mutex::new(state) }))
    }

    /// Counts a stream from now on.
    pub(crate) fn enter(&self, flow: &FlowControl) -> Entry {
        let id = flow.stream_id().as_u32();
        let one = Arc::new(One { flow: flow.clone(), full: OnceLock::new(), reader: AtomicWaker::new() });
        self.lock().streams.insert(id, one.clone());
        Entry { unread: self.clone(), id, one }
    }

    /// Looks at all streams, where enough has come since the last time.
    pub(crate) fn look(&self) {
        let n_read = self.0.n_read.load(Ordering::Relaxed);
        let mut state = self.lock();
        if n_read - state.n_looked < STEP {
            return;
        }
        state.n_looked = n_read;
        state.count();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self) {
        let used = |one: &Arc<One>| one.flow.used_capacity();
        let now = self.streams.values().map(used).sum();
        if let Err(limit) = self.held.set(now)
            && let Some(fullest) = self.streams.values().max_by_key(|one| used(one))
        {
            fullest.full.get_or_init(|| limit);
            fullest.reader.wake();
        }
    }
}

impl Entry {
    /// The bound that was reached, where this stream is to be broken off; its reader is told when that comes.
    pub(crate) fn full(&self, cx: &Context<'_>) -> Option<Limit> {
        self.one.reader.register(cx.waker());
        self.one.full.get().copied()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.unread.lock();
        state.streams.remove(&self.id);
        // What it held goes with it, and no byte may come that has the others looked at.
        if state.held.count() > 0 {
            state.count();
        }
    }
}

/// Counts what is read from a connection for [`Unread`].
#[derive(Debug)]
pub(crate) struct Reading<T> {
    inner: T,
    unread: Unread,
}

impl<T> Reading<T> {
    pub(crate) fn new(inner: T, unread: Unread) -> Self {
        Self { inner, unread }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Reading<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, to))?;
        let n = to.filled().len() - before;
        self.unread.0.n_read.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Reading<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, from)
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
