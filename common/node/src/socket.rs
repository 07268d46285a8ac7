//! Binds Unix sockets so that a successor takes the path over without a moment in which nobody listens there.

use std::{
    fs::{self, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// Connections that may wait to be accepted: every proxy of a node and then some; more is a mistake or an attack.
const BACKLOG: i32 = 64;

/// A nonblocking, close-on-exec listening socket of this type at `path`, with the permissions `mode`.
///
/// It is bound beside `path` and renamed over it: a predecessor's socket is replaced whole, and its waiting
/// connections stay its own.
pub(crate) fn listen(path: &Path, kind: SocketType, mode: u32) -> io::Result<OwnedFd> {
    let beside = beside(path);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = socket(kind)?;
    // The file takes the socket's own mode, less the umask: nobody else gets in between bind and chmod.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&beside)?)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    fs::rename(&beside, path)?;
    Ok(socket)
}

/// A nonblocking, close-on-exec Unix socket of this type.
pub(crate) fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// Two such sockets, connected to each other.
pub(crate) fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}
