//! Moves bytes one way. Each function is one direction of one connection, and ends with its source.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io::{self, ErrorKind, IoSlice},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use rustix::{
    buffer::spare_capacity,
    net::{RecvFlags, recv},
};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::Broken;
use crate::limits::{Charge, Limit, Waits};

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

/// A frame below this is copied where it must wait: it may be a small part of the block that it was read into.
const LOOSE: usize = 32 * 1024;

/// What a frame costs beside its bytes while it waits: its place in a queue, and the allocator's head.
const PER_FRAME: usize = 512;

thread_local! {
    /// What small reads are read into.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; FIRST_CHUNK].into());
}

/// Which side of a one-way copy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Reader,
    Writer,
    Full(Limit),
}

/// The size of the next read, by how full the last was.
struct Chunk(usize);

impl Chunk {
    /// Small while buffers are tight.
    fn fit(&mut self, waits: &Waits) {
        if waits.are_tight() {
            self.0 = FIRST_CHUNK;
        }
    }

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
    waits: &Arc<Waits>,
) -> Result<(), Broken> {
    let mut chunk = Chunk(FIRST_CHUNK);
    let mut burst = 0;
    loop {
        // The window is asked for only once there is something to send: what is reserved is kept from other streams.
        poll_fn(|cx| readable_or_reset(socket, stream, cx)).await?;
        loop {
            chunk.fit(waits);
            stream.reserve_capacity(chunk.0);
            let room = window(socket, stream).await?.min(chunk.0);
            match read(socket, room) {
                Ok((bytes, _)) if bytes.is_empty() => {
                    stream.reserve_capacity(0);
                    return stream.send_data(Bytes::new(), true).map_err(|error| broken(&error));
                }
                Ok((bytes, rest)) => {
                    let n = bytes.len();
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    let queued = queue(bytes, socket, stream, waits).await?;
                    stream.send_data(queued, false).map_err(|error| broken(&error))?;
                    chunk.after(n);
                    take_turn(&mut burst, n).await;
                    if rest == Rest::None {
                        stream.reserve_capacity(0);
                        break;
                    }
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

/// Whether a socket may have more after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Some,
    None,
}

/// Reads once, `room` at most, into a block that is no larger than it need be; nothing at the end of what comes.
///
/// What fits into the first chunk is read into a block of the thread's and copied: a block of its own for each message would be
/// made, and cut to size, and kept while it waits. A read that came out short has emptied the socket, and an event will say when there is
/// more (epoll(7), question 9): to ask again would be a system call for nothing.
fn read(socket: &TcpStream, room: usize) -> io::Result<(Vec<u8>, Rest)> {
    let (mut bytes, mut n) = (Vec::new(), 0);
    let once = || {
        if room <= FIRST_CHUNK {
            SCRATCH.with_borrow_mut(|scratch| {
                let scratch = scratch.get_mut(..room).unwrap_or_default();
                n = recv(socket, &mut *scratch, RecvFlags::empty())?.0;
                bytes.extend_from_slice(scratch.get(..n).unwrap_or_default());
                Ok::<_, io::Error>(())
            })?;
        } else {
            bytes.reserve_exact(room);
            n = recv(socket, spare_capacity(&mut bytes), RecvFlags::empty())?.1;
        }
        // Told so, tokio waits for the next event.
        if n > 0 && n < room { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    };
    match socket.try_io(Interest::READABLE, once) {
        Ok(()) => Ok((bytes, Rest::Some)),
        Err(error) if error.kind() == ErrorKind::WouldBlock && n > 0 => Ok((bytes, Rest::None)),
        Err(error) => Err(error),
    }
}

/// Bytes that h2 keeps until the tunnel takes them: charged until they are gone.
struct Queued {
    bytes: Vec<u8>,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Charges what was read, in no larger a block than it needs. Without room it waits, and with it the application.
async fn queue(
    read: Vec<u8>,
    socket: &TcpStream,
    stream: &mut SendStream<Bytes>,
    waits: &Arc<Waits>,
) -> Result<Bytes, Broken> {
    let bytes = if read.len() < read.capacity() / 4 { read.as_slice().to_vec() } else { read };
    let count = bytes.capacity() + PER_FRAME;
    let charge = match waits.charge(count) {
        Ok(charge) => charge,
        Err(_full) => tokio::select! {
            charge = waits.charge_in_turn(count) => charge,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => {
                return Err(reset.map_or_else(|error| broken(&error), |_reason| Broken::Stream));
            }
            () = reset_of(socket) => return Err(Broken::Socket),
        },
    };
    Ok(Bytes::from_owner(Queued { bytes, charge }))
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
pub(super) async fn to_socket(
    stream: &mut RecvStream,
    socket: &TcpStream,
    count: &AtomicU64,
    waits: &Arc<Waits>,
) -> Result<(), Broken> {
    let mut waiting = Waiting::new(waits);
    let mut burst = 0;
    loop {
        let written = poll_fn(|cx| waiting.poll(stream, socket, cx)).await?;
        if written == 0 {
            return match SockRef::from(socket).shutdown(Shutdown::Write) {
                Ok(()) => Ok(()),
                Err(_) => Err(Broken::Socket),
            };
        }
        count.fetch_add(written as u64, Ordering::Relaxed);
        // Fails only when the stream has ended, and then nobody waits for the window.
        drop(stream.flow_control().release_capacity(written));
        take_turn(&mut burst, written).await;
    }
}

/// Frames that came and wait to be written. Bounded by the stream's window, which opens only as they are written.
struct Waiting {
    frames: VecDeque<Bytes>,
    gathering: BytesMut,
    has_ended: bool,
    /// Of `frames`, from the front, those that were here when the socket was full last: what each is charged, until it is written whole.
    settled: VecDeque<usize>,
    charge: Charge,
}

impl Waiting {
    fn new(waits: &Arc<Waits>) -> Self {
        let charge = waits.nothing();
        let (frames, settled) = (VecDeque::new(), VecDeque::new());
        Self { frames, gathering: BytesMut::new(), has_ended: false, settled, charge }
    }

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
                    self.settle()?;
                    ready!(socket.poll_write_ready(cx)).map_err(|_broken| Broken::Socket)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Poll::Ready(Err(Broken::Socket)),
            }
        }
    }

    /// What came must wait: its workload is charged for it, and what is loose is gathered.
    fn settle(&mut self) -> Result<(), Broken> {
        let n_settled = self.settled.len();
        if n_settled < self.frames.len() {
            let fresh = self.frames.split_off(n_settled);
            for frame in fresh {
                if frame.len() < LOOSE {
                    self.gathering.extend_from_slice(&frame);
                } else {
                    self.seal();
                    self.frames.push_back(frame);
                }
            }
            self.seal();
            self.settled.extend(self.frames.iter().skip(n_settled).map(|frame| frame.len() + PER_FRAME));
            self.charge.raise(self.settled.iter().skip(n_settled).sum()).map_err(Broken::Full)?;
        }
        Ok(())
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
            if let Some(charged) = self.settled.pop_front() {
                self.charge.lower(charged);
            }
        }
    }
}

/// From one socket to another.
pub(super) async fn between(
    reader: &TcpStream,
    writer: &TcpStream,
    count: &AtomicU64,
    waits: &Arc<Waits>,
) -> Result<(), End> {
    let mut chunk = Chunk(FIRST_CHUNK);
    let mut burst = 0;
    loop {
        reader.readable().await.map_err(|_broken| End::Reader)?;
        loop {
            chunk.fit(waits);
            match read(reader, chunk.0) {
                Ok((bytes, _)) if bytes.is_empty() => {
                    return SockRef::from(writer).shutdown(Shutdown::Write).map_err(|_broken| End::Writer);
                }
                Ok((bytes, rest)) => {
                    let n = bytes.len();
                    write_all(reader, writer, &bytes, waits).await?;
                    count.fetch_add(n as u64, Ordering::Relaxed);
                    chunk.after(n);
                    take_turn(&mut burst, n).await;
                    if rest == Rest::None {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Reader),
            }
        }
    }
}

async fn write_all(reader: &TcpStream, writer: &TcpStream, read: &Vec<u8>, waits: &Arc<Waits>) -> Result<(), End> {
    let mut bytes: &[u8] = read;
    let mut charge = None;
    while !bytes.is_empty() {
        match writer.try_write(bytes) {
            Ok(0) => return Err(End::Writer),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if charge.is_none() {
                    charge = Some(waits.charge(read.capacity()).map_err(End::Full)?);
                }
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

#[cfg(test)]
mod tests;
