//! Reads pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use millrace_model::{ObjectName, Protocol, workload::instance};

use super::{addresses, meta, port, protocol};
use crate::{
    diagnostic::Problems,
    world::{Life, Network, Pod},
};

/// On a pod of a directory: the path of its network namespace.
pub const NETNS_ANNOTATION: &str = "millrace.dev/netns";
/// On a pod of a directory that shares its node's network: the path of its cgroup.
const CGROUP_ANNOTATION: &str = "millrace.dev/cgroup";
/// On a pod: its share among a service's endpoints.
pub const WEIGHT_ANNOTATION: &str = "millrace.dev/weight";
/// What a pod without the annotation has.
const DEFAULT_WEIGHT: u32 = 1;
/// Leaves room to add up the weights of 65,536 endpoints in 32 bits.
const MAX_WEIGHT: u32 = 65_535;
/// A path longer than the kernel's PATH_MAX opens nothing.
const MAX_PATH: usize = 4095;

pub(super) fn pod(name: &ObjectName, pod: &core::Pod, problems: &mut Problems) -> Pod {
    let meta = &pod.metadata;
    let labels = meta::labels(meta.labels.as_ref(), "metadata.labels", problems);
    if pod.spec.is_none() {
        problems.fatal("spec", "it is missing", "add a spec with at least nodeName");
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let addresses = pod_addresses(&status, problems);
    let annotations = meta.annotations.as_ref();
    let netns = match spec.host_network {
        Some(true) => path(annotations, (CGROUP_ANNOTATION, "cgroup", "/sys/fs/cgroup/web"), problems),
        Some(false) | None => path(annotations, (NETNS_ANNOTATION, "network namespace", "/run/netns/web"), problems),
    };
    let node = checked_name(spec.node_name.as_deref(), "spec.nodeName", problems);
    let service_account = checked_name(spec.service_account_name.as_deref(), "spec.serviceAccountName", problems)
        .unwrap_or_else(|| "default".into());
    let network = if spec.host_network == Some(true) { Network::Host } else { Network::Own };
    Pod {
        name: name.clone(),
        instance: instance(node.as_deref().unwrap_or_default(), &service_account, netns.as_deref(), &addresses),
        labels,
        service_account,
        node,
        addresses,
        netns,
        network,
        mesh: meta::wish(meta, problems),
        life: life(meta.deletion_timestamp.is_some(), &status, problems),
        made: meta::made(meta),
        ports: named_ports(&spec, problems),
        probe_ports: probe_ports(&spec),
        zone: None,
        weight: weight(meta.annotations.as_ref(), problems),
    }
}

fn pod_addresses(status: &core::PodStatus, problems: &mut Problems) -> Vec<IpAddr> {
    let list = status.pod_ips.as_deref().unwrap_or_default();
    if list.is_empty() {
        let one = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
        return addresses(one.into_iter().map(|ip| ("status.podIP".to_owned(), ip)), problems);
    }
    if let (Some(first), Some(one)) = (list.first(), status.pod_ip.as_deref())
        && !one.is_empty()
        && first.ip != one
    {
        problems.fatal(
            "status.podIP",
            format!("{one} is not the first of podIPs, {}", first.ip),
            "write the same address in both, or podIPs alone",
        );
    }
    addresses(list.iter().enumerate().map(|(i, ip)| (format!("status.podIPs[{i}].ip"), ip.ip.as_str())), problems)
}

/// Where the node finds the pod, by this annotation.
fn path(
    annotations: Option<&BTreeMap<String, String>>,
    (annotation, what, example): (&str, &str, &str),
    problems: &mut Problems,
) -> Option<Arc<str>> {
    let path = annotations?.get(annotation)?;
    if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') || path.split('/').any(|p| p == "..") {
        problems.fatal(
            format!("metadata.annotations.{annotation}"),
            format!("{path:?} is no absolute path of a {what}"),
            format!("write a path such as {example}"),
        );
        return None;
    }
    Some(path.as_str().into())
}

fn weight(annotations: Option<&BTreeMap<String, String>>, problems: &mut Problems) -> u32 {
    let Some(text) = annotations.and_then(|a| a.get(WEIGHT_ANNOTATION)) else { return DEFAULT_WEIGHT };
    match text.parse() {
        Ok(weight) if weight <= MAX_WEIGHT => weight,
        Ok(_) | Err(_) => {
            problems.fatal(
                format!("metadata.annotations.{WEIGHT_ANNOTATION}"),
                format!("{text:?} is no weight"),
                format!("write a whole number from 0 to {MAX_WEIGHT}, in quotes"),
            );
            DEFAULT_WEIGHT
        }
    }
}

fn checked_name(text: Option<&str>, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    let text = text.filter(|text| !text.is_empty())?;
    if !meta::is_dns_subdomain(text) {
        problems.fatal(
            field,
            format!("{text:?} is no object's name"),
            "write lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
        );
        return None;
    }
    Some(text.into())
}

/// How far a pod is, by its phase, its deletionTimestamp and what its status says.
fn life(told_to_go: bool, status: &core::PodStatus, problems: &mut Problems) -> Life {
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => return Life::Ended,
        None | Some("" | "Pending" | "Running" | "Unknown") => {}
        Some(other) => problems.fatal(
            "status.phase",
            format!("{other:?} is no phase of a pod"),
            "write Pending, Running, Succeeded, Failed or Unknown, or leave it out",
        ),
    }
    match (is_ready(status, problems), told_to_go) {
        (true, false) => Life::Ready,
        (false, false) => Life::Unready,
        (true, true) => Life::Leaving,
        (false, true) => Life::Terminating,
    }
}

/// A pod whose status tells no condition at all was written by hand: it is taken for ready. One that tells some, but not
/// `Ready`, is not.
fn is_ready(status: &core::PodStatus, problems: &mut Problems) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let mut ready = conditions.iter().enumerate().filter(|(_, c)| c.type_ == "Ready");
    match (ready.next(), conditions.is_empty()) {
        (None, true) => true,
        (None, false) => false,
        (Some((_, condition)), _) if condition.status == "True" => true,
        (Some((index, condition)), _) => {
            if !matches!(condition.status.as_str(), "False" | "Unknown") {
                problems.fatal(
                    format!("status.conditions[{index}].status"),
                    format!("{:?} is no state of a condition", condition.status),
                    "write \"True\", \"False\" or \"Unknown\", in quotes",
                );
            }
            false
        }
    }
}

/// The ports that probes ask at the pod's own address. One that can't be told opens nothing: the kubelet fails that probe by
/// itself, and says so on the pod.
fn probe_ports(spec: &core::PodSpec) -> BTreeSet<u16> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.flat_map(|container| probes(container).filter_map(|probe| probe_port(container, probe))).collect()
}

fn probes(container: &core::Container) -> impl Iterator<Item = &core::Probe> {
    [&container.liveness_probe, &container.readiness_probe, &container.startup_probe].into_iter().flatten()
}

fn probe_port(container: &core::Container, probe: &core::Probe) -> Option<u16> {
    let is_elsewhere = |host: Option<&String>| host.is_some_and(|host| !host.is_empty());
    let number = if let Some(http) = probe.http_get.as_ref().filter(|http| !is_elsewhere(http.host.as_ref())) {
        number(container, &http.port)?
    } else if let Some(tcp) = probe.tcp_socket.as_ref().filter(|tcp| !is_elsewhere(tcp.host.as_ref())) {
        number(container, &tcp.port)?
    } else {
        probe.grpc.as_ref()?.port
    };
    u16::try_from(number).ok().filter(|port| *port > 0 && !millrace_model::port::is_mesh(*port))
}

/// A name is one of the container's own ports.
fn number(container: &core::Container, port: &IntOrString) -> Option<i32> {
    match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port)
        }
    }
}

fn named_ports(spec: &core::PodSpec, problems: &mut Problems) -> BTreeMap<(Arc<str>, Protocol), u16> {
    let mut named = BTreeMap::new();
    for (c, container) in spec.containers.iter().enumerate() {
        for (p, given) in container.ports.iter().flatten().enumerate() {
            let field = format!("spec.containers[{c}].ports[{p}]");
            let number = port(given.container_port, &format!("{field}.containerPort"), problems);
            let transport = protocol(given.protocol.as_deref(), &format!("{field}.protocol"), problems);
            let Some(name) = given.name.as_deref().filter(|n| !n.is_empty()) else { continue };
            if !meta::is_port_name(name) {
                problems.fatal(
                    format!("{field}.name"),
                    format!("{name:?} is no port name"),
                    "write lower-case letters, digits and '-'",
                );
                continue;
            }
            if let (Some(number), Some(transport)) = (number, transport)
                && named.insert((Arc::from(name), transport), number).is_some_and(|before| before != number)
            {
                problems.fatal(
                    format!("{field}.name"),
                    format!("two ports of the pod are named {name:?}"),
                    "give each port a name of its own",
                );
            }
        }
    }
    named
}
