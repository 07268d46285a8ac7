//! What datagrams take: sockets, a server that answers, services by UDP, and what callers without identity get.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use millrace_abi::{
    Addr, ServiceKey, ServiceValue, SlotKey, SlotValue, Verdict,
    udp::{STRANGER_FIXED_BITS, STRANGER_WHOLE_BITS, Stranger, StrangerKey},
};
use millrace_agent::kernel::Write;
use socket2::{Domain, Socket, Type};

use super::{
    Node, Pod,
    pod::{PATIENCE, bytes},
    service_key,
};

impl Node {
    /// A service by UDP with this table of backends, each a slot of its own.
    pub(crate) fn udp_service(&self, address: &str, table: u32, backends: &[(Addr, u16)]) {
        for (slot, (addr, port)) in (0..).zip(backends) {
            let port = port.to_be_bytes();
            let value = SlotValue { addr: *addr, alias_addr: *addr, port, alias_port: port, threshold: u32::MAX };
            self.write(&Write::SetSlot(SlotKey { table, slot }, value));
        }
        let n_slots = u32::try_from(backends.len()).unwrap();
        let key = ServiceKey { protocol: 17, ..service_key(address) };
        self.write(&Write::SetService(key, ServiceValue { table, n_slots, affinity_s: 0, flags: 0 }));
    }

    /// What who has no identity gets of a group, at every port: by policy 9.
    pub(crate) fn strangers(&self, group: u64, allow: u32) {
        let stranger = Stranger { group: group.to_be_bytes(), port: [0; 2], addr: [0; 16], reserved: [0; 2] };
        let key = StrangerKey { prefix_len: STRANGER_FIXED_BITS, stranger };
        self.write(&Write::SetStranger(key, Verdict { policy: 9, allow, reserved: 0 }));
    }

    /// What this one address gets of a group, at this port.
    pub(crate) fn stranger_at(&self, group: u64, address: &str, port: u16, allow: u32) {
        let addr = bytes(address.parse().unwrap());
        let stranger = Stranger { group: group.to_be_bytes(), port: port.to_be_bytes(), addr, reserved: [0; 2] };
        let key = StrangerKey { prefix_len: STRANGER_WHOLE_BITS, stranger };
        self.write(&Write::SetStranger(key, Verdict { policy: 8, allow, reserved: 0 }));
    }
}

impl Pod {
    /// A datagram socket of the pod's, bound here; dual-stack where the address is IPv6's.
    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.run(|| Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap());
        if address.is_ipv6() {
            socket.set_only_v6(false).unwrap();
        }
        socket.bind(&address.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// A datagram socket that nothing is bound of, for an address of this family.
    pub(crate) fn udp_for(&self, to: SocketAddr) -> UdpSocket {
        let socket = self.run(|| Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// A server that sends back what it hears, its own mark before it.
    pub(crate) fn echo(&self, address: &str, mark: u8) -> Echo {
        Echo::new(self.udp(address), mark)
    }
}

/// A server that answers until it is dropped.
pub(crate) struct Echo {
    is_done: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn new(socket: UdpSocket, mark: u8) -> Self {
        // How long its end may wait: nothing else wakes a receive.
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (is_done, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (done, counted) = (is_done.clone(), heard.clone());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !done.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                let mut answer = vec![mark];
                answer.extend_from_slice(&buffer[..length]);
                // A refused answer is what some tests are about.
                drop(socket.send_to(&answer, from));
            }
        });
        Self { is_done, heard, thread: Some(thread) }
    }

    /// How many datagrams came.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What a socket receives, and from whom. A signal that has nothing to do with it ends a receive with a time limit early.
pub(crate) fn heard(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

/// True where nothing has come by now. What was sent has been judged: delivery within a machine is not put off.
pub(crate) fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let is_silent = loop {
        match socket.recv_from(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        }
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    is_silent
}

/// A UDP header without a checksum, for who sends round the hooks by a raw socket.
pub(crate) fn udp_header(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    packet.extend_from_slice(payload);
    packet
}
