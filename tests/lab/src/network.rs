//! Lays out the wire, the nodes and the pods of a lab: one `ip -batch` per namespace, all names with the lab's number in them.
//!
//! ```text
//! pod eth0 --- p<n> pods0 (node) eth0 --- u<n> br0 (wire) --- eth0 (node) pods0 p<n> --- eth0 pod
//! ```

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    place,
    plan::{self, Addresses},
    topology::{Pod, Topology},
};

/// Where `ip netns` keeps names of network namespaces.
const NETNS: &str = "/run/netns";

/// Set in every namespace: no duplicate address detection (nobody else is on these links, and it takes a second).
const EVERYWHERE: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// Set in node namespaces: they are routers.
const ON_NODES: [(&str, &str); 2] = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Set in node namespaces once the uplink is there: a pod's source address is believed only where its route leads.
const ON_UPLINKS: [(&str, &str); 1] = [("net/ipv4/conf/eth0/rp_filter", "1")];

/// The link-layer address of every bridge: each is in a namespace of its own.
const BRIDGE: &str = "02:00:00:00:00:01";

/// The path of a lab's network namespace.
pub fn netns(number: u32, name: &str) -> PathBuf {
    Path::new(NETNS).join(netns_name(number, name))
}

fn netns_name(number: u32, name: &str) -> String {
    format!("mr{number}-{}", name.replace('/', "-"))
}

/// Makes all of a lab's network.
pub fn make(number: u32, topology: &Topology) -> Result<()> {
    let name = |of: &str| netns_name(number, of);
    let later: Vec<String> =
        topology.pods.iter().filter(|pod| pod.plan.is_later).map(|pod| pod.plan.name.clone()).collect();
    let all: Vec<&str> = topology.places().filter(|place| !later.iter().any(|pod| pod == place)).collect();
    batch(None, all.iter().map(|of| format!("netns add {}", name(of))))?;
    for of in &all {
        place::inside(&netns(number, of), || set(&EVERYWHERE))??;
    }
    batch(Some(&name("wire")), wire(number, topology))?;
    for node in &topology.nodes {
        let nodes_ns = netns(number, &node.name);
        place::inside(&nodes_ns, || set(&ON_NODES))??;
        batch(Some(&name(&node.name)), node_links(number, node.number, topology))?;
        place::inside(&nodes_ns, || set(&ON_UPLINKS))??;
    }
    for pod in topology.pods.iter().filter(|pod| !pod.plan.host_network && !pod.plan.is_later) {
        batch(Some(&name(&pod.path())), [own_address(pod)].into_iter().chain(pod_links(pod.node, pod.addresses)))?;
    }
    Ok(())
}

/// Makes one pod's namespace, on the node of this name.
pub fn add_pod(number: u32, node: &str, pod: &Pod) -> Result<()> {
    let (nodes, path) = (netns_name(number, node), pod.path());
    batch(None, [format!("netns add {}", netns_name(number, &path))])?;
    place::inside(&netns(number, &path), || set(&EVERYWHERE))??;
    batch(Some(&nodes), pod_port(number, pod))?;
    batch(Some(&netns_name(number, &path)), [own_address(pod)].into_iter().chain(pod_links(pod.node, pod.addresses)))?;
    Ok(())
}

/// A pod's link-layer address. Its successor has the same, so that nobody who knew this one sends past it: runtimes have other ways to that.
fn own_address(pod: &Pod) -> String {
    format!("link set eth0 address 02:00:00:01:{:02x}:{:02x}", pod.node, pod.number)
}

/// Takes one pod's namespace its name away, and nothing more: it goes with the last who is in it or holds a socket of it.
pub fn remove_pod(number: u32, pod: &Pod) -> Result<()> {
    batch(None, [format!("netns del {}", netns_name(number, &pod.path()))])
}

/// The node's ends of its pods' links. A pod's is among them for as long as its namespace is really there.
pub fn pod_ports(number: u32, node: &str) -> Result<Vec<String>> {
    let output =
        Command::new("ip").args(["-n", &netns_name(number, node), "-o", "link", "show", "type", "veth"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    Ok(names.filter(|name| name.starts_with('p')).map(str::to_owned).collect())
}

/// How the names of a lab's namespaces begin.
pub fn prefix(number: u32) -> String {
    format!("mr{number}-")
}

/// The names of all namespaces that have one.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Removes the namespaces whose names begin so, such as a lab's; their links go with them.
pub fn remove(prefix: &str) -> Result<()> {
    batch(None, names().into_iter().filter(|name| name.starts_with(prefix)).map(|name| format!("netns del {name}")))
}

fn wire(number: u32, topology: &Topology) -> Vec<String> {
    let mut lines = bridge("br0", plan::WIRE, 16);
    for node in &topology.nodes {
        let (port, namespace) = (format!("u{}", node.number), netns_name(number, &node.name));
        lines.push(format!("link add {port} type veth peer name eth0 netns {namespace}"));
        lines.push(format!("link set {port} master br0 up"));
        let (range, via) = (plan::pod_addresses(node.number, 0), plan::node_addresses(node.number));
        lines.extend(route(range, via)); // For those who attack pods from outside every node.
    }
    lines
}

fn node_links(number: u32, node: u8, topology: &Topology) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(address("eth0", plan::node_addresses(node), 16));
    lines.extend(bridge("pods0", plan::pod_addresses(node, 0), 24));
    for other in topology.nodes.iter().filter(|other| other.number != node) {
        lines.extend(route(plan::pod_addresses(other.number, 0), plan::node_addresses(other.number)));
    }
    for pod in topology.pods.iter().filter(|pod| pod.node == node && !pod.plan.host_network && !pod.plan.is_later) {
        lines.extend(pod_port(number, pod));
    }
    lines
}

fn pod_port(number: u32, pod: &Pod) -> [String; 2] {
    let (port, namespace) = (format!("p{}", pod.number), netns_name(number, &pod.path()));
    [format!("link add {port} type veth peer name eth0 netns {namespace}"), format!("link set {port} master pods0 up")]
}

fn pod_links(node: u8, addresses: Addresses) -> Vec<String> {
    let gateway = plan::pod_addresses(node, 0);
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    lines.extend(address("eth0", addresses, 24));
    lines.push(format!("route add default via {}", gateway.v4));
    lines.push(format!("route add ::/0 via {}", gateway.v6));
    lines
}

fn bridge(name: &str, addresses: Addresses, v4_bits: u8) -> Vec<String> {
    // Snooping would hold neighbour discovery back until it has seen who listens.
    // With an address of its own: else it takes the lowest of its ports', another one as pods come and go, and those who knew
    // the former are not heard for seconds.
    let mut lines =
        vec![format!("link add {name} address {BRIDGE} type bridge mcast_snooping 0"), format!("link set {name} up")];
    if name == "br0" {
        lines.push("link set lo up".to_owned());
    }
    lines.extend(address(name, addresses, v4_bits));
    lines
}

fn address(device: &str, addresses: Addresses, v4_bits: u8) -> [String; 2] {
    [
        format!("addr add {}/{v4_bits} dev {device}", addresses.v4),
        format!("addr add {}/64 dev {device} nodad", addresses.v6),
    ]
}

fn route(range: Addresses, via: Addresses) -> [String; 2] {
    let [a, b, c, _host] = range.v4.octets();
    let [p, q, ..] = range.v6.segments();
    [format!("route add {a}.{b}.{c}.0/24 via {}", via.v4), format!("route add {p:x}:{q:x}::/64 via {}", via.v6)]
}

fn set(values: &[(&str, &str)]) -> Result<()> {
    for (name, value) in values {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))?;
    }
    Ok(())
}

fn batch(namespace: Option<&str>, lines: impl IntoIterator<Item = String>) -> Result<()> {
    let mut input = String::new();
    for line in lines {
        writeln!(input, "{line}")?;
    }
    if input.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let file = script(&input)?;
    command.args(["-batch", "-"]).stdin(file);
    let output = command.output().context("run ip (package iproute2)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip -batch in {}: {errors}of:\n{input}", namespace.unwrap_or("the host"));
    Ok(())
}

/// A file in memory: a pipe would need someone to fill it while `ip` reads.
fn script(text: &str) -> Result<fs::File> {
    use std::io::{Seek as _, Write as _};
    let mut file = fs::File::from(rustix::fs::memfd_create("batch", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
