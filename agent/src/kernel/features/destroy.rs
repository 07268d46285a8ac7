//! Asks whether the kernel closes sockets on demand (`CONFIG_INET_DIAG_DESTROY`), by asking for one that is not there.

use std::io::{self, Read as _, Write as _};

use socket2::{Domain, Protocol, Socket, Type};

use super::Presence;
use crate::revoke::{Seen, see_datagrams};

/// linux/sock_diag.h, linux/netlink.h.
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`, and the two together.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const LENGTH: u32 = 72;
/// AF_INET and IPPROTO_TCP, as the request has them.
const TCP_OVER_IPV4: [u8; 4] = [2, 6, 0, 0];

pub(super) fn probe() -> Presence {
    match ask() {
        // No such socket: the kernel has looked.
        Ok(Some(libc::ENOENT)) => Presence::Present,
        Ok(Some(libc::EOPNOTSUPP)) => Presence::Missing,
        Ok(errno) => Presence::Unknown(format!("the kernel answers {errno:?}")),
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// UDP's sockets are listed and closed by a part of the kernel of its own (`CONFIG_INET_UDP_DIAG`): to it, one that is not there and
/// no such part are the same errno, so that it is asked for a list.
pub(super) fn probe_udp() -> Presence {
    match probe() {
        Presence::Present => {}
        other @ (Presence::Missing | Presence::Unknown(_)) => return other,
    }
    match see_datagrams(&mut Seen::default()) {
        Ok(()) => Presence::Present,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Presence::Missing,
        Err(error) => Presence::Unknown(error.to_string()),
    }
}

/// The errno that the kernel answers with; None for an answer that is no error.
fn ask() -> io::Result<Option<i32>> {
    let kind = Type::DGRAM;
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), kind, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&SOCK_DESTROY.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // Sequence and port.
    message.extend_from_slice(&TCP_OVER_IPV4);
    message.extend_from_slice(&u32::MAX.to_ne_bytes()); // Every state.
    message.resize(HEADER + REQUEST, 0); // From port 0 of 0.0.0.0 to the same: nobody's.
    socket.write_all(&message)?;
    let mut answer = [0; 64];
    let length = socket.read(&mut answer)?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if length < HEADER + 4 || kind != Some(NLMSG_ERROR) {
        return Ok(None);
    }
    Ok(word(HEADER).map(|errno| -errno))
}
