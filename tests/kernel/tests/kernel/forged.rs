//! `forged`: a connection that is under way is made by somebody else, by forged packets, and good for nothing.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use millrace_abi::{Handoff, Reason, Tuple, map};
use millrace_agent::kernel::stats::{self, Cost};
use millrace_lab::frames::{
    Wire,
    hijack::{Plan, Taken, hijack},
    parse,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{Family, Node, PATIENCE, Pod, ip, until};

const DATA: &[u8] = b"GET /secret HTTP/1.0\r\n\r\n";

/// A pod that connects to another, whose packets do not arrive: whoever spoofs ARP is between them. A third is the one who
/// forges.
struct Scene {
    client: Pod,
    server: Pod,
    intruder: Pod,
    listener: TcpListener,
}

impl Scene {
    fn new(node: &Node) -> Self {
        let (client, server, intruder) = (node.pod(), node.pod(), node.pod());
        let listener = server.listens("::", 8080);
        for address in [&server.ip4, &server.ip6] {
            ip(&format!("-n {} neigh add {address} lladdr 02:00:00:00:00:99 dev eth0 nud permanent", client.name()));
        }
        Self { client, server, intruder, listener }
    }

    /// Begins a connect that gets no answer: the socket, and where it connects from.
    fn begins(&self, family: Family) -> (Socket, SocketAddr) {
        let to = self.server.address(family, 8080);
        let socket = self.client.socket(Domain::for_address(to), Protocol::TCP);
        socket.set_nonblocking(true).unwrap();
        let errno = self.client.connect(&socket, to).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EINPROGRESS));
        let from = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, from)
    }

    /// Shakes hands with the server in the client's name.
    fn hijacks(&self, wire: &Wire, victim: SocketAddr, family: Family) -> Taken {
        let target_mac = self.server.run(|| Wire::on("eth0").unwrap().mac);
        let target = self.server.address(family, 8080);
        hijack(wire, &Plan { victim, target, target_mac, sequence: 1000, data: DATA }).unwrap()
    }

    /// What the application accepts.
    fn accepts(&self) -> (TcpStream, SocketAddr) {
        let (stream, from) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, from)
    }

    /// Lets the client's packets arrive.
    fn opens(&self) {
        for address in [&self.server.ip4, &self.server.ip6] {
            ip(&format!("-n {} neigh del {address} dev eth0", self.client.name()));
        }
        // And the server know again who is where.
        ip(&format!("-n {} neigh flush all", self.server.name()));
    }
}

/// What tells a segment of the connection that carries something.
fn carries(frame: &[u8], from: SocketAddr, to: SocketAddr) -> Option<()> {
    let (ends, segment) = parse(frame)?;
    (ends.from == from && ends.to == to && !segment.data.is_empty()).then_some(())
}

#[test]
fn a_connection_forged_in_anothers_name_delivers_no_byte_either_way() {
    let node = Node::new();
    node.record_flows();
    let scene = Scene::new(&node);
    let wire = scene.intruder.run(|| Wire::on("eth0").unwrap());
    let counting = stats::count().unwrap();
    let before = node.kernel().costs().unwrap();
    for (n, family) in [(1, Family::V4), (2, Family::V6)] {
        let (socket, victim) = scene.begins(family);
        assert_eq!(node.handoffs(), 1);
        let taken = scene.hijacks(&wire, victim, family);
        assert!(matches!(taken, Taken::Established(..)), "the packets arrive, and are answered: {taken:?}");
        assert_eq!(node.count(Reason::InForged), n);
        let (mut stream, _) = scene.accepts();
        // What the application writes first, as many protocols have it, does not reach the one who forges.
        let refused = stream.write_all(b"220 welcome\r\n").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
        let target = scene.server.address(family, 8080);
        let heard = wire.hear(Duration::from_millis(300), |frame| carries(frame, target, victim)).unwrap();
        assert_eq!(heard, None, "data of the server's");
        // Nor is it woken by data, ever: the connection ends by itself. (A socket of a SOCKHASH may be woken with EAGAIN then.)
        let ended = stream.read(&mut [0; 64]).unwrap_err();
        assert!(matches!(ended.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{ended}");
        until(|| stream.peer_addr().is_err());
        assert_eq!(stream.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
        assert!(!matches!(stream.read(&mut [0; 64]), Ok(1..)));
        assert_eq!(node.handoffs(), 1, "the record is the true connection's still");
        drop(socket);
        until(|| node.handoffs() == 0);
    }
    let mut told = Vec::new();
    node.kernel().flows(&mut |event| told.extend((event.reason == Reason::InForged as u32).then_some(event.asked)));
    assert_eq!(told, [scene.server.v4, scene.server.v6]);
    let after = node.kernel().costs().unwrap();
    drop(counting);
    let ran = |(before, after): (&Cost, &Cost)| {
        let ns = after.ns_per_run_since(before)?;
        after.program.starts_with("forged").then(|| (after.program, after.n_runs - before.n_runs, ns))
    };
    let ran: Vec<_> = before.iter().zip(&after).filter_map(ran).collect();
    println!("what holds it, runs, ns a run: {ran:?}");
    // What is refused once is refused by the socket from then on.
    assert!(matches!(ran[..], [("forged_in", 2.., _), ("forged_out", 2, _)]), "both hold: {ran:?}");
}

/// The same, where what was written down of the sequence number is wiped: what holds it back is the comparison, and nothing else.
#[test]
fn without_the_comparison_the_application_takes_it_for_the_other_pods() {
    let node = Node::new();
    let scene = Scene::new(&node);
    let wire = scene.intruder.run(|| Wire::on("eth0").unwrap());
    let (_socket, victim) = scene.begins(Family::V4);
    let data = MapData::from_pin(node.pins().join(map::HANDOFFS)).unwrap();
    let mut handoffs: HashMap<_, [u8; size_of::<Tuple>()], [u8; size_of::<Handoff>()]> =
        Map::HashMap(data).try_into().unwrap();
    let (key, mut record) = handoffs.iter().next().unwrap().unwrap();
    record[size_of::<Handoff>() - 4..].copy_from_slice(&[0; 4]);
    handoffs.insert(key, record, 0).unwrap();
    assert!(matches!(scene.hijacks(&wire, victim, Family::V4), Taken::Established(..)));
    let (mut stream, from) = scene.accepts();
    assert_eq!(from.ip().to_canonical(), victim.ip());
    let mut heard = [0; DATA.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!((&heard[..], node.count(Reason::InForged), node.count(Reason::InAttested)), (DATA, 0, 1));
}

/// A low-water mark above what is sent has the kernel wake nobody; the data is not kept for later either.
#[test]
fn a_low_water_mark_keeps_nothing_for_later() {
    let node = Node::new();
    let scene = Scene::new(&node);
    set(&scene.listener, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 4096);
    let wire = scene.intruder.run(|| Wire::on("eth0").unwrap());
    let (_socket, victim) = scene.begins(Family::V4);
    assert!(matches!(scene.hijacks(&wire, victim, Family::V4), Taken::Established(..)));
    let (mut stream, _) = scene.accepts();
    set(&stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 4096);
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let read = stream.read(&mut [0; 64]);
    assert_eq!(read.as_ref().map_err(std::io::Error::kind).err(), Some(ErrorKind::WouldBlock), "{read:?}");
}

#[test]
fn the_true_connection_comes_through_after_the_forged_one() {
    let node = Node::new();
    let scene = Scene::new(&node);
    let wire = scene.intruder.run(|| Wire::on("eth0").unwrap());
    for family in [Family::V4, Family::V6] {
        let (socket, victim) = scene.begins(family);
        assert!(matches!(scene.hijacks(&wire, victim, family), Taken::Established(..)));
        let _forged = scene.accepts();
        scene.opens();
        // Its SYN is sent again within a second.
        let (mut accepted, from) = scene.accepts();
        assert_eq!((from.ip().to_canonical(), from.port()), (victim.ip(), victim.port()));
        socket.set_nonblocking(false).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"true").unwrap();
        let mut heard = [0; 4];
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"true");
        for address in [&scene.server.ip4, &scene.server.ip6] {
            let words = "lladdr 02:00:00:00:00:99 dev eth0 nud permanent";
            ip(&format!("-n {} neigh replace {address} {words}", scene.client.name()));
        }
    }
    assert_eq!((node.count(Reason::InForged), node.handoffs()), (2, 0));
}

fn set(socket: &impl std::os::fd::AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    let first = std::ptr::from_ref(&value).cast();
    #[expect(unsafe_code, reason = "this option has no safe wrapper")]
    // SAFETY: the value has this length and lives until the call is back.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, first, 4) };
    assert_eq!(result, 0);
}

/// A SYN with data has the same number as one without: 16 KiB in it are no forgery.
#[test]
fn fast_open_with_data_is_no_forgery() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    // Both sides, without a cookie.
    server.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "519").unwrap());
    client.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "5").unwrap());
    let listener = server.listens("0.0.0.0", 8080);
    set(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
    let to = server.address(Family::V4, 8080);
    for length in [1, 1000, 16_384] {
        let data = vec![7; length];
        let socket = client.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap());
        let sent = socket.send_to_with_flags(&data, &to.into(), libc::MSG_FASTOPEN).unwrap();
        assert!(sent > 0);
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        accepted.read_exact(&mut vec![0; sent]).unwrap();
    }
    assert_eq!((node.count(Reason::InForged), node.count(Reason::HandoffTaken)), (0, 3));
    let passive = server.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let (names, values): (Vec<&str>, Vec<&str>) =
        passive.lines().filter(|line| line.starts_with("TcpExt")).partition(|l| l.contains("TCPFastOpen"));
    let at = names[0].split(' ').position(|name| name == "TCPFastOpenPassive").unwrap();
    assert_eq!(values[0].split(' ').nth(at), Some("3"), "the SYNs carried data");
}

#[test]
fn a_connection_by_syn_cookies_is_no_forgery() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    server.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap());
    let listener = server.listens("::", 8080);
    for family in Family::ALL {
        let mut stream = client.connects(server.address(family, 8080)).unwrap();
        stream.write_all(b"x").unwrap();
        listener.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    }
    assert_eq!((node.count(Reason::InForged), node.count(Reason::HandoffTaken)), (0, 3));
}
