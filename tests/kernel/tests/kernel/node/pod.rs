//! A pod: a namespace with an address of each family, and threads that are its processes.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use millrace_abi::{Addr, Port};
use millrace_agent::kernel::netns_cookie;
use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::ip;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Ways to speak to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// IPv4 over an IPv6 socket.
    Mapped,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The address, as a socket of this family is told it and tells it.
    pub(crate) fn address(self, v4: &str, v6: &str, port: u16) -> SocketAddr {
        let v4: Ipv4Addr = v4.parse().unwrap();
        let ip = match self {
            Self::V4 => IpAddr::V4(v4),
            Self::V6 => IpAddr::V6(v6.parse().unwrap()),
            Self::Mapped => IpAddr::V6(v4.to_ipv6_mapped()),
        };
        SocketAddr::new(ip, port)
    }
}

/// A network namespace with an eth0 on the node's bridge.
pub(crate) struct Pod {
    name: String,
    cgroup: PathBuf,
    pub(crate) netns: File,
    pub(crate) cookie: u64,
    pub(crate) id: u64,
    pub(crate) v4: Addr,
    pub(crate) v6: Addr,
    pub(crate) ip4: String,
    pub(crate) ip6: String,
    is_host: bool,
}

impl Pod {
    pub(super) fn new(node: &str, bridge: &str, cgroup: &Path, n: u32) -> Self {
        let name = format!("{node}-p{n}");
        let (ip4, ip6) = (format!("10.77.0.{n}"), format!("fd77::{n:x}"));
        ip(&format!("netns add {name}"));
        ip(&format!("-n {bridge} link add p{n} type veth peer name eth0 netns {name}"));
        ip(&format!("-n {bridge} link set p{n} master br0 up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} addr add {ip4}/24 dev eth0"));
        ip(&format!("-n {name} addr add {ip6}/64 dev eth0 nodad"));
        ip(&format!("-n {name} route add default via 10.77.0.1"));
        ip(&format!("-n {name} route add default via fd77::1"));
        Self::of(name, cgroup, 1000 + u64::from(n), [ip4, ip6])
    }

    /// The node's own namespace, which is not the pod's to remove.
    pub(super) fn host(bridge: &str, cgroup: &Path) -> Self {
        let mut host = Self::of(bridge.to_owned(), cgroup, 0, ["10.77.0.1".to_owned(), "fd77::1".to_owned()]);
        host.is_host = true;
        host
    }

    fn of(name: String, cgroup: &Path, id: u64, [ip4, ip6]: [String; 2]) -> Self {
        let netns = File::open(format!("/run/netns/{name}")).unwrap();
        let cookie = netns_cookie(netns.as_fd()).unwrap();
        let (v4, v6) = (bytes(ip4.parse().unwrap()), bytes(ip6.parse().unwrap()));
        Self { name, cgroup: cgroup.to_owned(), netns, cookie, id, v4, v6, ip4, ip6, is_host: false }
    }

    /// The name of its namespace.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs this as a process of the pod would.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            fs::write(self.cgroup.join("cgroup.threads"), gettid().as_raw_nonzero().to_string()).unwrap();
            move_into_link_name_space(self.netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// The pod's own address, as a socket of this family has it.
    pub(crate) fn address(&self, family: Family, port: u16) -> SocketAddr {
        family.address(&self.ip4, &self.ip6, port)
    }

    /// An unconnected stream socket of the pod's; what it waits for, it waits for in vain after a while.
    pub(crate) fn socket(&self, domain: Domain, protocol: Protocol) -> Socket {
        let socket = self.run(|| Socket::new(domain, Type::STREAM, Some(protocol)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// An application that listens on every address of the family; dual-stack where it is V6.
    pub(crate) fn listens(&self, address: &str, port: u16) -> TcpListener {
        let ip: IpAddr = address.parse().unwrap();
        let address = SocketAddr::new(ip, port);
        let socket = self.socket(Domain::for_address(address), Protocol::TCP);
        if address.is_ipv6() {
            socket.set_only_v6(false).unwrap();
        }
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(4096).unwrap();
        socket.into()
    }

    /// The listener that all of 127.0.0.0/8 leads to, as the agent opens it.
    pub(crate) fn listens_on_loopback(&self, port: u16) -> TcpListener {
        let socket = self.socket(Domain::IPV4, Protocol::TCP);
        socket.bind_device(Some(b"lo")).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.listen(4096).unwrap();
        socket.into()
    }

    /// Connects as an application of the pod does.
    pub(crate) fn connects(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(Domain::for_address(to), Protocol::TCP);
        self.connect(&socket, to)?;
        Ok(socket.into())
    }

    /// Connects this socket.
    pub(crate) fn connect(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        socket.connect(&SockAddr::from(to))
    }

    /// The errno that a connect fails with.
    pub(crate) fn refused(&self, to: SocketAddr) -> Option<i32> {
        match self.connects(to) {
            Ok(_) => None,
            Err(error) => error.raw_os_error(),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.is_host {
            remove_netns(&self.name);
        }
    }
}

/// Removes a namespace; says so where that fails, as a test that is over cannot.
pub(super) fn remove_netns(name: &str) {
    match Command::new("ip").args(["netns", "del", name]).output() {
        Ok(output) if output.status.success() => {}
        result => eprintln!("{name} stays: {result:?}"),
    }
}

/// An address as the maps have it.
pub(crate) fn bytes(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// A port as the maps have it.
pub(crate) fn port_bytes(port: u16) -> Port {
    port.to_be_bytes()
}

/// An address and port of the maps; v4-mapped addresses as IPv4.
pub(crate) fn socket_addr(addr: &[u8], port: &[u8]) -> SocketAddr {
    let addr: [u8; 16] = addr.try_into().unwrap();
    SocketAddr::new(Ipv6Addr::from(addr).to_canonical(), u16::from_be_bytes(port.try_into().unwrap()))
}
