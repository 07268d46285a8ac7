//! Makes the network between a cluster's nodes: a namespace with a bridge, where the control plane's programs run, and one for each
//! node. Nothing of it is in the machine's own network but the API server's port on loopback, which `relay` listens on.

use std::{
    fs::File,
    io,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::place::Place;
use crate::console;

/// The control plane's address on the wire.
pub(super) const CONTROL: &str = "10.250.0.1";
/// Where the kernel keeps namespaces with names.
const NAMESPACES: &str = "/run/netns";
/// Connections that a relay passes on at once: kubectl, tests' clients and watches are dozens.
const MAX_RELAYED: usize = 512;

/// The namespace of the wire.
pub(super) fn namespace(place: &Place) -> String {
    format!("k8s-{}", place.name())
}

/// The namespace of a node.
pub(super) fn of_node(place: &Place, node: u8) -> String {
    format!("k8s-{}-node-{node}", place.name())
}

/// A node's address on the wire.
pub(super) fn address(node: u8) -> String {
    format!("10.250.0.{}", 10 + u32::from(node))
}

/// The addresses of a node's pods.
pub(super) fn pods(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// Where a namespace is.
pub(super) fn path(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// Makes what is missing of it.
pub(super) fn up(place: &Place, n_nodes: u8) -> Result<()> {
    let wire = namespace(place);
    if !path(&wire).exists() {
        ip(&format!("netns add {wire}"))?;
        ip(&format!("-n {wire} link set lo up"))?;
        // With an address of its own: else it takes the lowest of its ports', which change as nodes come.
        ip(&format!("-n {wire} link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 0"))?;
        ip(&format!("-n {wire} addr add {CONTROL}/24 dev br0"))?;
        ip(&format!("-n {wire} link set br0 up"))?;
        forward(&wire)?;
    }
    for node in 1..=n_nodes {
        let name = of_node(place, node);
        if path(&name).exists() {
            continue;
        }
        let (own, pods) = (address(node), pods(node));
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {wire} link add node-{node} type veth peer name eth0 netns {name}"))?;
        ip(&format!("-n {wire} link set node-{node} master br0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} addr add {own}/24 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        // Everything that is on no wire of the cluster ends there: a cluster has no way out.
        ip(&format!("-n {name} route add default via {CONTROL}"))?;
        ip(&format!("-n {wire} route add {pods} via {own}"))?;
        forward(&name)?;
    }
    Ok(())
}

fn forward(namespace: &str) -> Result<()> {
    let mut set = Command::new("nsenter");
    set.arg(format!("--net={}", path(namespace).display()));
    console::run(set.args(["sysctl", "-qw", "net.ipv4.ip_forward=1"]))
}

/// Removes it; what still runs in it lives on in namespaces without names, so it ends first.
pub(super) fn down(place: &Place) -> Result<()> {
    let wire = namespace(place);
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == wire || name.strip_prefix(&wire).is_some_and(|rest| rest.starts_with("-node-")) {
            ip(&format!("netns del {name}"))?;
        }
    }
    Ok(())
}

fn ip(words: &str) -> Result<()> {
    console::run(Command::new("ip").args(words.split(' ')))
}

/// Listens on the machine's loopback, and passes what comes to the same port of the wire, until the process is ended.
pub(super) fn relay(place: &Place, port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let wire = path(&namespace(place));
    let wire = File::open(&wire).with_context(|| format!("{}", wire.display()))?;
    // The listener stays where it was made; threads that begin from here on are in the wire's namespace.
    move_into_link_name_space(wire.as_fd(), Some(LinkNameSpaceType::Network))?;
    let n_open = Arc::new(AtomicUsize::new(0));
    loop {
        let (client, _) = listener.accept()?;
        if n_open.fetch_add(1, Ordering::Relaxed) >= MAX_RELAYED {
            n_open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let n_open = n_open.clone();
        thread::spawn(move || {
            // Whoever is cut off tries again, as it would with a server that is away.
            drop(pass(&client, port));
            n_open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn pass(client: &TcpStream, port: u16) -> io::Result<()> {
    let server = TcpStream::connect((CONTROL, port))?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        let there = scope.spawn(|| copy(client, &server));
        let back = copy(&server, client);
        there.join().map_err(|_panicked| io::Error::other("a relay's thread panicked"))?.and(back)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    // Half a connection may end before the other; a fault ends both.
    let end = if copied.is_ok() { Shutdown::Write } else { Shutdown::Both };
    drop(to.shutdown(end));
    copied.map(|_bytes| ())
}
