//! Speaks sock_diag(7): lists the sockets of the namespace that the calling thread is in, and closes one.
//!
//! Layouts are those of linux/netlink.h and linux/inet_diag.h: `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use millrace_abi::End;

use super::{Seen, socket_address};
use crate::{
    native::{u32_at, u64_at},
    netlink::{Ask, ask, attribute, attributes},
};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const TCP_LISTEN: u8 = 10;
/// ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LISTEN: those that carry something, or may yet.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << TCP_LISTEN;

/// ESTABLISHED is what the kernel calls a UDP socket that is connected.
const CONNECTED: u32 = 1 << 1;
/// FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING: those that a socket may be in that nobody has open.
const CLOSED: u32 = 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11;
/// Where `struct inet_diag_msg` has the inode of who has a socket open; 0 where nobody has.
const INODE_AT: usize = 68;

/// `struct inet_diag_sockid`, and where it stands in `struct inet_diag_msg`.
const ID: usize = 48;
const ID_AT: usize = 4;
/// Where the former has the kernel's number of the socket.
const COOKIE_AT: usize = 40;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// Asked for with each socket, INET_DIAG_REQ_SK_BPF_STORAGES: the storage of the map of SK_DIAG_BPF_STORAGE_REQ_MAP_FD.
const REQUESTED: u16 = 2;
const REQUESTED_MAP: u16 = 1;
/// Answered: INET_DIAG_SK_BPF_STORAGES, in it SK_DIAG_BPF_STORAGE, in it SK_DIAG_BPF_STORAGE_MAP_VALUE.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const VALUE: u16 = 3;

/// One end of a connection, or a connected UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Between whom it was made, where the kernel noted it.
    pub end: Option<End>,
    /// The socket's family and id, by which the kernel finds it again and no other.
    family: u8,
    protocol: u8,
    id: [u8; ID],
}

impl Connection {
    /// The kernel's number of the socket: `idiag_cookie`, two halves of which the lower is first.
    pub fn cookie(&self) -> u64 {
        let half = |at| u32_at(&self.id, at).map_or(0, u64::from);
        half(COOKIE_AT) | half(COOKIE_AT + 4) << 32
    }

    /// One end, without a socket.
    #[cfg(test)]
    pub(super) fn between(local: &str, remote: &str) -> Self {
        let [local, remote] = [local, remote].map(|address| address.parse().unwrap());
        Self { local, remote, end: None, family: AF_INET, protocol: IPPROTO_TCP, id: [0; ID] }
    }

    /// Of the socket of this number.
    #[cfg(test)]
    pub(super) fn numbered(&mut self, cookie: u32) {
        self.id[COOKIE_AT..COOKIE_AT + 4].copy_from_slice(&cookie.to_ne_bytes());
    }
}

/// The TCP sockets of the calling thread's namespace, with what the map ENDS has of each, where it is given.
pub fn see(ends: Option<BorrowedFd<'_>>) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let storages = ends.map_or_else(Vec::new, |ends| {
        let map = attribute(REQUESTED_MAP, ends.as_raw_fd().cast_unsigned());
        let length = u16::try_from(4 + map.len()).unwrap_or_default().to_ne_bytes();
        [&length[..], &REQUESTED.to_ne_bytes(), &map].concat()
    });
    for family in [AF_INET, AF_INET6] {
        let body = [request((family, IPPROTO_TCP), STATES, &[0; ID]), storages.clone()].concat();
        ask(NETLINK_SOCK_DIAG, (SOCK_DIAG_BY_FAMILY, Ask::All), &body, &mut |message| {
            note(message, IPPROTO_TCP, &mut seen)
        })?;
    }
    Ok(seen)
}

/// The TCP sockets of the calling thread's namespace that were closed, and have something to send or to hear still.
pub fn orphans() -> io::Result<Vec<Connection>> {
    let mut seen = Seen::default();
    for family in [AF_INET, AF_INET6] {
        let body = request((family, IPPROTO_TCP), CLOSED, &[0; ID]);
        ask(
            NETLINK_SOCK_DIAG,
            (SOCK_DIAG_BY_FAMILY, Ask::All),
            &body,
            &mut |message| match u32_at(message, INODE_AT)? {
                0 => note(message, IPPROTO_TCP, &mut seen),
                _ => Some(()),
            },
        )?;
    }
    Ok(seen.connections)
}

/// Adds the connected UDP sockets of the calling thread's namespace. The kernel lists no storage with them.
pub fn see_datagrams(seen: &mut Seen) -> io::Result<()> {
    for family in [AF_INET, AF_INET6] {
        let body = request((family, IPPROTO_UDP), CONNECTED, &[0; ID]);
        ask(NETLINK_SOCK_DIAG, (SOCK_DIAG_BY_FAMILY, Ask::All), &body, &mut |message| {
            note(message, IPPROTO_UDP, seen)
        })?;
    }
    Ok(())
}

/// Closes a connection of the calling thread's namespace: both ends see a reset. One that has ended meanwhile is closed. A UDP socket
/// is told ECONNABORTED, and is connected to nobody.
pub fn close(connection: &Connection) -> io::Result<()> {
    let body = request((connection.family, connection.protocol), STATES, &connection.id);
    match ask(NETLINK_SOCK_DIAG, (SOCK_DESTROY, Ask::One), &body, &mut |_| Some(())) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        answer => answer,
    }
}

fn request((family, protocol): (u8, u8), states: u32, id: &[u8; ID]) -> Vec<u8> {
    [&[family, protocol, 0, 0][..], &states.to_ne_bytes(), id].concat()
}

/// Notes one `inet_diag_msg`.
fn note(message: &[u8], protocol: u8, seen: &mut Seen) -> Option<()> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let id: [u8; ID] = message.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
    let port = |at: usize| id.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let local_port = port(0)?;
    if protocol == IPPROTO_TCP && state == TCP_LISTEN {
        seen.listening.insert(local_port);
        return Some(());
    }
    let local = socket_address(ip(family, id.get(4..20)?)?, local_port);
    let remote = socket_address(ip(family, id.get(20..36)?)?, port(2)?);
    // One that nobody vouches for is noted to be told of, and judged by what it looks like.
    let end = message.get(MESSAGE..).and_then(end).filter(|end| end.is_attested == 1);
    let all = if protocol == IPPROTO_TCP { &mut seen.connections } else { &mut seen.datagrams };
    all.push(Connection { local, remote, end, family, protocol, id });
    Some(())
}

/// What ENDS has of a socket, among a message's attributes.
fn end(rest: &[u8]) -> Option<End> {
    let within = |bytes, kind| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let value = within(within(within(rest, STORAGES)?, STORAGE)?, VALUE)?;
    let [.., is_caller, kind, path, is_attested] = *<&[u8; size_of::<End>()]>::try_from(value).ok()?;
    let long = |at| u64_at(value, at);
    let (source, target, key, policy) = (long(0)?, long(8)?, long(16)?, long(24)?);
    let (opened_ns, connect_us) = (long(32)?, u32_at(value, 40)?);
    Some(End { source, target, key, policy, opened_ns, connect_us, is_caller, kind, path, is_attested })
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        return <[u8; 4]>::try_from(bytes.get(..4)?).ok().map(IpAddr::from);
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    };

    use super::{ID, ID_AT, Seen, close, note, see, see_datagrams};

    /// On this machine's own loopback; closing takes CAP_NET_ADMIN, which a plain user has not.
    #[test]
    fn a_connection_is_found_and_closed_at_both_ends() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut caller = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let seen = see(None).unwrap();
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
    fn a_connected_udp_socket_is_found_and_closed_and_others_are_not_seen() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut seen = Seen::default();
        see_datagrams(&mut seen).unwrap();
        let of = |at: SocketAddr| seen.datagrams.iter().find(|connection| connection.local == at);
        assert!(of(server.local_addr().unwrap()).is_none(), "one that is not connected has nothing to lose");
        let found = of(client.local_addr().unwrap()).expect("the connected one");
        assert_eq!(found.remote, server.local_addr().unwrap());
        match close(found) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
            Ok(()) => {
                assert_eq!(client.recv(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
                assert!(client.peer_addr().is_err(), "it is connected to nobody");
                assert!(close(found).is_ok(), "one that has ended is closed");
            }
        }
    }

    #[test]
    fn no_message_of_any_bytes_is_more_than_none() {
        for fill in [0, 1, 10, 0xff] {
            let message = [fill; 200];
            for cut in 0..message.len() {
                let noted = note(&message[..cut], super::IPPROTO_TCP, &mut Seen::default());
                assert!(cut >= ID_AT + ID || noted.is_none());
            }
        }
    }
}
