//! The least that a proxy can do, so that it is known how far down any can come: what one end sends is read and written to the
//! other, by one thread and one event loop. Nothing is parsed, no rule is looked for, nothing is counted, nobody is asked.
//!
//! [`plain`] stands where an Envoy stands within a node. [`carried`] stands at both ends between nodes; there all
//! connections share one of TLS, and what one look at the sockets finds is one write: the least that any carrier would do.

mod carrier;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use clap::Subcommand;

use crate::poll::{Change, Poll};
use carrier::Carrier;

/// Where the one within a node listens.
pub const NEAR: u16 = 27_000;
/// Where the client's end of the pair listens, for this port of the server beyond [`crate::serve::SINK`].
pub const CLIENT: u16 = 27_100;
/// Where the server's end listens for the client's.
pub const SERVER: u16 = 27_200;

/// The name in the server's certificate.
pub const NAME: &str = "bare";

/// Read with one call.
pub(crate) const CHUNK: usize = 8 * 1024;

/// How long nothing may happen before the loop looks around; nothing depends on it.
pub(crate) const QUIET: Duration = Duration::from_secs(3600);

/// The listener's number in the loop; connections count from nought.
pub(crate) const LISTENER: usize = usize::MAX;

/// Both ends of all connections: more than any load makes.
const ENDS: usize = 4096;

/// One of the three.
#[derive(Debug, Subcommand)]
pub enum Bare {
    /// Passes on what comes, one connection for each
    Plain {
        /// Where to listen
        listen: SocketAddr,
        /// Where to connect
        to: SocketAddr,
    },
    /// The client's end of a pair
    Client {
        /// Where to listen
        listen: SocketAddr,
        /// The server's end
        to: SocketAddr,
        /// Whose certificates are believed
        roots: PathBuf,
    },
    /// The server's end of a pair
    Server {
        /// Where to listen
        listen: SocketAddr,
        /// Where to connect
        to: SocketAddr,
        /// Its certificate and key
        both: PathBuf,
    },
}

impl Bare {
    /// Forwards until the process is ended; `listening` is called when it can.
    pub fn run(self, listening: impl FnOnce()) -> Result<()> {
        match self {
            Self::Plain { listen, to } => {
                let listener = TcpListener::bind(listen)?;
                listening();
                plain(&listener, to)
            }
            Self::Client { listen, to, roots } => {
                let (carrier, listener) = (Carrier::client(to, &roots)?, TcpListener::bind(listen)?);
                listening();
                carrier.run(Some(&listener), None)
            }
            Self::Server { listen, to, both } => {
                let listener = TcpListener::bind(listen)?;
                listening();
                Carrier::server(&listener, &both)?.run(None, Some(to))
            }
        }
    }
}

/// The next that waits, ready for the loop.
pub(crate) fn accepted(listener: &TcpListener) -> Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => ready(stream).map(Some),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// As the loop wants it.
pub(crate) fn ready(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Number `2 n` is a client's connection, `2 n + 1` that to the server.
fn plain(listener: &TcpListener, to: SocketAddr) -> Result<()> {
    let poll = Poll::new()?;
    listener.set_nonblocking(true)?;
    poll.add(listener, LISTENER)?;
    let mut ends: Vec<Option<TcpStream>> = (0..ENDS).map(|_| None).collect();
    let mut free: Vec<usize> = (0..ENDS).step_by(2).rev().collect();
    let mut buffer = vec![0; CHUNK];
    loop {
        for Change { number, has_ended } in poll.wait(QUIET)? {
            if number == LISTENER {
                while let Some(stream) = accepted(listener)? {
                    let Some(number) = free.pop() else { continue };
                    for (number, stream) in [(number, stream), (number + 1, ready(TcpStream::connect(to)?)?)] {
                        poll.add(&stream, number)?;
                        if let Some(end) = ends.get_mut(number) {
                            *end = Some(stream);
                        }
                    }
                }
                continue;
            }
            let other = number ^ 1;
            let (Some(Some(from)), Some(Some(into))) = (ends.get(number), ends.get(other)) else { continue };
            if !passed((from, into), &mut buffer, has_ended) {
                for number in [number, other] {
                    if let Some(end) = ends.get_mut(number) {
                        *end = None;
                    }
                }
                free.push(number & !1);
            }
        }
    }
}

/// False when one of both has ended.
fn passed((mut from, mut into): (&TcpStream, &TcpStream), buffer: &mut [u8], has_ended: bool) -> bool {
    loop {
        match from.read(buffer) {
            Ok(0) => return false,
            Ok(n) => {
                // All of it is small: what a socket's buffer does not take was not asked for in turn.
                if into.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                    return false;
                }
                // Most often that was all there is: it saves a look to wait for the next change instead.
                if n < buffer.len() && !has_ended {
                    return true;
                }
            }
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests;
