//! Reads what an application asked for, and writes whom it shall see as its client: socket storage, by bpf(2) on passed descriptors.
//!
//! Two commands are ever used, look-up and update of an element: the seccomp filter allows no other. Nothing is pinned
//! that this process could open; the agent passes both maps with its Welcome.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use millrace_abi::{Addr, Original, OriginalMode, ShownClient};

/// The socket storage that the proxy reads and writes. The kernel's maps are one; the tests have one in memory.
pub trait SocketMaps: Send + Sync + std::fmt::Debug {
    /// What the application behind an accepted socket asked for; None where it was not captured.
    fn original(&self, accepted: BorrowedFd<'_>) -> io::Result<Option<Asked>>;

    /// Shows `client` to whoever accepts the connection that `unconnected` will make.
    fn show(&self, unconnected: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()>;
}

/// What an application asked for, and what the kernel picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The address it asked for.
    pub address: SocketAddr,
    /// The backend that the kernel picked; `address` again where no service was asked for.
    pub backend: SocketAddr,
    /// Whether that pick is to be kept to.
    pub pick: Pick,
}

/// Whether another backend than the kernel's may be dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// It may: the kernel drew for this connection alone.
    #[default]
    Free,
    /// It may not: the client was given this backend for longer (`sessionAffinity`).
    Binding,
}

/// bpf(2)'s command to look an element up.
pub(crate) const BPF_MAP_LOOKUP_ELEM: u32 = 1;
/// bpf(2)'s command to write an element.
pub(crate) const BPF_MAP_UPDATE_ELEM: u32 = 2;

/// The kernel's maps ORIGINAL and CLIENT.
#[derive(Debug)]
pub struct KernelMaps {
    original: OwnedFd,
    client: OwnedFd,
}

impl KernelMaps {
    /// The maps behind these descriptors: ORIGINAL, and CLIENT.
    pub fn new(original: OwnedFd, client: OwnedFd) -> Self {
        Self { original, client }
    }
}

impl SocketMaps for KernelMaps {
    fn original(&self, accepted: BorrowedFd<'_>) -> io::Result<Option<Asked>> {
        let mut value = [0; size_of::<Original>()];
        match element(BPF_MAP_LOOKUP_ELEM, &self.original, accepted, &mut value) {
            Ok(()) => Ok(asked(&value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn show(&self, unconnected: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()> {
        element(BPF_MAP_UPDATE_ELEM, &self.client, unconnected, &mut shown(client))
    }
}

/// `union bpf_attr`, as the two commands on an element read it.
#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper without a BPF loader, which this process must not hold")]
fn element(command: u32, map: &OwnedFd, socket: BorrowedFd<'_>, value: &mut [u8]) -> io::Result<()> {
    let key = socket.as_raw_fd();
    let mut attributes = Element {
        map: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        reserved: 0,
        key: std::ptr::from_ref(&key).addr() as u64,
        value: value.as_mut_ptr().expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the attributes live through the call and are of the size given; `key` is four readable bytes, the key
    // size of socket storage; `value` is writable and as long as the map's value, which its callers take from the ABI.
    let code = unsafe {
        libc::syscall(libc::SYS_bpf, libc::c_ulong::from(command), &raw mut attributes, size_of::<Element>())
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The record in these bytes; None where it stands on another end of a connection than the proxy's.
fn asked(value: &[u8; size_of::<Original>()]) -> Option<Asked> {
    let (addr, rest) = value.split_first_chunk::<16>()?;
    let (backend, rest) = rest.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (backend_port, rest) = rest.split_first_chunk::<2>()?;
    let [mode, binds, _, _] = *rest.first_chunk::<4>()?;
    (mode == OriginalMode::Accepted as u8).then(|| Asked {
        address: SocketAddr::new(address(*addr), u16::from_be_bytes(*port)),
        backend: SocketAddr::new(address(*backend), u16::from_be_bytes(*backend_port)),
        pick: if binds == 0 { Pick::Free } else { Pick::Binding },
    })
}

fn address(addr: Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr)).to_canonical()
}

/// A ShownClient as the kernel reads it.
fn shown(client: SocketAddr) -> [u8; size_of::<ShownClient>()] {
    let addr = match client.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut value = [0; size_of::<ShownClient>()];
    let bytes = addr.into_iter().chain(client.port().to_be_bytes());
    value.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    value
}

// The bytes above are cut at these offsets.
const _: () = assert!(std::mem::offset_of!(Original, backend) == 16);
const _: () = assert!(std::mem::offset_of!(Original, port) == 32);
const _: () = assert!(std::mem::offset_of!(Original, backend_port) == 34);
const _: () = assert!(std::mem::offset_of!(Original, mode) == 36);
const _: () = assert!(std::mem::offset_of!(Original, binds) == 37);
const _: () = assert!(std::mem::offset_of!(ShownClient, port) == 16);

#[cfg(test)]
pub(crate) mod tests;
