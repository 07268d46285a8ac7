//! Connects a socket from the stock, in its pod's namespace, to an address there or elsewhere.

mod source;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    os::fd::AsFd,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{descriptors::Held, fault::Why, stock::Unconnected};

/// How long a target may take to answer a SYN: two retransmissions, and the third on its way.
const CONNECT: Duration = Duration::from_secs(5);

/// After this long without a byte, the kernel asks whether the other end is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// How long between two such questions; after [`KEEPALIVE_PROBES`] without an answer the connection is broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How many such questions.
const KEEPALIVE_PROBES: u32 = 6;

/// A connected socket, and the right to have it open.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: TcpStream,
    pub(crate) held: Held,
}

/// Connects to an application of the socket's own pod on behalf of `client`, from a source of the client's own. Over loopback nobody vanishes
/// unsaid, so nobody is asked whether he is still there.
pub(crate) async fn dial_for(
    unconnected: Unconnected,
    client: SocketAddr,
    target: SocketAddr,
) -> Result<Connected, Why> {
    if let Err(why) = source::bind(unconnected.socket.as_fd(), client, target) {
        // A pod whose loopback device is down, say: from its own address there is room for fewer.
        tracing::debug!(%why, %target, "a dial has no source of its own");
    }
    let connected = connect(unconnected, target).await?;
    prompt(&connected.socket);
    Ok(connected)
}

/// Connects to `target`, or says by name why not.
pub(crate) async fn dial(unconnected: Unconnected, target: SocketAddr) -> Result<Connected, Why> {
    let connected = connect(unconnected, target).await?;
    tune(&connected.socket);
    Ok(connected)
}

async fn connect(unconnected: Unconnected, target: SocketAddr) -> Result<Connected, Why> {
    let Unconnected { socket, held } = unconnected;
    let socket = TcpSocket::from_std_stream(socket.into());
    let socket = match timeout(CONNECT, socket.connect(target)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(named(&error)),
        Err(_elapsed) => return Err(Why::ConnectTimeout),
    };
    Ok(Connected { socket, held })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "ErrorKind is open, and what is not named here has one name")]
fn named(error: &io::Error) -> Why {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Why::ConnectRefused,
        ErrorKind::TimedOut => Why::ConnectTimeout,
        _ => Why::ConnectFailed,
    }
}

/// Has bytes go as they come, without waiting to fill a segment: what every carried connection needs.
pub(crate) fn prompt(socket: impl AsFd) {
    if let Err(why) = SockRef::from(&socket).set_tcp_nodelay(true) {
        tracing::debug!(%why, "a socket's option was not set: it is broken already");
    }
}

/// The same for one whose peer may vanish: it gets an end.
pub(crate) fn tune(socket: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    prompt(socket);
    if let Err(why) = SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%why, "a socket's options were not set: it is broken already");
    }
}
