//! Sends a body by a stream of HTTP/2, as fast as its window opens, each piece charged for as long as h2 holds it.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::body::{Broken, Next};
use crate::limits::{Charge, Waits};

/// What a piece costs beside its bytes: its place in h2's queue.
pub(crate) const PER_FRAME: usize = 512;

/// A piece that h2 keeps until the connection takes it: charged until it is gone.
struct Queued {
    bytes: Bytes,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body did not arrive whole.
#[derive(Debug)]
pub(crate) enum Cut {
    /// Its receiver wants no more of it.
    Reset,
    /// It broke off where it came from.
    Broken(Broken),
}

/// Sends all of `body`. Where it breaks off, its sender says what becomes of the stream.
pub(crate) async fn pipe<B>(body: &mut B, stream: &mut SendStream<Bytes>, waits: &Arc<Waits>) -> Result<(), Cut>
where
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    loop {
        let frame = poll_fn(|cx| poll_frame(body, stream, cx)).await?;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(broken)) => return Err(Cut::Broken(broken)),
            None => return sent(stream.send_data(Bytes::new(), true)),
        };
        match frame.into_data() {
            Ok(bytes) => {
                let is_last = body.is_end_stream();
                if !bytes.is_empty() || is_last {
                    let queued = charged(bytes, stream, waits).await?;
                    sent(stream.send_data(queued, is_last))?;
                }
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                stream.reserve_capacity(0);
                return match frame.into_trailers() {
                    Ok(trailers) => sent(stream.send_trailers(trailers)),
                    Err(_neither) => sent(stream.send_data(Bytes::new(), true)),
                };
            }
        }
    }
}

/// The next of the body, once there is room for it.
fn poll_frame<B>(body: &mut B, stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<Next, Cut>>
where
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    if stream.poll_reset(cx).is_ready() {
        return Poll::Ready(Err(Cut::Reset));
    }
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(Cut::Reset)),
        }
    }
    std::pin::Pin::new(body).poll_frame(cx).map(Ok)
}

/// Charges a piece. Without room it waits, and with it whoever sends the body.
async fn charged(bytes: Bytes, stream: &mut SendStream<Bytes>, waits: &Arc<Waits>) -> Result<Bytes, Cut> {
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let count = bytes.len() + PER_FRAME;
    let charge = match waits.charge(count) {
        Ok(charge) => charge,
        Err(_full) => tokio::select! {
            charge = waits.charge_in_turn(count) => charge,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Err(Cut::Reset),
        },
    };
    Ok(queued(bytes, charge))
}

/// Bytes that are charged until they are dropped.
pub(crate) fn queued(bytes: Bytes, charge: Charge) -> Bytes {
    Bytes::from_owner(Queued { bytes, charge })
}

fn sent(result: Result<(), h2::Error>) -> Result<(), Cut> {
    result.map_err(|_gone| Cut::Reset)
}

/// What a sender said as it broke a body off, where it said something.
pub(crate) fn said(broken: &Broken) -> Option<Reason> {
    broken.downcast_ref::<h2::Error>().filter(|error| error.is_reset()).and_then(h2::Error::reason)
}
