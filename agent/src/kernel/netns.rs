//! Asks network namespaces for their cookies: the numbers by which the kernel programs know them.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    thread,
};

use rustix::{
    net::{AddressFamily, SocketType, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// The cookie of a network namespace, given by a descriptor of it or of any socket in it.
pub fn netns_cookie(netns: BorrowedFd<'_>) -> io::Result<u64> {
    match of_socket(netns) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => of_namespace(netns),
        result => result,
    }
}

/// SIOCGSKNS of linux/sockios.h.
const SIOCGSKNS: libc::Ioctl = 0x894C;

/// The network namespace that a socket is in: also one that no path names any more.
#[expect(unsafe_code, reason = "SIOCGSKNS has no safe wrapper")]
pub fn netns_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: this ioctl takes no argument and writes no memory.
    let namespace = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if namespace < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// A thread of its own enters the namespace and ends there: entering is per thread, and coming back can fail.
fn of_namespace(netns: BorrowedFd<'_>) -> io::Result<u64> {
    let ask = || {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
        of_socket(std::os::fd::AsFd::as_fd(&socket(AddressFamily::INET, SocketType::DGRAM, None)?))
    };
    thread::scope(|scope| {
        scope.spawn(ask).join().unwrap_or_else(|_| Err(io::Error::other("the thread that asked has panicked")))
    })
}

#[expect(unsafe_code, reason = "SO_NETNS_COOKIE has no safe wrapper")]
fn of_socket(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8; // Of a u64.
    let (level, option) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    let value = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: `value` has `length` bytes, and both live until the call is back.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
