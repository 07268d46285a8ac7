//! Asks network namespaces for their cookies: the numbers by which the kernel programs know them.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
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
