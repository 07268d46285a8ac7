//! Serves the lab's own protocol: a thread per connection, everything it saw said on standard output as JSON lines.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{
    Ended, Greeting,
    payload::{Payload, receive},
};

/// Connections that wait to be accepted: more than the clients of one lab open at once.
const BACKLOG: i32 = 4096;

/// A command line is short; a longer one is somebody else's protocol.
const MAX_COMMAND: u64 = 256;

/// A client that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(120);

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The name to greet with.
    pub name: String,
    /// TCP or MPTCP.
    pub protocol: Protocol,
    /// The file at whose appearance the listener is closed; what was accepted is served on.
    pub deaf_when: Option<PathBuf>,
}

/// Between two looks for that file.
const LOOK: Duration = Duration::from_millis(20);

/// Serves until killed.
pub fn serve(options: &Options) -> Result<()> {
    let socket = Socket::new(Domain::for_address(options.listen), Type::STREAM, Some(options.protocol))?;
    socket.set_reuse_address(true)?;
    if options.listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&options.listen.into()).with_context(|| format!("bind {}", options.listen))?;
    socket.listen(BACKLOG)?;
    say(&serde_json::json!({"listening": options.listen.to_string()}));
    socket.set_read_timeout(options.deaf_when.as_ref().map(|_| LOOK))?;
    loop {
        let (socket, accepted) = match (socket.accept(), &options.deaf_when) {
            (Err(error), Some(file)) if error.kind() == io::ErrorKind::WouldBlock => {
                if file.exists() {
                    break;
                }
                continue;
            }
            (accepted, _) => accepted?,
        };
        let accept = accepted.as_socket().context("a peer without an IP address")?;
        let name = options.name.clone();
        thread::spawn(move || attend(socket.into(), accept, name));
    }
    drop(socket);
    say(&serde_json::json!({"deaf": options.listen.to_string()}));
    #[expect(clippy::infinite_loop, reason = "it is there until it is killed")]
    loop {
        thread::park();
    }
}

fn attend(stream: TcpStream, accept: SocketAddr, name: String) {
    let mut command = String::new();
    let how = match converse(stream, accept, name, &mut command) {
        Ok(()) => "ok".to_owned(),
        Err(error) => kind(&error),
    };
    say(&Ended { client: accept, command: command.trim().to_owned(), how });
}

fn converse(mut stream: TcpStream, accept: SocketAddr, name: String, command: &mut String) -> Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let greeting = Greeting { name, accept, peer: stream.peer_addr()?, local: stream.local_addr()? };
    stream.write_all(format!("{}\n", serde_json::to_string(&greeting)?).as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.by_ref().take(MAX_COMMAND).read_line(command)?;
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        [] | ["bye"] => {}
        ["echo"] => {
            io::copy(&mut reader, &mut stream)?;
            stream.shutdown(Shutdown::Write)?;
        }
        ["duplex", up, down, chunk] => duplex(reader, stream, up.parse()?, down.parse()?, chunk.parse()?)?,
        ["reset", after] => {
            receive(&mut reader, after.parse()?, 4096)?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?; // Its close sends a reset.
        }
        ["hold"] => {
            stream.write_all(b"k")?;
            io::copy(&mut reader, &mut io::sink())?;
        }
        other => bail!("unknown command {other:?}"),
    }
    Ok(())
}

/// Both ways at once. The digests follow only after the client's half-close has arrived, and the server's bytes are out.
fn duplex(mut reader: BufReader<TcpStream>, mut stream: TcpStream, up: u64, down: u64, chunk: usize) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let seed = up ^ down.rotate_left(32);
    let sender = thread::spawn(move || Payload::new(seed).send(&mut writer, down, chunk));
    let received = receive(&mut reader, up, chunk)?;
    let after = io::copy(&mut reader, &mut io::sink())?;
    let Ok(sent) = sender.join() else { bail!("the sender panicked") };
    stream.write_all(&received)?;
    stream.write_all(&sent?)?;
    stream.write_all(&after.to_be_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// The kind of the first I/O error in the chain, as tests compare it.
pub(crate) fn kind(error: &anyhow::Error) -> String {
    match error.downcast_ref::<io::Error>() {
        Some(io) => format!("{:?}", io.kind()),
        None => format!("{error:#}"),
    }
}

#[expect(clippy::print_stdout, reason = "its output is what the server is for")]
fn say(what: &impl serde::Serialize) {
    if let Ok(line) = serde_json::to_string(what) {
        println!("{line}");
    }
}
