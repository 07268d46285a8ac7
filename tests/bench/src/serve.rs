//! The far end of every load: swallows bytes, echoes them, answers HTTP/1.1 and HTTP/2 with 1 KiB. `millrace-bench serve`.

mod http2;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

pub(crate) use http2::message;

use crate::poll::{Change, Poll};

/// Swallows what it is sent.
pub const SINK: u16 = 5001;
/// Sends back what it is sent.
pub const ECHO: u16 = 5002;
/// Answers HTTP/1.1.
pub const HTTP: u16 = 5003;
/// Answers HTTP/2 by prior knowledge, and gRPC.
pub const HTTP2: u16 = 5004;
/// As a service has it: [`HTTP`] with a route, so that a mesh parses it.
pub const ROUTED: u16 = 5005;

/// Connections that wait to be accepted: no load connects more at once.
const BACKLOG: i32 = 4096;

/// Read with one call from a bulk stream.
const BULK: usize = 256 * 1024;

/// Read with one call from the others.
const CHUNK: usize = 8 * 1024;

/// The body of an answer.
pub(crate) const BODY: usize = 1024;

/// How long nothing may happen before the loop looks around; nothing depends on it.
const QUIET: Duration = Duration::from_secs(3600);

/// The most connections at once: every load's, and those that are about to close.
const SLOTS: usize = 4096;

/// Numbers of the two listeners in the loop.
const LISTENERS: [usize; 2] = [SLOTS, SLOTS + 1];

/// What a connection of the loop gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Echo,
    Http,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    service: Service,
    /// How much of an empty line, `\r\n\r\n`, the last bytes were.
    matched: usize,
}

/// Serves on all ports until the process is ended; `listening` is called when it does.
pub fn run(listening: impl FnOnce()) -> Result<()> {
    let (sink, echo, http, two) = (listen(SINK)?, listen(ECHO)?, listen(HTTP)?, listen(HTTP2)?);
    thread::spawn(move || http2::serve(two));
    echo.set_nonblocking(true)?;
    http.set_nonblocking(true)?;
    thread::spawn(move || {
        for stream in sink.incoming().map_while(Result::ok) {
            thread::spawn(move || swallow(stream));
        }
    });
    listening();
    let poll = Poll::new()?;
    let listeners = [(echo, Service::Echo), (http, Service::Http)];
    for ((listener, _), number) in listeners.iter().zip(LISTENERS) {
        poll.add(listener, number)?;
    }
    let mut clients: Vec<Option<Client>> = (0..SLOTS).map(|_| None).collect();
    let mut free: Vec<usize> = (0..SLOTS).rev().collect();
    let answer = answer();
    loop {
        for Change { number, has_ended } in poll.wait(QUIET)? {
            if let Some((listener, service)) = number.checked_sub(SLOTS).and_then(|index| listeners.get(index)) {
                accept(&poll, (listener, *service), &mut clients, &mut free)?;
            } else if let Some(slot) = clients.get_mut(number)
                && let Some(client) = slot
                && !client.go_on(&answer, has_ended)
            {
                *slot = None;
                free.push(number);
            }
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; BULK];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

fn answer() -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'm');
    answer
}

fn accept(
    poll: &Poll,
    (listener, service): (&TcpListener, Service),
    clients: &mut [Option<Client>],
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // One too many is closed: a load would count it as failed.
                let Some(number) = free.pop() else { continue };
                poll.add(&stream, number)?;
                if let Some(slot) = clients.get_mut(number) {
                    *slot = Some(Client { stream, service, matched: 0 });
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // A client that has gone again before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Client {
    /// False when it has ended.
    fn go_on(&mut self, answer: &[u8], has_ended: bool) -> bool {
        let mut buffer = [0; CHUNK];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    let piece = buffer.get(..n).unwrap_or_default();
                    let written = match self.service {
                        Service::Echo => self.stream.write_all(piece),
                        Service::Http => {
                            let n_asked = requests(&mut self.matched, piece);
                            (0..n_asked).try_for_each(|_| self.stream.write_all(answer))
                        }
                    };
                    // All of it is small: what a socket's buffer does not take was not asked for in turn.
                    if written.is_err() {
                        return false;
                    }
                    // Most often that was all there is: it saves a look to wait for the next change instead. There is
                    // none behind the end, so that is read.
                    if n < CHUNK && !has_ended {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }
}

/// How many requests without a body end in this piece.
fn requests(matched: &mut usize, piece: &[u8]) -> usize {
    let mut n = 0;
    for byte in piece {
        *matched = match (*byte, *matched) {
            (b'\r', 2) => 3,
            (b'\r', _) => 1,
            (b'\n', at @ (1 | 3)) => at + 1,
            _ => 0,
        };
        if *matched == 4 {
            n += 1;
            *matched = 0;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn a_request_ends_with_its_empty_line_however_it_is_cut() {
        let (mut matched, text) = (0, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(requests(&mut matched, text), 2);
        let ends = text.iter().map(|byte| requests(&mut matched, &[*byte])).sum::<usize>();
        assert_eq!(ends, 2);
    }
}
