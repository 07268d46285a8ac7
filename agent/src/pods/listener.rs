//! Makes the sockets of a pod: the listeners its connections are sent to, and unconnected ones for a proxy's dials.
//! All of it runs inside the pod's namespace, or on a socket that somebody brought.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use millrace_model::{Workload, port};
use millrace_node::wire::node::{Family, ListenerKind};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::netns_cookie;

/// Connections that wait to be accepted, while a proxy is replaced say; the namespace's somaxconn bounds it further.
const BACKLOG: i32 = 16_384;

/// The kinds of listeners.
pub const KINDS: [ListenerKind; 6] = [
    ListenerKind::OutboundV4,
    ListenerKind::PlaintextV4,
    ListenerKind::TunnelV4,
    ListenerKind::OutboundV6,
    ListenerKind::PlaintextV6,
    ListenerKind::TunnelV6,
];

/// The kinds that a workload needs: those of each family that it has an address of.
pub fn kinds(workload: &Workload) -> impl Iterator<Item = ListenerKind> {
    let [v4, v6] = [
        workload.addresses.iter().any(std::net::IpAddr::is_ipv4),
        workload.addresses.iter().any(std::net::IpAddr::is_ipv6),
    ];
    KINDS.into_iter().filter(move |kind| address(*kind).is_some_and(|a| if a.is_ipv4() { v4 } else { v6 }))
}

/// The loopback device. One renamed by its pod leaves the pod pending, and nobody else.
const LOOPBACK: &[u8] = b"lo";

/// Whether a listener takes what comes by the loopback device alone: the one that all of 127.0.0.0/8 leads to, which has no
/// address of its own to keep others out by.
fn is_bound_to_loopback(kind: ListenerKind) -> bool {
    kind == ListenerKind::OutboundV4
}

/// Whether what is accepted is reset however it is closed, until its proxy says that it has ended in order: an application's own connections
/// are, a tunnel is not.
fn is_reset_until_it_ends(kind: ListenerKind) -> bool {
    match kind {
        ListenerKind::OutboundV4 | ListenerKind::OutboundV6 | ListenerKind::PlaintextV4 | ListenerKind::PlaintextV6 => {
            true
        }
        ListenerKind::TunnelV4 | ListenerKind::TunnelV6 | ListenerKind::Unspecified => false,
    }
}

/// Where a listener of this kind listens: on loopback alone, so that nothing from outside reaches it unsteered. The outbound one
/// listens on every address of the loopback device, as captured connections are spread over them.
pub fn address(kind: ListenerKind) -> Option<SocketAddr> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    match kind {
        ListenerKind::Unspecified => None,
        ListenerKind::OutboundV4 => Some((Ipv4Addr::UNSPECIFIED, port::OUTBOUND).into()),
        ListenerKind::OutboundV6 => Some((v6, port::OUTBOUND).into()),
        ListenerKind::PlaintextV4 => Some((v4, port::PLAINTEXT).into()),
        ListenerKind::PlaintextV6 => Some((v6, port::PLAINTEXT).into()),
        ListenerKind::TunnelV4 => Some((v4, port::TUNNEL).into()),
        ListenerKind::TunnelV6 => Some((v6, port::TUNNEL).into()),
    }
}

/// Its name on status.
pub fn name(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Unspecified => "unspecified",
        ListenerKind::OutboundV4 => "outbound_v4",
        ListenerKind::OutboundV6 => "outbound_v6",
        ListenerKind::PlaintextV4 => "plaintext_v4",
        ListenerKind::PlaintextV6 => "plaintext_v6",
        ListenerKind::TunnelV4 => "tunnel_v4",
        ListenerKind::TunnelV6 => "tunnel_v6",
    }
}

/// A listener of this kind, in the namespace that the calling thread is in.
pub fn open(kind: ListenerKind) -> io::Result<OwnedFd> {
    let at = address(kind).ok_or(io::ErrorKind::InvalidInput)?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if is_bound_to_loopback(kind) {
        socket.bind_device(Some(LOOPBACK))?;
    }
    // Lets connections of a listener that is gone linger; another socket that listens there is an error all the same.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    // Before the first connection: each has its listener's options.
    socket.set_tcp_nodelay(true)?;
    if is_reset_until_it_ends(kind) {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// An unconnected socket for a proxy's dial, in the namespace that the calling thread is in.
pub fn unconnected(family: Family) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
        Family::Unspecified => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?.into())
}

/// The cookie of the namespace that the calling thread is in.
pub fn cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    netns_cookie(socket.as_fd())
}

/// Whether a socket that was brought back is what it is said to be: a TCP listener of this kind, in this namespace.
/// A proxy parses hostile bytes; what it says of a descriptor is not believed.
pub fn check(socket: BorrowedFd<'_>, kind: ListenerKind, cookie: u64) -> Result<(), String> {
    let unreadable = |why: rustix::io::Errno| format!("it is no socket: {why}");
    if !sockopt::socket_acceptconn(socket).map_err(unreadable)? {
        return Err("it does not listen".to_owned());
    }
    if sockopt::socket_type(socket).map_err(unreadable)? != rustix::net::SocketType::STREAM {
        return Err("it is no TCP socket".to_owned());
    }
    let there = netns_cookie(socket).map_err(|why| format!("its namespace is unknown: {why}"))?;
    if there != cookie {
        return Err("it is in another namespace".to_owned());
    }
    let device = socket2::SockRef::from(&socket).device().map_err(|why| format!("its device is unknown: {why}"))?;
    if is_bound_to_loopback(kind) && device.as_deref() != Some(LOOPBACK) {
        return Err("it is not bound to loopback".to_owned());
    }
    let at = rustix::net::getsockname(socket).map_err(unreadable)?;
    let at = SocketAddr::try_from(at).map_err(|why| format!("it has no address: {why}"))?;
    if Some(at) == address(kind) { Ok(()) } else { Err(format!("it listens on {at}")) }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd as _};

    use millrace_model::{Encryption, Identity, Membership, ObjectName, Workload};
    use millrace_node::wire::node::ListenerKind;

    use super::{check, cookie, kinds, name};

    fn pod(addresses: &[&str]) -> Workload {
        Workload {
            name: ObjectName::new("shop", "web"),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "web"),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            node: "a".into(),
            zone: None,
            netns: None,
            membership: Membership::Enrolled,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        }
    }

    #[test]
    fn a_pod_has_three_listeners_of_each_family_it_has() {
        let names = |addresses: &[&str]| kinds(&pod(addresses)).map(name).collect::<Vec<_>>().join(" ");
        assert_eq!(names(&["10.0.0.1"]), "outbound_v4 plaintext_v4 tunnel_v4");
        assert_eq!(names(&["fd00::1"]), "outbound_v6 plaintext_v6 tunnel_v6");
        assert_eq!(kinds(&pod(&["10.0.0.1", "fd00::1"])).count(), 6);
        assert_eq!(kinds(&pod(&[])).count(), 0);
    }

    #[test]
    fn a_socket_that_is_not_the_listener_it_is_said_to_be_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = cookie().unwrap();
        let kind = ListenerKind::TunnelV4;
        assert!(check(listener.as_fd(), kind, here).unwrap_err().starts_with("it listens on"));
        assert_eq!(check(listener.as_fd(), kind, here + 1).unwrap_err(), "it is in another namespace");
        assert_eq!(check(listener.as_fd(), ListenerKind::OutboundV4, here).unwrap_err(), "it is not bound to loopback");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(check(udp.as_fd(), kind, here).unwrap_err(), "it does not listen");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(check(file.as_fd(), kind, here).unwrap_err().starts_with("it is no socket"));
    }
}
