//! Sets up both ends of a tunnel alike: TLS with large buffers, HTTP/2 with measured windows, a keep-alive.

use std::{future::poll_fn, pin::Pin, time::Duration};

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{client, server};

use crate::{
    frames::Counted,
    gather::{Gather, Gathered},
    rarely::Rarely,
    tuning::Tuning,
};

/// What lies beneath TLS.
pub(crate) use crate::wire::Wire;

/// What lies beneath HTTP/2, where this end accepted.
pub(crate) type Arriving = Counted<server::TlsStream<Wire>>;

/// What lies beneath HTTP/2, where this end dialled.
pub(crate) type Leaving = Counted<client::TlsStream<Wire>>;

/// The same, its small frames sent together.
pub(crate) type Together = Gathered<Leaving>;

/// What an open tunnel is charged for itself, against its workload's buffers. It holds a little more while idle; but a pod that
/// a few thousand others call has as many tunnels, and shall have room for bytes too.
pub(crate) const HELD: usize = 16 * 1024;

/// The window of a stream while its workload's buffers are an eighth full, or all half: enough for a local network's round trip.
pub(crate) const TIGHT_WINDOW: u32 = 64 * 1024;

/// Plaintext that TLS takes before it must be written: one copy buffer whole.
pub(crate) const TLS_BUFFER: usize = 256 * 1024;

/// The largest frame taken. A larger one gains nothing, a smaller one costs a header and a wake-up each.
pub(crate) const FRAME: u32 = 1024 * 1024;

/// What a stream may have under way: what a bulk stream moves while the other end waits 4 ms for its turn on a busy core. With
/// 1 MiB it waited for its window at 7 Gbit/s, with cores idle. It is also what this end holds for an application that has
/// stopped reading.
pub(crate) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// What a stream may have queued to send: four copy buffers keep the tunnel busy between two turns.
const SEND_BUFFER: usize = 1024 * 1024;

/// Connections in one tunnel before another is dialled. They share one TCP connection's losses, and one core.
pub(crate) const STREAMS: usize = 64;

/// Streams that a peer may have open at once: as many as this end puts into one tunnel, for each may hold a window.
///
/// All streams of a tunnel together may have this many windows under way: the memory that a peer can make this end hold, 256
/// MiB. It is every stream's window at once and by default no less: window comes back only as applications read, so that with
/// less a few that have stopped reading would hold it all, and stop every other connection between the same two pods.
pub(crate) const STREAMS_TAKEN: u32 = 64;

// A window is at most 31 bits (RFC 9113, section 6.9.1), and no stream of ours may be one too many for our like.
const _: () = assert!(STREAMS_TAKEN as u64 * STREAM_WINDOW as u64 <= i32::MAX as u64);
const _: () = assert!(STREAMS <= STREAMS_TAKEN as usize);

/// The longest head of a CONNECT, in bytes as HTTP/2 counts: an authority, `forwarded`, `baggage`, `traceparent`.
const HEAD: u32 = 16 * 1024;

/// Streams reset by the peer before this end saw them. More is the "rapid reset" attack, and ends the tunnel.
const RESET_UNSEEN: usize = 64;

/// Streams reset here whose late frames are still forgiven, and for how long.
const RESET_HERE: usize = 1024;

/// Streams reset here for what their peer did wrong, over a tunnel's life: who goes on so is no peer.
const RESET_FOR_ERRORS: usize = 256;

/// How long a late frame of a stream reset here is forgiven: some round trips.
const RESET_FORGIVEN: Duration = Duration::from_secs(5);

/// What small unread frames may cost: a whole window of 64-byte messages. Those are taken as they come, see `copy`.
const SMALL_FRAMES: usize = 64 * 1024 * 1024;

/// How often a tunnel's peer is asked whether it is there. A NAT forgets a flow after minutes, a dead host says nothing.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long it may take to answer, with a whole window queued before it.
const PONG: Duration = Duration::from_secs(20);

/// How long a TLS handshake may take: two round trips and a busy peer.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// How this end dials.
pub(crate) fn client(tuning: &Tuning) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(tuning.stream_window)
        .initial_connection_window_size(tuning.tunnel_window)
        .max_frame_size(tuning.frame)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(0)
        .initial_max_send_streams(STREAMS)
        .max_concurrent_reset_streams(RESET_HERE)
        .reset_stream_duration(RESET_FORGIVEN)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// How this end accepts.
pub(crate) fn server(tuning: &Tuning) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(tuning.stream_window)
        .initial_connection_window_size(tuning.tunnel_window)
        .max_frame_size(tuning.frame)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS_TAKEN)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_concurrent_reset_streams(RESET_HERE)
        .max_local_error_reset_streams(Some(RESET_FOR_ERRORS))
        .reset_stream_duration(RESET_FORGIVEN)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// The socket with its read buffer.
pub(crate) fn wire(socket: TcpStream) -> Wire {
    Wire::new(socket)
}

/// Returns when the peer has not answered a ping in time. Without a `ping` it never does.
pub(crate) async fn peer_is_silent(mut ping: Option<PingPong>) {
    let Some(ping) = &mut ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match timeout(PONG, ping.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            // The connection says by itself what broke it.
            Ok(Err(_broken)) => return std::future::pending().await,
            Err(_elapsed) => return,
        }
    }
}

/// A tunnel's HTTP/2, driven until it ends: what its task awaits.
pub(crate) async fn drive(
    (mut connection, gather): (h2::client::Connection<Together, Bytes>, Gather<Leaving>),
    ping: Option<PingPong>,
    mut windows: Windows,
) -> Result<(), h2::Error> {
    let mut silent = Rarely::new(Box::pin(peer_is_silent(ping)));
    loop {
        let moved = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            gather.flush(cx);
            ended
        });
        tokio::select! {
            biased;
            ended = moved => return ended,
            () = &mut silent => return Err(h2::Reason::CANCEL.into()),
            window = windows.turned() => resized(connection.set_initial_window_size(window)),
        }
    }
}

/// Whether buffers are tight, once that is not as it was.
type Turned = Pin<Box<dyn Future<Output = watch::Receiver<bool>> + Send>>;

/// Says what a stream may have under way whenever that turns. Its tunnel asks each time that it is woken, so asking costs next to nothing.
pub(crate) struct Windows {
    turned: Rarely<Turned>,
    usual: u32,
}

impl Windows {
    /// Small while buffers are `tight`, and else the `usual` ones.
    pub(crate) fn new(tight: watch::Receiver<bool>, usual: u32) -> Self {
        Self { turned: Rarely::new(Box::pin(turned(tight))), usual }
    }

    /// The window from now on, once it is another.
    pub(crate) async fn turned(&mut self) -> u32 {
        let mut tight = (&mut self.turned).await;
        let window = window(&mut tight, self.usual);
        self.turned = Rarely::new(Box::pin(turned(tight)));
        window
    }
}

async fn turned(mut tight: watch::Receiver<bool>) -> watch::Receiver<bool> {
    if tight.changed().await.is_err() {
        // The account is gone, and its tunnels are ending.
        std::future::pending::<()>().await;
    }
    tight
}

/// What a stream may have under way, by whether buffers are tight: no more than `usual`.
pub(crate) fn window(tight: &mut watch::Receiver<bool>, usual: u32) -> u32 {
    if *tight.borrow_and_update() { TIGHT_WINDOW.min(usual) } else { usual }
}

/// A peer that has not answered the last change yet is told by the next.
pub(crate) fn resized(told: Result<(), h2::Error>) {
    if let Err(why) = told {
        tracing::debug!(%why, "a tunnel's windows were not changed");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
        time::Duration,
    };

    use tokio::{sync::watch, time::timeout};

    use super::{TIGHT_WINDOW, Windows};

    /// What has turned is told at once.
    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn windows_turn_with_their_buffers_however_often_they_are_asked_for() {
        const USUAL: u32 = 4 * TIGHT_WINDOW;
        let (tight, told) = watch::channel(false);
        let mut windows = Windows::new(told, USUAL);
        let is_silent =
            |windows: &mut Windows| pin!(windows.turned()).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        for (is_tight, window) in [(true, TIGHT_WINDOW), (false, USUAL), (true, TIGHT_WINDOW)] {
            // A tunnel that has bytes to move drops its question and asks again.
            for _ in 0..3 {
                assert!(is_silent(&mut windows));
            }
            tight.send_replace(is_tight);
            assert_eq!(timeout(SOON, windows.turned()).await, Ok(window));
        }
        tight.send_replace(false);
        tight.send_replace(true);
        assert_eq!(timeout(SOON, windows.turned()).await, Ok(TIGHT_WINDOW), "two turns at once are the last one");
        drop(tight);
        assert!(is_silent(&mut windows), "nobody tells of any more");
    }
}
