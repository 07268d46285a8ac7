//! Sends and receives packets on a SEQPACKET Unix socket, without blocking the runtime.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use prost::Message;
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{MAX_DESCRIPTORS, MAX_MESSAGE};
use crate::socket;

/// A message and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet<M> {
    /// The message.
    pub message: M,
    /// Its descriptors, close-on-exec, in the order they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Who is at the other end, as the kernel says it of the moment it connected or listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its process; 0 for one that is not seen from here.
    pub pid: i32,
}

/// Why a packet could not be sent or received. After a fault in receiving, the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
    /// The message to send is over [`MAX_MESSAGE`].
    #[error("a message of {length} bytes, over {MAX_MESSAGE}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The message to send has no bytes, which the other side would read as the end.
    #[error("a message of no bytes")]
    Empty,
    /// Over [`MAX_DESCRIPTORS`].
    #[error("more than {MAX_DESCRIPTORS} descriptors in one packet")]
    TooManyDescriptors,
    /// Not the protobuf it should be.
    #[error("not a message of this protocol")]
    Undecodable(#[source] prost::DecodeError),
    /// The packet that came was over a bound, and the kernel cut it.
    #[error("a packet over {MAX_MESSAGE} bytes or {MAX_DESCRIPTORS} descriptors was cut")]
    Truncated,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where proxies connect to the agent.
#[derive(Debug)]
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Listens at `path`, in place of whoever did. The socket's file has the permissions `mode`.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        Ok(Self(register(socket::listen(path, SocketType::SEQPACKET, mode)?)?))
    }

    /// The next connection, and who made it. What it may do is for the caller to decide.
    pub async fn accept(&self) -> io::Result<(Connection, Peer)> {
        let socket = self
            .0
            .async_io(Interest::READABLE, |listener| {
                Ok(rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
            })
            .await?;
        let peer = peer_of(&socket)?;
        Ok((Connection(register(socket)?), peer))
    }
}

/// Not by rustix: of a peer in another process namespace, as in another container, the kernel says the process 0, which its type for
/// processes can't hold.
fn peer_of(socket: &OwnedFd) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = libc::socklen_t::try_from(size_of_val(&found)).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "no safe wrapper takes a peer whose process is not seen from here")]
    // SAFETY: the descriptor is open, `found` and `length` are live, and `length` is the size of `found`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer { uid: found.uid, pid: found.pid })
}

/// One end of a hand-over connection. Sends and receives may run side by side; each packet is whole.
#[derive(Debug)]
pub struct Connection(AsyncFd<OwnedFd>);

impl Connection {
    /// Connects to the agent's socket. Async because it registers with the runtime; a Unix connect does not wait.
    #[expect(clippy::unused_async, reason = "a caller must be inside a runtime, and the signature says so")]
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket::socket(SocketType::SEQPACKET)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(register(socket)?))
    }

    /// Two ends of one connection, as `socketpair` makes them: for tests that need no path.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socket::pair(SocketType::SEQPACKET)?;
        Ok((Self(register(one)?), Self(register(other)?)))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        peer_of(self.0.get_ref())
    }

    /// Sends one packet, waiting while the peer's queue is full. The descriptors stay the caller's.
    pub async fn send<M: Message>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), Fault> {
        let bytes = message.encode_to_vec();
        match bytes.len() {
            0 => return Err(Fault::Empty),
            length if length > MAX_MESSAGE => return Err(Fault::TooLong { length }),
            _ => {}
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Fault::TooManyDescriptors);
        }
        Ok(self.0.async_io(Interest::WRITABLE, |socket| send(socket, &bytes, descriptors)).await?)
    }

    /// The next packet; None when the peer has closed. Descriptors of a packet that is refused are closed here.
    pub async fn receive<M: Message + Default>(&self) -> Result<Option<Packet<M>>, Fault> {
        let Raw { bytes, descriptors, cut } = self.0.async_io(Interest::READABLE, receive).await?;
        match (cut, bytes.len(), descriptors.len()) {
            (Cut::Yes, _, _) => Err(Fault::Truncated),
            (Cut::No, 0, _) => Ok(None),
            (Cut::No, length, _) if length > MAX_MESSAGE => Err(Fault::Truncated),
            (Cut::No, _, count) if count > MAX_DESCRIPTORS => Err(Fault::TooManyDescriptors),
            (Cut::No, _, _) => {
                let message = M::decode(bytes.as_slice()).map_err(Fault::Undecodable)?;
                Ok(Some(Packet { message, descriptors }))
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for proof that the descriptor stays open")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, names one descriptor, and is moved in here: nothing closes it before the AsyncFd does.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

struct Raw {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    cut: Cut,
}

enum Cut {
    Yes,
    No,
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<Raw> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.truncate(got.bytes);
    let cut = match got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        true => Cut::Yes,
        false => Cut::No,
    };
    Ok(Raw { bytes, descriptors, cut })
}
