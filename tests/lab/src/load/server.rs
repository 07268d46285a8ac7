//! Answers a byte at a time; one thread, as many connections as there are descriptors.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{CLOSE, raise_descriptors};

/// Connections that wait to be accepted; the namespace's somaxconn bounds it further.
const BACKLOG: i32 = 16_384;

/// Serves until killed. Several may share an address.
#[expect(clippy::infinite_loop, reason = "it serves for as long as the process lives")]
pub async fn serve(at: SocketAddr) -> Result<()> {
    raise_descriptors()?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into()).with_context(|| format!("bind {at}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into())?;
    listening(at);
    loop {
        // Without a descriptor for it, a connection waits.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(attend(stream))),
            Err(_none) => tokio::task::yield_now().await,
        }
    }
}

async fn attend(mut stream: TcpStream) {
    let mut asked = [0];
    while matches!(stream.read(&mut asked).await, Ok(1)) {
        if stream.write_all(&asked).await.is_err() || asked == [CLOSE] {
            return;
        }
    }
}

#[expect(clippy::print_stdout, reason = "who started it waits for this line")]
fn listening(at: SocketAddr) {
    println!("listening on {at}");
}
