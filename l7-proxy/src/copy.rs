//! Copies bytes both ways until both ends have finished or one has broken: over a tunnel's stream, or between two sockets.
//!
//! A half-close passes as a half-close (FIN and END_STREAM), a reset as a reset (RST and RST_STREAM). A side that reads
//! slowly slows its writer: what waits here is bounded by the stream's window. An idle connection holds no buffer.

mod pump;

use std::{
    future::Future,
    os::fd::AsFd,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    fault::Why,
    limits::{Limit, Waits},
    rarely::Rarely,
};

/// Bytes carried so far.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the client to the target.
    pub(crate) sent: AtomicU64,
    /// From the target to the client.
    pub(crate) received: AtomicU64,
}

/// Which end broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The socket was reset.
    Socket,
    /// The tunnel's stream was reset by its other end.
    Stream,
    /// The tunnel broke.
    Tunnel,
    /// Too much waits for a reader that is too slow.
    Full(Limit),
}

/// A tunnel's stream, both ways.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    /// Whose buffers its bytes wait in.
    pub(crate) waits: Arc<Waits>,
}

/// Who is at the socket's end; the other is at the stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtSocket {
    /// The client: its connection goes into the tunnel.
    Client,
    /// The target: the connection came out of the tunnel.
    Target,
}

/// Copies between a socket and a tunnel's stream until both are done, one breaks, or `stop` says why it must end.
/// What breaks or is stopped is reset on both ends: the socket is [`abortive`] already.
pub(crate) async fn through_tunnel(
    socket: TcpStream,
    stream: Stream,
    at: AtSocket,
    carried: &Carried,
    stop: impl Future<Output = Why>,
) -> Result<(), Why> {
    let Stream { mut send, mut recv, waits } = stream;
    let (from_socket, to_socket) = match at {
        AtSocket::Client => (&carried.sent, &carried.received),
        AtSocket::Target => (&carried.received, &carried.sent),
    };
    let both = until_both_end(
        pump::to_stream(&socket, &mut send, from_socket, &waits),
        pump::to_socket(&mut recv, &socket, to_socket, &waits),
        &socket,
    );
    tokio::pin!(stop);
    let mut stop = Rarely::new(stop);
    let ended = tokio::select! {
        biased;
        ended = both => ended.map_err(|broken| match (broken, at) {
            (Broken::Socket, AtSocket::Client) | (Broken::Stream, AtSocket::Target) => Why::ClientReset,
            (Broken::Socket, AtSocket::Target) | (Broken::Stream, AtSocket::Client) => Why::UpstreamReset,
            (Broken::Tunnel, _) => Why::TunnelBroken,
            (Broken::Full(limit), _) => Why::Limited(limit),
        }),
        why = &mut stop => Err(why),
    };
    match ended {
        Ok(()) => orderly(&socket),
        Err(_) => send.send_reset(Reason::CANCEL),
    }
    ended
}

/// Copies between the client's socket and the target's until both are done, one breaks, or `stop` says why it must end.
/// Both are [`abortive`] already.
pub(crate) async fn between_sockets(
    client: TcpStream,
    target: TcpStream,
    (carried, waits): (&Carried, &Arc<Waits>),
    stop: impl Future<Output = Why>,
) -> Result<(), Why> {
    let there = async { pump::between(&client, &target, &carried.sent, waits).await };
    let back = async { pump::between(&target, &client, &carried.received, waits).await };
    let both = async {
        tokio::pin!(there, back);
        tokio::select! {
            ended = &mut there => {
                ended.map_err(|end| by_reader(end, Why::ClientReset, Why::UpstreamReset))?;
                tokio::select! {
                    ended = back => ended.map_err(|end| by_reader(end, Why::UpstreamReset, Why::ClientReset)),
                    () = pump::reset_of(&client) => Err(Why::ClientReset),
                }
            }
            ended = &mut back => {
                ended.map_err(|end| by_reader(end, Why::UpstreamReset, Why::ClientReset))?;
                tokio::select! {
                    ended = there => ended.map_err(|end| by_reader(end, Why::ClientReset, Why::UpstreamReset)),
                    () = pump::reset_of(&target) => Err(Why::UpstreamReset),
                }
            }
        }
    };
    tokio::pin!(stop);
    let mut stop = Rarely::new(stop);
    let ended = tokio::select! {
        biased;
        ended = both => ended,
        why = &mut stop => Err(why),
    };
    if ended.is_ok() {
        orderly(&client);
        orderly(&target);
    }
    ended
}

/// From here on, however this socket is closed (a refusal, a panic, a task dropped), its peer sees a reset: what did not
/// end in order must not look as if it had. Only [`orderly`] takes it back.
pub(crate) fn abortive(socket: impl AsFd) {
    // A socket that is broken already can refuse the option; its peer has its reset then.
    if let Err(why) = SockRef::from(&socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%why, "a connection's reset could not be prepared");
    }
}

/// Both ends have finished: closing says no more than that.
fn orderly(socket: &TcpStream) {
    if let Err(why) = SockRef::from(socket).set_linger(None) {
        tracing::debug!(%why, "a connection was reset as it ended");
    }
}

/// Waits until the socket is reset.
pub(crate) async fn reset_of(socket: &TcpStream) {
    pump::reset_of(socket).await;
}

fn by_reader(end: pump::End, reader: Why, writer: Why) -> Why {
    match end {
        pump::End::Reader => reader,
        pump::End::Writer => writer,
        pump::End::Full(limit) => Why::Limited(limit),
    }
}

async fn until_both_end(
    from_socket: impl Future<Output = Result<(), Broken>>,
    to_socket: impl Future<Output = Result<(), Broken>>,
    socket: &TcpStream,
) -> Result<(), Broken> {
    tokio::pin!(from_socket, to_socket);
    tokio::select! {
        ended = &mut from_socket => {
            ended?;
            // Nobody reads the socket any more, so a reset must be looked for.
            tokio::select! {
                ended = to_socket => ended,
                () = pump::reset_of(socket) => Err(Broken::Socket),
            }
        }
        // The reader that goes on sees a reset of either end by itself.
        ended = &mut to_socket => {
            ended?;
            from_socket.await
        }
    }
}
