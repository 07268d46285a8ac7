//! Speaks sock_diag(7): lists the TCP sockets of the namespace that the calling thread is in, and closes one.
//!
//! Layouts are those of linux/netlink.h and linux/inet_diag.h: `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg`.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Seen, socket_address};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u8 = 10;
/// ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LISTEN: those that carry something, or may yet.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << TCP_LISTEN;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`, and where it stands in `struct inet_diag_msg`.
const ID: usize = 48;
const ID_AT: usize = 4;

/// The kernel answers a dump in pieces of at most this size.
const PIECE: usize = 32 * 1024;

/// The kernel answers at once; an answer that does not come is an error, not a wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// One end of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The socket's family and id, by which the kernel finds it again and no other.
    family: u8,
    id: [u8; ID],
}

impl Connection {
    /// One end, without a socket.
    #[cfg(test)]
    pub(super) fn between(local: &str, remote: &str) -> Self {
        Self { local: local.parse().unwrap(), remote: remote.parse().unwrap(), family: AF_INET, id: [0; ID] }
    }
}

/// The TCP sockets of the calling thread's namespace.
pub fn see() -> io::Result<Seen> {
    let mut seen = Seen::default();
    for family in [AF_INET, AF_INET6] {
        let mut socket = open()?;
        socket.write_all(&request(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, &[0; ID]))?;
        let mut piece = vec![0; PIECE];
        loop {
            let length = socket.read(&mut piece)?;
            if take(piece.get(..length).unwrap_or_default(), &mut seen)? == Answer::Whole {
                break;
            }
        }
    }
    Ok(seen)
}

/// Closes a connection of the calling thread's namespace: both ends see a reset. One that has ended meanwhile is closed.
pub fn close(connection: &Connection) -> io::Result<()> {
    let mut socket = open()?;
    socket.write_all(&request(SOCK_DESTROY, REQUEST | ACK, connection.family, &connection.id))?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    match take(answer.get(..length).unwrap_or_default(), &mut Seen::default()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        answer => answer.map(drop),
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend_from_slice(&[0; 4]); // Its length, below.
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // Sequence and port.
    message.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    message.extend_from_slice(&STATES.to_ne_bytes());
    message.extend_from_slice(id);
    let length = u32::try_from(message.len()).unwrap_or_default().to_ne_bytes();
    message.iter_mut().zip(length).for_each(|(to, from)| *to = from);
    message
}

/// Whether a dump goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Partial,
    Whole,
}

/// Takes in one piece of an answer.
fn take(mut piece: &[u8], seen: &mut Seen) -> io::Result<Answer> {
    while let Some(length) = u32_at(piece, 0).and_then(|length| usize::try_from(length).ok()) {
        let (Some(message), Some(kind)) = (piece.get(HEADER..length), u16_at(piece, 4)) else { return Err(cut()) };
        match kind {
            NLMSG_DONE => return Ok(Answer::Whole),
            NLMSG_ERROR => {
                return match u32_at(message, 0).map(u32::cast_signed) {
                    Some(0) => Ok(Answer::Whole),
                    Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
                    None => Err(cut()),
                };
            }
            _ => note(message, seen).ok_or_else(cut)?,
        }
        // Messages are aligned to 4 bytes.
        piece = piece.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer::Partial)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of sock_diag was cut")
}

/// Notes one `inet_diag_msg`.
fn note(message: &[u8], seen: &mut Seen) -> Option<()> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let id: [u8; ID] = message.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
    let port = |at: usize| id.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let local_port = port(0)?;
    if state == TCP_LISTEN {
        seen.listening.insert(local_port);
        return Some(());
    }
    let local = socket_address(ip(family, id.get(4..20)?)?, local_port);
    let remote = socket_address(ip(family, id.get(20..36)?)?, port(2)?);
    seen.connections.push(Connection { local, remote, family, id });
    Some(())
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        return <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from);
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::{Seen, close, see, take};

    /// On this machine's own loopback; closing takes CAP_NET_ADMIN, which a plain user has not.
    #[test]
    fn a_connection_is_found_and_closed_at_both_ends() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut caller = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let seen = see().unwrap();
        assert!(seen.listening.contains(&port));
        let own = caller.local_addr().unwrap();
        let found = seen.connections.iter().find(|connection| connection.local == own).expect("the connection");
        assert_eq!(found.remote, caller.peer_addr().unwrap());
        match close(found) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
            Ok(()) => {
                assert!(caller.read(&mut [0]).is_err(), "the caller's end lives");
                assert!(accepted.read(&mut [0]).is_err(), "the other end lives");
                assert!(close(found).is_ok(), "one that has ended is closed");
            }
        }
    }

    #[test]
    fn no_answer_of_any_bytes_is_more_than_an_error() {
        for length in [0u32, 1, 15, 16, 17, 60, u32::MAX] {
            for kind in [2u16, 3, 20] {
                let mut piece = length.to_ne_bytes().to_vec();
                piece.extend_from_slice(&kind.to_ne_bytes());
                piece.resize(64, 0xff);
                for cut in 0..piece.len() {
                    drop(take(&piece[..cut], &mut Seen::default()));
                }
            }
        }
    }
}
