//! The proxy, as the kernel sees it: listeners in a pod's namespace, exempt sockets, and the two maps it is given.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd},
};

use aya::maps::{Map, MapData, SkStorage};
use millrace_abi::{ListenerKey, ListenerKind};
use socket2::{Domain, Protocol, Socket};

use super::{Family, Node, Pod, bytes, exempt, port_bytes, socket_addr};

/// What ORIGINAL says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) addr: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) mode: u8,
    pub(crate) binds: bool,
}

/// What the proxy holds of a pod.
pub(crate) struct Proxy {
    pub(crate) outbound: [TcpListener; 2],
    pub(crate) plaintext: [TcpListener; 2],
    pub(crate) tunnel: [TcpListener; 2],
    original: SkStorage<MapData, [u8; 40]>,
    client: SkStorage<MapData, [u8; 20]>,
}

impl Proxy {
    /// Opens the listeners and has what arrives steered to them.
    pub(crate) fn new(node: &Node, pod: &Pod) -> Self {
        let pair = |port| [pod.listens("127.0.0.1", port), pod.listens("::1", port)];
        let (plaintext, tunnel) = (pair(15806), pair(15008));
        let outbound = [pod.listens_on_loopback(15801), pod.listens("::1", 15801)];
        let mut kernel = node.kernel();
        for (kind, [v4, v6]) in [(ListenerKind::Plaintext, &plaintext), (ListenerKind::Tunnel, &tunnel)] {
            let key = |addr| ListenerKey { addr, kind: kind as u32 };
            kernel.set_listener(key(pod.v4), v4.as_fd()).unwrap();
            kernel.set_listener(key(pod.v6), v6.as_fd()).unwrap();
        }
        let (original, client) = kernel.proxy_maps().unwrap();
        let storage = |fd| Map::SkStorage(MapData::from_fd(fd).unwrap());
        Self {
            outbound,
            plaintext,
            tunnel,
            original: SkStorage::try_from(storage(original)).unwrap(),
            client: SkStorage::try_from(storage(client)).unwrap(),
        }
    }

    /// The listener of a pair that takes this family.
    pub(crate) fn of(pair: &[TcpListener; 2], family: Family) -> &TcpListener {
        &pair[usize::from(family == Family::V6)]
    }

    /// What was asked for, by the socket; None where nothing is known.
    pub(crate) fn asked(&self, socket: &impl AsRawFd) -> Option<Asked> {
        let value = self.original.get(socket, 0).ok()?;
        Some(Asked {
            addr: socket_addr(&value[..16], &value[32..34]),
            backend: socket_addr(&value[16..32], &value[34..36]),
            mode: value[36],
            binds: value[37] == 1,
        })
    }

    /// Tries to write what was asked for, which the kernel must refuse.
    pub(crate) fn forge(&mut self, socket: &impl AsRawFd) -> bool {
        self.original.insert(socket, [1; 40], 0).is_ok()
    }

    /// Dials an application of the pod on behalf of a client.
    pub(crate) fn dial(&mut self, node: &Node, pod: &Pod, to: SocketAddr, client: SocketAddr) -> TcpStream {
        let socket = self.exempt_socket(node, pod, to, Some(client));
        pod.connect(&socket, to).unwrap();
        socket.into()
    }

    /// A socket of the pod's stock, and the client it stands for.
    pub(crate) fn exempt_socket(
        &mut self,
        node: &Node,
        pod: &Pod,
        to: SocketAddr,
        client: Option<SocketAddr>,
    ) -> Socket {
        let socket = pod.socket(Domain::for_address(to), Protocol::TCP);
        exempt(node, socket.as_fd());
        if let Some(client) = client {
            let mut value = [0; 20];
            value[..16].copy_from_slice(&bytes(client.ip()));
            value[16..18].copy_from_slice(&port_bytes(client.port()));
            self.client.insert(&socket, value, 0).unwrap();
        }
        socket
    }
}
