//! Speaks netlink(7): asks the kernel for something of the calling thread's network namespace, and reads the answer. Layouts are
//! those of linux/netlink.h.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::native::{u16_at, u32_at};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One thing: NLM_F_REQUEST | NLM_F_ACK.
    One,
    /// Everything: NLM_F_REQUEST | NLM_F_DUMP.
    All,
}

/// NETLINK_ROUTE.
pub(crate) const ROUTE: i32 = 0;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER say more of an attribute than its kind.
const KIND: u16 = 0x3fff;

/// The kernel answers in pieces of at most this size.
const PIECE: usize = 32 * 1024;

/// The kernel answers at once; an answer that does not come is an error, not a wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// What becomes of each message of an answer: None for one that is cut.
pub(crate) type Each<'e> = dyn FnMut(&[u8]) -> Option<()> + 'e;

/// Sends one request, and hands each message of the answer to `each`.
pub(crate) fn ask(protocol: i32, (kind, ask): (u16, Ask), body: &[u8], each: &mut Each<'_>) -> io::Result<()> {
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(protocol)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let flags: u16 = if ask == Ask::All { 0x301 } else { 5 };
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // Sequence and port.
    message.extend_from_slice(body);
    socket.write_all(&message)?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = socket.read(&mut piece)?;
        if take(piece.get(..length).unwrap_or_default(), each)? {
            return Ok(());
        }
    }
}

/// Takes in one piece of an answer; true where it was the last.
fn take(mut piece: &[u8], each: &mut Each<'_>) -> io::Result<bool> {
    while let Some(length) = u32_at(piece, 0).and_then(|length| usize::try_from(length).ok()) {
        let (Some(message), Some(kind)) = (piece.get(HEADER..length), u16_at(piece, 4)) else { return Err(cut()) };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                return match u32_at(message, 0).map(u32::cast_signed) {
                    Some(0) => Ok(true),
                    Some(errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
                    None => Err(cut()),
                };
            }
            _ => each(message).ok_or_else(cut)?,
        }
        // Messages are aligned to 4 bytes.
        piece = piece.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of netlink was cut")
}

/// The attributes of a message, or of one of them: kind and value, as far as they are whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let (kind, value) = (u16_at(bytes, 2)? & KIND, bytes.get(ATTRIBUTE..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An attribute of four bytes, as it is sent.
pub(crate) fn attribute(kind: u16, value: u32) -> [u8; 8] {
    let [a, b] = 8u16.to_ne_bytes(); // Its length, header included.
    let [c, d] = kind.to_ne_bytes();
    let [e, f, g, h] = value.to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::{attribute, attributes, take};

    #[test]
    fn no_answer_of_any_bytes_is_more_than_an_error() {
        for length in [0u32, 1, 15, 16, 17, 60, u32::MAX] {
            for kind in [2u16, 3, 20] {
                let mut piece = length.to_ne_bytes().to_vec();
                piece.extend_from_slice(&kind.to_ne_bytes());
                piece.resize(64, 0xff);
                for cut in 0..piece.len() {
                    drop(take(&piece[..cut], &mut |message| {
                        attributes(message).for_each(drop);
                        Some(())
                    }));
                }
            }
        }
    }

    #[test]
    fn what_is_sent_is_read_back() {
        let both = [attribute(5, 7), attribute(37, 0)].concat();
        let read: Vec<_> = attributes(&both).collect();
        assert_eq!(read, [(5, &7u32.to_ne_bytes()[..]), (37, &[0; 4][..])]);
        assert_eq!(attributes(&both[..6]).count(), 0, "what is cut is none");
    }
}
