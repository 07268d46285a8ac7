//! Says how the node stands, for people and programs: `/status`, `/config`, readiness.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use millrace_model::{Membership, UdpMode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    certificates::Certificates,
    config::{Config, Switch},
    control::Connected,
    pods::{Pod, hosts::Host, listener},
    proxy::Peer,
    tuning::Tuned,
};

/// How the node stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The generation of the Snapshot held.
    pub generation: u64,
    /// Whether the control plane is there.
    pub control: Control,
    /// The proxy that serves, if one does.
    pub proxy: Option<Proxy>,
    /// This node's workloads that are, or shall be, in the mesh.
    pub workloads: Vec<Workload>,
    /// Endpoints that this node leaves out of their services because connections to them fail.
    pub ejected: Vec<Ejected>,
    /// How full the kernel's maps are.
    pub maps: Vec<Usage>,
    /// What could not be enforced.
    pub failures: Vec<String>,
    /// How the node is tuned.
    pub tuning: Tuned,
}

/// Whether the control plane is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Control {
    /// It is.
    pub connected: bool,
    /// For how many seconds this has been so.
    pub since_s: u64,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proxy {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it serves by.
    pub generation: u64,
    /// True: one that is not connected is not listed.
    pub connected: bool,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Its namespace and name.
    pub name: String,
    /// Who it is.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// By what the kernel knows its namespace.
    pub netns_cookie: Option<u64>,
    /// Its listeners.
    pub listeners: Vec<&'static str>,
    /// `captured`, or `pending: ` and why.
    pub state: String,
    /// Why it can send in others' names; None: it can't.
    pub unguarded: Option<String>,
    /// Whether it takes datagrams from where nobody is attested, `Allow` or `Deny`.
    pub udp: &'static str,
    /// For how many seconds its certificate holds; None where it has none.
    pub certificate_expires_s: Option<u64>,
}

/// An endpoint that is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ejected {
    /// The service's namespace and name.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The workload there, where it is one.
    pub workload: Option<String>,
    /// How connections failed.
    pub cause: &'static str,
    /// How many in a row.
    pub failures: u32,
    /// How often in a row it was left out.
    pub times: u32,
    /// For how many seconds it has been.
    pub since_s: u64,
    /// In how many it returns.
    pub returns_in_s: u64,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Its name.
    pub map: &'static str,
    /// Its entries.
    pub entries: u64,
    /// How many it can hold.
    pub capacity: u32,
}

impl Control {
    /// As it stands at `now`, from the Unix epoch.
    pub fn at(connected: Connected, now: Duration) -> Self {
        let Connected { connected, since } = connected;
        Self { connected, since_s: now.saturating_sub(since).as_secs() }
    }
}

impl Proxy {
    /// One that is connected.
    pub fn of(peer: &Peer) -> Self {
        let (name, version) = (peer.name.clone(), peer.version.clone());
        Self { name, version, generation: peer.applied, connected: true }
    }
}

impl Workload {
    /// A pod of this node, which the kernel's tables name as a caller or not yet; None for one outside the mesh.
    pub fn of(pod: &Pod, is_named: bool, keys: &Certificates, now: SystemTime) -> Option<Self> {
        let workload = &pod.workload;
        if workload.membership == Membership::Outside {
            return None;
        }
        let expires = keys.get(&workload.identity).map(|issued| issued.not_after.duration_since(now));
        Some(Self {
            name: workload.name.to_string(),
            identity: workload.identity.to_string(),
            addresses: workload.addresses.clone(),
            netns_cookie: pod.found.as_ref().map(|found| found.cookie),
            listeners: pod.listeners.keys().map(|kind| listener::name(*kind)).collect(),
            state: match &pod.pending {
                Some(why) => format!("pending: {why}"),
                // What it calls would be refused: its namespace is nobody's there.
                None if !is_named => "pending: the kernel's tables don't name it yet".to_owned(),
                None => "captured".to_owned(),
            },
            unguarded: pod.unguarded.clone(),
            udp: udp(workload.encryption.udp),
            certificate_expires_s: expires.map(|left| left.map_or(0, |left| left.as_secs())),
        })
    }
}

impl Workload {
    /// A pod of the mesh that shares the node's network; None for one outside the mesh.
    pub fn in_hosts_network(host: &Host) -> Option<Self> {
        let Host { workload, key, path: _ } = host;
        if workload.membership != Membership::Host {
            return None;
        }
        Some(Self {
            name: workload.name.to_string(),
            identity: workload.identity.to_string(),
            addresses: workload.addresses.clone(),
            netns_cookie: None,
            listeners: Vec::new(),
            state: key.as_ref().map_or_else(|why| format!("pending: {why}"), |_| "captured".to_owned()),
            unguarded: None,
            udp: udp(UdpMode::Allow), // Its address is its node's: nobody judges there.
            certificate_expires_s: None,
        })
    }
}

fn udp(mode: UdpMode) -> &'static str {
    match mode {
        UdpMode::Allow => "Allow",
        UdpMode::Deny => "Deny",
    }
}

/// Why the node is not ready, a sentence each; empty: it is.
pub fn unready(generation: u64, proxy: Option<&Proxy>) -> Vec<String> {
    let mut reasons = Vec::new();
    if generation == 0 {
        reasons.push("no snapshot has been applied".to_owned());
    }
    match proxy {
        None => reasons.push("no proxy is connected".to_owned()),
        Some(proxy) if proxy.generation == 0 => reasons.push("the proxy serves by no snapshot yet".to_owned()),
        Some(_) => {}
    }
    reasons
}

/// What the agent works by, beside the Snapshot: its settings. No secret is in either.
pub fn config(config: &Config) -> Value {
    let Config {
        node,
        control,
        join_token_file,
        roots_file,
        run_dir,
        state_dir,
        place,
        proxy_user,
        kubelet,
        flows,
        anti_spoofing,
        kernel_log,
        force_missing,
    } = config;
    let on = |switch: &Switch| *switch == Switch::On;
    json!({
        "node": node,
        "control": format!("{}:{}", control.host, control.port),
        "join_token_file": join_token_file,
        "roots_file": roots_file,
        "run_dir": run_dir,
        "state_dir": state_dir,
        "pins": place.pins,
        "cgroup": place.cgroup,
        "proxy_user": { "uid": proxy_user.uid, "gid": proxy_user.gid },
        "proc": kubelet.proc,
        "pod_logs": kubelet.logs,
        "flows": on(flows),
        "anti_spoofing": on(anti_spoofing),
        "kernel_log": on(kernel_log),
        "force_missing": force_missing,
    })
}
