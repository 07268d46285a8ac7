//! What each program costs on each path, in nanoseconds a run by the kernel's own count. A table for bench/README.md:
//! `cargo test -p millrace-kernel-tests cost -- --nocapture`.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use millrace_abi::{GuardKind, PodKind, config};
use millrace_agent::kernel::stats::{self, Cost};
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
    node.enrol(&server, millrace_abi::DestKind::Local, 42);
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
    drop(counting);
    println!("program costs, ns a run x runs a connection ({} connections a path):\n{table}", N_BATCHES * BATCH);
    // Loose on purpose: a machine shared with builds multiplies every figure. The table is what is read.
    assert!(worst < 20_000.0, "{table}");
}
