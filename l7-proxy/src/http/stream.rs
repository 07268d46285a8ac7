//! A tunnel's stream as bytes to read and write, for HTTP inside it.
//!
//! What comes is taken from h2 as it comes, so that what waits for its reader is known, and charged. The window comes back only as it
//! is read: who does not read stops who writes.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{FlowControl, Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    pipe::{PER_FRAME, queued},
    waiting::Held,
};
use crate::{
    copy::Stream,
    limits::{Charge, Limit, Waits},
};

/// A tunnel's stream. Dropped before both ends have finished, it is reset. It is read in the same task as [`Filling`], after it.
pub(crate) struct Carried {
    send: SendStream<Bytes>,
    flow: FlowControl,
    came: Came,
    waits: Arc<Waits>,
    thirst: Option<Thirst>,
    is_written: bool,
}

/// Takes from h2 what comes.
pub(crate) struct Filling {
    recv: RecvStream,
    came: Came,
    held: Held,
}

/// What came and was not read yet.
#[derive(Clone, Default)]
struct Came(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    count: usize,
    end: Option<Result<(), io::ErrorKind>>,
    is_read: bool,
}

/// Room for so many bytes, waited for.
type Thirst = Pin<Box<dyn Future<Output = (Charge, usize)> + Send>>;

impl Came {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream to read and write, and what fills it.
pub(crate) fn carried(stream: Stream) -> (Carried, Filling) {
    let Stream { send, mut recv, waits } = stream;
    let (came, flow, held) = (Came::default(), recv.flow_control().clone(), Held::new(&waits));
    let filling = Filling { recv, came: came.clone(), held };
    (Carried { send, flow, came, waits, thirst: None, is_written: false }, filling)
}

impl Filling {
    /// Takes what has come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        let mut came = self.came.lock();
        while came.end.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    came.count += bytes.len();
                    came.frames.push_back(bytes);
                }
                Poll::Ready(Some(Err(_broken))) => came.end = Some(Err(io::ErrorKind::ConnectionReset)),
                Poll::Ready(None) => came.end = Some(Ok(())),
                Poll::Pending => return,
            }
        }
    }

    /// Charges what its reader has left.
    pub(crate) fn settle(&mut self) -> Result<(), Limit> {
        let came = self.came.lock();
        let count = came.count + came.frames.len() * PER_FRAME;
        drop(came);
        if count == 0 && self.held.count() == 0 {
            return Ok(());
        }
        self.held.set(count)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !(self.is_written && self.came.lock().is_read) {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut came = this.came.lock();
        let mut n = 0;
        while let Some(frame) = came.frames.front_mut()
            && to.remaining() > 0
        {
            let part = frame.len().min(to.remaining());
            to.put_slice(frame.get(..part).unwrap_or_default());
            frame.advance(part);
            n += part;
            if frame.is_empty() {
                came.frames.pop_front();
            }
        }
        came.count -= n;
        if n > 0 {
            drop(came);
            this.flow.release_capacity(n).map_err(broken)?;
            return Poll::Ready(Ok(()));
        }
        match came.end {
            Some(Ok(())) => {
                came.is_read = true;
                Poll::Ready(Ok(()))
            }
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            // Whoever fills it is woken, and polls this after.
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let Self { send, waits, thirst, .. } = &mut *self;
        let (charge, most) = match thirst {
            Some(room) => {
                let charged = ready!(room.as_mut().poll(cx));
                *thirst = None;
                charged
            }
            None => {
                send.reserve_capacity(from.len());
                let room = ready!(room(send, cx))?.min(from.len());
                match waits.charge(room + PER_FRAME) {
                    Ok(charge) => (charge, room),
                    Err(_full) => {
                        let waits = waits.clone();
                        let waiting = async move { (waits.charge_in_turn(room + PER_FRAME).await, room) };
                        let charged = ready!(thirst.insert(Box::pin(waiting)).as_mut().poll(cx));
                        *thirst = None;
                        charged
                    }
                }
            }
        };
        let n = most.min(from.len());
        let bytes = Bytes::copy_from_slice(from.get(..n).unwrap_or_default());
        send.send_data(queued(bytes, charge), false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_written {
            self.is_written = true;
            // A stream that was reset meanwhile is as shut as can be.
            drop(self.send.send_data(Bytes::new(), true));
        }
        Poll::Ready(Ok(()))
    }
}

/// How much may be sent now: waits until it is something.
fn room(send: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        match send.capacity() {
            0 => {}
            room => return Poll::Ready(Ok(room)),
        }
        match ready!(send.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}
