//! Gives the dial of an application a source by whom it stands for: `millrace_abi::spread`.
//!
//! From the pod's own address there would be 28,000 connections into one port, of all callers together; and as many in a minute
//! where this end closes first, for what lingers there is not a loopback connection's, which the kernel uses again after a second.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use millrace_abi::spread;
use socket2::SockRef;

/// Binds a socket to the source from which it shall dial for this client. The port is picked as it connects.
pub(super) fn bind(socket: BorrowedFd<'_>, client: SocketAddr, target: SocketAddr) -> io::Result<()> {
    late_port(socket)?;
    SockRef::from(&socket).bind(&SocketAddr::new(source(client, target), 0).into())
}

/// A loopback address of the target's family: one of the client's own where there are many.
fn source(client: SocketAddr, target: SocketAddr) -> IpAddr {
    let v4 = match client.ip() {
        IpAddr::V4(v4) if target.is_ipv4() => spread::dial(&v4.to_ipv6_mapped().octets(), client.port().to_be_bytes()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    v4.map_or(Ipv6Addr::LOCALHOST.into(), |addr| IpAddr::from(addr).to_canonical())
}

/// Has bind(2) leave the port to connect(2), which knows the target: else a port would be one connection's, whatever the target.
#[expect(unsafe_code, reason = "the option has no safe wrapper")]
fn late_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, option) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the value has this length, lives until the call is back, and is only read.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{SocketAddr, TcpListener},
        os::fd::AsFd as _,
    };

    use socket2::{Domain, Socket, Type};

    use super::{bind, source};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn two_clients_are_dialled_for_from_different_sources() {
        let target = at("10.0.0.9:80");
        let of = |client: &str| source(at(client), target);
        assert!(of("10.0.0.1:40000").is_loopback() && of("10.0.0.1:40000").is_ipv4());
        assert_ne!(of("10.0.0.1:40000"), of("10.0.0.2:40000"));
        assert_ne!(of("10.0.0.1:40000"), of("10.0.0.1:40001"));
        assert_eq!(source(at("[fd00::1]:4"), at("[fd00::9]:80")), at("[::1]:0").ip());
        assert_eq!(source(at("10.0.0.1:4"), at("[fd00::9]:80")), at("[::1]:0").ip());
    }

    /// A port that is picked as the socket connects may be another's too, towards another target.
    #[test]
    fn a_source_has_a_port_for_each_target() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let client = at("10.0.0.1:40000");
        let mut ports = BTreeSet::new();
        let open: Vec<Socket> = (0..2000)
            .flat_map(|_| &listeners)
            .map(|listener| {
                let target = listener.local_addr().unwrap();
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                bind(socket.as_fd(), client, target).unwrap();
                assert_eq!(socket.local_addr().unwrap().as_socket().unwrap().port(), 0);
                socket.connect(&target.into()).unwrap();
                listener.accept().unwrap();
                ports.insert(socket.local_addr().unwrap().as_socket().unwrap().port());
                socket
            })
            .collect();
        assert!(ports.len() < open.len(), "no port of {} serves both targets", ports.len());
    }
}
