//! Moves bytes one way. Each function is one direction of one connection, and ends with its source.

use std::{
    cell::Cell,
    collections::VecDeque,
    future::poll_fn,
    io::{self, ErrorKind, IoSlice},
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::{io::Interest, net::TcpStream};

use super::Broken;

/// The first read of a quiet connection: a request or two of a small protocol.
const FIRST_CHUNK: usize = 8 * 1024;

/// The largest read: 16 KiB ones halved the throughput of a bulk stream, larger ones gained nothing.
pub(super) const CHUNK: usize = 256 * 1024;

/// Bytes moved in one go before others on the same worker have their turn.
const BURST: usize = 1024 * 1024;

/// Frames written with one call: what a full window of middling frames comes to, and far under the kernel's 1024.
const SLICES: usize = 64;

/// A frame below this is copied behind the last one, so that a peer's tiny frames cost their bytes and no more.
const SMALL: usize = 1024;

/// The size that a run of small frames is gathered into.
const GATHERED: usize = 16 * 1024;

thread_local! {
    /// How often this thread has moved bytes.
    static MOVES: Cell<u64> = const { Cell::new(0) };
}

fn moved() {
    MOVES.with(|moves| moves.set(moves.get().wrapping_add(1)));
}

/// How often this thread has moved bytes so far: unchanged means that it was idle.
pub(super) fn moves() -> u64 {
    MOVES.with(Cell::get)
}

/// Which side of a one-way copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Reader,
    Writer,
}

/// The size of the next read, by how full the last was.
struct Chunk(usize);

impl Chunk {
    fn after(&mut self, read: usize) {
        if read == self.0 {
            self.0 = (self.0 * 4).min(CHUNK);
        } else if read < self.0 / 8 {
            self.0 = (self.0 / 2).max(FIRST_CHUNK);
        }
    }
}

/// From a socket into a tunnel's stream, as fast as its window opens.
pub(super) async fn to_stream(
    socket: &TcpStream,
    stream: &mut SendStream<Bytes>,
    count: &AtomicU64,
) -> Result<(), Broken> {
    let mut chunk = Chunk(FIRST_CHUNK);
    let mut burst = 0;
    loop {
        // The window is asked for only once there is something to send: what is reserved is kept from other streams.
        poll_fn(|cx| readable_or_reset(socket, stream, cx)).await?;
        loop {
            stream.reserve_capacity(chunk.0);
            let room = window(socket, stream).await?.min(chunk.0);
            let mut buffer = BytesMut::with_capacity(room).limit(room);
            match socket.try_read_buf(&mut buffer) {
                Ok(0) => {
                    stream.reserve_capacity(0);
                    return stream.send_data(Bytes::new(), true).map_err(|error| broken(&error));
                }
                Ok(n) => {
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    stream.send_data(buffer.into_inner().freeze(), false).map_err(|error| broken(&error))?;
                    moved();
                    chunk.after(n);
                    take_turn(&mut burst, n).await;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    stream.reserve_capacity(0);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Socket),
            }
        }
    }
}

fn broken(error: &h2::Error) -> Broken {
    if error.is_reset() { Broken::Stream } else { Broken::Tunnel }
}

fn readable_or_reset(
    socket: &TcpStream,
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    match stream.poll_reset(cx) {
        Poll::Ready(Ok(_reason)) => return Poll::Ready(Err(Broken::Stream)),
        Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(&error))),
        Poll::Pending => {}
    }
    socket.poll_read_ready(cx).map_err(|_broken| Broken::Socket)
}

/// How much may be sent now: waits until it is something. A client that resets meanwhile must not go unseen until then.
async fn window(socket: &TcpStream, stream: &mut SendStream<Bytes>) -> Result<usize, Broken> {
    match stream.capacity() {
        0 => tokio::select! {
            room = poll_fn(|cx| capacity(stream, cx)) => room,
            () = reset_of(socket) => Err(Broken::Socket),
        },
        room => Ok(room),
    }
}

fn capacity(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
    match ready!(stream.poll_capacity(cx)) {
        Some(Ok(0)) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Some(Ok(capacity)) => Poll::Ready(Ok(capacity)),
        Some(Err(error)) => Poll::Ready(Err(broken(&error))),
        None => Poll::Ready(Err(Broken::Stream)),
    }
}

/// From a tunnel's stream to a socket. The window is opened again only by what was written.
pub(super) async fn to_socket(stream: &mut RecvStream, socket: &TcpStream, count: &AtomicU64) -> Result<(), Broken> {
    let mut waiting = Waiting::default();
    let mut burst = 0;
    loop {
        let written = poll_fn(|cx| waiting.poll(stream, socket, cx)).await?;
        if written == 0 {
            return match socket2::SockRef::from(socket).shutdown(Shutdown::Write) {
                Ok(()) => Ok(()),
                Err(_) => Err(Broken::Socket),
            };
        }
        count.fetch_add(written as u64, Ordering::Relaxed);
        moved();
        // Fails only when the stream has ended, and then nobody waits for the window.
        drop(stream.flow_control().release_capacity(written));
        take_turn(&mut burst, written).await;
    }
}

/// Frames that came and wait to be written. Bounded by the stream's window, which opens only as they are written.
#[derive(Default)]
struct Waiting {
    frames: VecDeque<Bytes>,
    gathering: BytesMut,
    has_ended: bool,
}

impl Waiting {
    /// Takes what has come, writes what the socket takes; ready with how much that was, or with 0 once all is written.
    ///
    /// Frames are taken also while the socket is full: h2 counts small ones that nobody takes as an attack.
    fn poll(
        &mut self,
        stream: &mut RecvStream,
        socket: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        while !self.has_ended {
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(frame))) => self.push(frame),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(&error))),
                Poll::Ready(None) => self.has_ended = true,
                Poll::Pending => break,
            }
        }
        self.seal();
        if self.frames.is_empty() {
            return if self.has_ended { Poll::Ready(Ok(0)) } else { Poll::Pending };
        }
        loop {
            match self.write(socket) {
                Ok(0) => return Poll::Ready(Err(Broken::Socket)),
                Ok(written) => {
                    self.advance(written);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(socket.poll_write_ready(cx)).map_err(|_broken| Broken::Socket)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Broken::Socket)),
            }
        }
    }

    fn push(&mut self, frame: Bytes) {
        if frame.len() < SMALL {
            self.gathering.extend_from_slice(&frame);
            if self.gathering.len() >= GATHERED {
                self.seal();
            }
        } else {
            self.seal();
            self.frames.push_back(frame);
        }
    }

    fn seal(&mut self) {
        if !self.gathering.is_empty() {
            self.frames.push_back(std::mem::take(&mut self.gathering).freeze());
        }
    }

    fn write(&self, socket: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut n = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            n += 1;
        }
        socket.try_write_vectored(slices.get(..n).unwrap_or_default())
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(frame) = self.frames.front_mut() {
            if frame.len() > written {
                frame.advance(written);
                return;
            }
            written -= frame.len();
            self.frames.pop_front();
        }
    }
}

/// From one socket to another.
pub(super) async fn between(reader: &TcpStream, writer: &TcpStream, count: &AtomicU64) -> Result<(), End> {
    let mut chunk = Chunk(FIRST_CHUNK);
    let mut burst = 0;
    loop {
        reader.readable().await.map_err(|_broken| End::Reader)?;
        loop {
            let mut buffer = BytesMut::with_capacity(chunk.0).limit(chunk.0);
            match reader.try_read_buf(&mut buffer) {
                Ok(0) => {
                    return socket2::SockRef::from(writer).shutdown(Shutdown::Write).map_err(|_broken| End::Writer);
                }
                Ok(n) => {
                    write_all(reader, writer, &buffer.into_inner()).await?;
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    moved();
                    chunk.after(n);
                    take_turn(&mut burst, n).await;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Reader),
            }
        }
    }
}

async fn write_all(reader: &TcpStream, writer: &TcpStream, mut bytes: &[u8]) -> Result<(), End> {
    while !bytes.is_empty() {
        match writer.try_write(bytes) {
            Ok(0) => return Err(End::Writer),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::select! {
                    ready = writer.writable() => ready.map_err(|_broken| End::Writer)?,
                    () = reset_of(reader) => return Err(End::Reader),
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(End::Writer),
        }
    }
    Ok(())
}

/// Waits until the socket has an error: a reset, or an answer that never came.
pub(super) async fn reset_of(socket: &TcpStream) {
    loop {
        match socket.ready(Interest::ERROR).await {
            Ok(ready) if ready.is_error() => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(_) => return,
        }
    }
}

async fn take_turn(burst: &mut usize, moved: usize) {
    *burst += moved;
    if *burst >= BURST {
        *burst = 0;
        tokio::task::yield_now().await;
    }
}
