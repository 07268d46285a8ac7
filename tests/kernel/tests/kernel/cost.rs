//! What each program costs on each path, in nanoseconds a run by the kernel's own count. A table for bench/README.md:
//! `cargo test -p millrace-kernel-tests cost -- --nocapture`.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
    time::Duration,
};

use aya::maps::MapData;
use millrace_abi::{DestKind, GuardKind, PodKind, config, map};
use millrace_agent::kernel::{
    Capacities,
    stats::{self, Cost},
};
use millrace_lab::clock;
use millrace_model::NodeProfile;
use socket2::SockRef;

use crate::node::{Family, Node, Pod, heard};

/// Enough for a mean that repeats within a tenth; a batch fits every listener's backlog, and its records fit the ring.
const N_BATCHES: u32 = 8;
const BATCH: u32 = 500;

/// Connects, asks for both names, and resets. What is told meanwhile is thrown away, as an agent's records are taken.
fn connects(node: &Node, client: &Pod, to: SocketAddr, listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    for _ in 0..N_BATCHES {
        node.kernel().records(&mut |_| ());
        client.run(|| {
            for _ in 0..BATCH {
                let stream = TcpStream::connect(to).unwrap();
                stream.peer_addr().unwrap();
                stream.local_addr().unwrap();
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        while listener.accept().is_ok() {}
    }
}

/// What lists sockets, for each that it looks at: by a service, and connected to the backend itself.
fn listing(node: &Node, client: &Pod, server: &Pod) -> String {
    const N: usize = 500;
    const TIMES: u32 = 20;
    let to = ["10.96.0.53:53".parse().unwrap(), server.address(Family::V4, 5353)];
    let open = |to: SocketAddr| {
        let socket = client.udp_for(to);
        client.run(|| socket.connect(to).unwrap());
        socket
    };
    let mut table = String::new();
    for (what, to) in ["listing, by service", "listing, by address"].into_iter().zip(to) {
        let sockets: Vec<_> = (0..N).map(|_| open(to)).collect();
        let list = node.kernel().by_service().unwrap();
        let before = node.kernel().costs().unwrap();
        let began = clock::now();
        client.run(|| (0..TIMES).for_each(|_| drop(list.list().unwrap())));
        let took = began.elapsed() / TIMES;
        let after = node.kernel().costs().unwrap();
        let (Some(before), Some(after)) = (before.last(), after.last()) else { panic!("the last lists") };
        let ns = after.ns_per_run_since(before).unwrap();
        writeln!(table, "{what:<28} {} {ns:.0} ns a socket, {took:?} for {N}", after.program).unwrap();
        drop(sockets);
    }
    table
}

/// Datagrams by one socket and their answers, `N_BATCHES * BATCH` of each: a table as for connections.
fn datagrams(node: &Node, (client, server, outside): (&Pod, &Pod, &Pod)) -> String {
    let _echoes = [server.echo("[::]:5353", b's'), outside.echo("[::]:53", b'o')];
    node.udp_service("10.96.0.53:53", 3, &[(server.v4, 5353)]);
    node.udp_service("[fd96::53]:53", 4, &[(server.v6, 5353)]);
    let paths = [
        ("datagrams by service, IPv4", "10.96.0.53:53".parse().unwrap(), false),
        ("datagrams by service, IPv6", "[fd96::53]:53".parse().unwrap(), false),
        ("datagrams by address, IPv4", server.address(Family::V4, 5353), false),
        ("connected, by service, IPv4", "10.96.0.53:53".parse().unwrap(), true),
        ("datagrams out of the mesh", outside.address(Family::V4, 53), false),
    ];
    let mut table = String::new();
    for (path, to, is_connected) in paths {
        let socket = client.udp_for(to);
        let before = node.kernel().costs().unwrap();
        if is_connected {
            socket.connect(to).unwrap();
        }
        for _ in 0..N_BATCHES * BATCH {
            if is_connected { socket.send(b"who") } else { socket.send_to(b"who", to) }.unwrap();
            assert_eq!(heard(&socket, &mut [0; 64]).1, to);
        }
        let after = node.kernel().costs().unwrap();
        let row = before.iter().zip(&after).filter_map(|(before, after): (&Cost, &Cost)| {
            let ns = after.ns_per_run_since(before)?;
            let runs = f64::from(u32::try_from(after.n_runs - before.n_runs).unwrap()) / f64::from(N_BATCHES * BATCH);
            Some(format!("{} {ns:.0} ns x {runs:.1}", after.program))
        });
        writeln!(table, "{path:<28} {}", row.collect::<Vec<_>>().join(", ")).unwrap();
    }
    table
}

#[test]
fn what_every_program_costs_is_counted() {
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let (server, outside) = (node.pod(), node.stranger());
    node.know(&outside, PodKind::Outside);
    for pod in [&client, &server] {
        node.guard(pod, GuardKind::Own);
    }
    let (application, elsewhere, own) =
        (server.listens("::", 8080), outside.listens("::", 80), client.listens("127.0.0.1", 9000));
    node.remote(9, &["10.88.0.9", "fd88::9"]);
    node.enrol(&server, DestKind::Local, 42);
    node.verdict(&client, 42, 1);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    node.service("[fd96::10]:80", 2, &[(server.v6, 8080)]);
    let paths = [
        ("same node, by service, IPv4", "10.96.0.10:80".parse().unwrap(), &application),
        ("same node, by service, IPv6", "[fd96::10]:80".parse().unwrap(), &application),
        ("same node, by address, IPv4", server.address(Family::V4, 8080), &application),
        ("to the proxy, IPv4", "10.88.0.9:80".parse().unwrap(), &proxy.outbound[0]),
        ("out of the mesh, IPv4", outside.address(Family::V4, 80), &elsewhere),
        ("within the pod, 127.0.0.1", "127.0.0.1:9000".parse().unwrap(), &own),
    ];
    let counting = stats::count().unwrap();
    let mut table = String::new();
    let mut worst: f64 = 0.0;
    for (telling, (path, to, listener)) in [0, config::FLOWS].into_iter().flat_map(|on| paths.map(|path| (on, path))) {
        node.kernel().configure(telling).unwrap();
        let before = node.kernel().costs().unwrap();
        connects(&node, &client, to, listener);
        let after = node.kernel().costs().unwrap();
        let row = before.iter().zip(&after).filter_map(|(before, after): (&Cost, &Cost)| {
            let ns = after.ns_per_run_since(before)?;
            worst = worst.max(ns);
            let runs = f64::from(u32::try_from(after.n_runs - before.n_runs).unwrap()) / f64::from(N_BATCHES * BATCH);
            Some(format!("{} {ns:.0} ns x {runs:.1}", after.program))
        });
        let telling = if telling == 0 { "" } else { "told" };
        writeln!(table, "{path:<28} {telling:<5} {}", row.collect::<Vec<_>>().join(", ")).unwrap();
    }
    table.push_str(&datagrams(&node, (&client, &server, &outside)));
    table.push_str(&listing(&node, &client, &server));
    drop(counting);
    println!("program costs, ns a run x runs a connection ({} connections a path):\n{table}", N_BATCHES * BATCH);
    // Loose on purpose: a machine shared with builds multiplies every figure. The table is what is read.
    assert!(worst < 20_000.0, "{table}");
}

/// MiB that a node's maps take, by the kernel's own count: in all, and of the one that is made whole beforehand.
fn memory(node: &Node) -> (f64, f64) {
    let of = |name: &str| {
        let map = MapData::from_pin(node.pins().join(name)).unwrap();
        let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        line.trim().parse::<f64>().unwrap() / f64::from(1 << 20)
    };
    (map::ALL.into_iter().map(of).sum(), of(map::AFFINITY))
}

/// What room costs that nothing is in: eight times the usual, an eighth, and the usual again.
#[test]
fn what_room_for_entries_costs_is_counted() {
    let mut node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("::", 8080);
    let to = "10.96.0.10:80".parse().unwrap();
    let counting = stats::count().unwrap();
    let mut table = String::new();
    for (what, times, parts) in [("the usual", 1, 1), ("eight times", 8, 1), ("an eighth", 1, 8), ("the usual", 1, 1)] {
        let usual = Capacities::default();
        let maps = Capacities::maps().map(|map| (Arc::from(map), usual.get(map) * times / parts)).collect();
        let room = Capacities::of(Some(&NodeProfile { maps, ..NodeProfile::default() }));
        if room.directory() != node.pins().file_name().unwrap().to_string_lossy() {
            let began = clock::now();
            node.succeed(&room.directory(), room);
            let state = node.kernel().state().unwrap();
            assert!(state.services.is_empty(), "room begins empty: {state:?}");
            node.enrol(&client, DestKind::Local, 0);
            node.enrol(&server, DestKind::Local, 0);
            node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
            node.kernel().take_over().unwrap();
            write!(table, "taken over in {:?}; ", began.elapsed()).unwrap();
        } else {
            node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
        }
        let ((all, affinity), before) = (memory(&node), node.kernel().costs().unwrap());
        connects(&node, &client, to, &listener);
        let after = node.kernel().costs().unwrap();
        let row = before.iter().zip(&after).filter_map(|(before, after): (&Cost, &Cost)| {
            Some(format!("{} {:.0} ns", after.program, after.ns_per_run_since(before)?))
        });
        let row = row.collect::<Vec<_>>().join(", ");
        writeln!(table, "{what:<12} {all:.1} MiB, of it AFFINITY {affinity:.1}; {row}").unwrap();
    }
    drop(counting);
    println!("room of maps, empty:\n{table}");
}
