//! Says how one node is tuned: what a NodeProfile asks of its proxy, its kernel programs and its maps. Speed and room, never
//! meaning: no field of it changes who may call whom.
//!
//! A field that is None asks for nothing: whoever would apply it keeps its own default.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// What one node is asked for. It comes from one NodeProfile, whole: profiles are never merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProfile {
    /// The NodeProfile's name.
    pub name: Arc<str>,
    /// What is asked of the proxy.
    pub proxy: ProxySettings,
    /// What is asked for the pods' own connections.
    pub pods: PodSettings,
    /// Entries of kernel maps, by the map's name.
    pub maps: BTreeMap<Arc<str>, u32>,
    /// What one workload may take of the shared proxy.
    pub limits: WorkloadLimits,
}

/// What is asked of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxySettings {
    /// Threads that carry connections.
    pub workers: Option<u16>,
    /// Processors that they run on, in turn; empty: wherever the kernel puts them.
    pub cpus: BTreeSet<u16>,
    /// What one HTTP/2 stream may have under way, in bytes.
    pub stream_window: Option<u32>,
    /// What all streams of a tunnel may have under way, in bytes.
    pub connection_window: Option<u32>,
    /// The largest HTTP/2 frame taken, in bytes.
    pub frame_size: Option<u32>,
    /// A tunnel socket's send buffer, in bytes.
    pub send_buffer: Option<u32>,
    /// A tunnel socket's receive buffer, in bytes.
    pub receive_buffer: Option<u32>,
    /// The congestion control of tunnels.
    pub congestion_control: Option<Arc<str>>,
}

/// What is asked for the connections that pods of the mesh make and take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSettings {
    /// Their congestion control.
    pub congestion_control: Option<Arc<str>>,
    /// Segments sent before the first acknowledgement.
    pub initial_window: Option<u32>,
}

/// What one workload may take of the shared proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadLimits {
    /// Connections carried at once.
    pub max_connections: Option<u32>,
    /// Connections whose opening is under way: handshakes, dials.
    pub max_pending_connections: Option<u32>,
    /// Bytes that wait in the proxy for somebody to read them.
    pub max_buffered_bytes: Option<u64>,
    /// Its part of the proxy's time beside others', where all want more than there is.
    pub share_weight: Option<u32>,
    /// Thousandths of a processor that the proxy spends on it at most, whoever else wants them.
    pub cpu_millis: Option<u32>,
}

/// Thousandths of a processor as Kubernetes writes them: `2`, `250m`.
pub fn cpu_quantity(millis: u32) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// Processors as the kernel lists them, such as `0-3,8`.
pub fn cpu_list(cpus: impl IntoIterator<Item = usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            Some(_) | None => ranges.push((cpu, cpu)),
        }
    }
    let written = ranges.into_iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    written.collect::<Vec<_>>().join(",")
}
