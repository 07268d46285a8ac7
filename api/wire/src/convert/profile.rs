//! Converts how a node is tuned. A profile belongs to a node, not to a namespace: its key on the wire is the node's name.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::{
    Change, NodeProfile,
    profile::{PodSettings, ProxySettings, WorkloadLimits},
};

use super::{Undecodable, bad, pb};

pub(super) fn to(node: &Arc<str>, profile: &NodeProfile) -> pb::NodeProfile {
    let NodeProfile { name, proxy, pods, maps, limits: of_workloads } = profile;
    let ProxySettings {
        workers,
        cpus,
        stream_window,
        connection_window,
        frame_size,
        send_buffer,
        receive_buffer,
        congestion_control,
    } = proxy;
    let PodSettings { congestion_control: pod_congestion_control, initial_window } = pods;
    pb::NodeProfile {
        node: node.to_string(),
        name: name.to_string(),
        workers: workers.map(u32::from),
        cpus: cpus.iter().copied().map(u32::from).collect(),
        stream_window: *stream_window,
        connection_window: *connection_window,
        frame_size: *frame_size,
        send_buffer: *send_buffer,
        receive_buffer: *receive_buffer,
        proxy_congestion_control: congestion_control.as_ref().map(ToString::to_string),
        pod_congestion_control: pod_congestion_control.as_ref().map(ToString::to_string),
        pod_initial_window: *initial_window,
        maps: maps.iter().map(|(map, entries)| (map.to_string(), *entries)).collect(),
        limits: Some(limits(of_workloads)),
    }
}

pub(super) fn change(
    set: Vec<pb::NodeProfile>,
    gone: Vec<String>,
) -> Result<Change<NodeProfile, Arc<str>>, Undecodable> {
    let set = set.into_iter().map(|profile| from(profile).map(|(node, profile)| (node, Arc::new(profile))));
    Ok(Change { set: set.collect::<Result<_, _>>()?, gone: gone.into_iter().map(Into::into).collect() })
}

fn from(profile: pb::NodeProfile) -> Result<(Arc<str>, NodeProfile), Undecodable> {
    let pb::NodeProfile {
        node,
        name,
        workers,
        cpus,
        stream_window,
        connection_window,
        frame_size,
        send_buffer,
        receive_buffer,
        proxy_congestion_control,
        pod_congestion_control,
        pod_initial_window,
        maps,
        limits,
    } = profile;
    let workers = workers.map(|n| short(n, "profile.workers")).transpose()?;
    let proxy = ProxySettings {
        workers,
        cpus: cpus.into_iter().map(|cpu| short(cpu, "profile.cpus")).collect::<Result<BTreeSet<u16>, _>>()?,
        stream_window,
        connection_window,
        frame_size,
        send_buffer,
        receive_buffer,
        congestion_control: proxy_congestion_control.map(Into::into),
    };
    let pods =
        PodSettings { congestion_control: pod_congestion_control.map(Into::into), initial_window: pod_initial_window };
    let maps = maps.into_iter().map(|(map, entries)| (map.into(), entries)).collect();
    let limits = limits_from(limits.unwrap_or_default());
    Ok((node.into(), NodeProfile { name: name.into(), proxy, pods, maps, limits }))
}

/// The limits of workloads, on the wire.
pub fn limits(limits: &WorkloadLimits) -> pb::WorkloadLimits {
    let WorkloadLimits { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis } =
        limits.clone();
    pb::WorkloadLimits { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis }
}

/// The limits of workloads, off the wire.
pub fn limits_from(limits: pb::WorkloadLimits) -> WorkloadLimits {
    let pb::WorkloadLimits { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis } =
        limits;
    WorkloadLimits { max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis }
}

fn short(number: u32, field: &'static str) -> Result<u16, Undecodable> {
    u16::try_from(number).map_err(|_large| bad(field, format!("{number} is over {}", u16::MAX)))
}
