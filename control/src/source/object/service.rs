//! Reads services.

mod traffic;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use millrace_model::{ObjectName, Traffic};

use super::{addresses, application_port, meta, port, protocol};
use crate::{
    diagnostic::Problems,
    world::{Distribution, Service, ServicePort, TargetPort, Unready},
};

/// Each takes an entry of the kernel's tables for every address, and a slot for every endpoint: with 1,000 of those, half
/// of all slots there are.
const MAX_PORTS: usize = 250;

pub(super) fn service(name: &ObjectName, service: &core::Service, problems: &mut Problems) -> Service {
    meta::check(&service.metadata, problems);
    if service.spec.is_none() {
        problems.fatal("spec", "it is missing", "add a spec with ports and a selector");
    }
    let spec = service.spec.clone().unwrap_or_default();
    let unready = if spec.publish_not_ready_addresses == Some(true) { Unready::Taken } else { Unready::LeftOut };
    let mut service = Service {
        name: name.clone(),
        addresses: Vec::new(),
        ports: Vec::new(),
        selector: None,
        unready,
        traffic: Traffic::default(),
        distribution: Distribution::Even,
    };
    match spec.type_.as_deref() {
        // A name in DNS and nothing else: the mesh sees what it resolves to.
        Some("ExternalName") => return service,
        None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => problems.fatal(
            "spec.type",
            format!("{other:?} is no type of service"),
            "write ClusterIP, NodePort, LoadBalancer or ExternalName",
        ),
    }
    service.addresses = virtual_addresses(&spec, problems);
    service.ports = ports(&spec, problems);
    service.traffic = traffic::traffic(&spec, problems);
    service.distribution = traffic::distribution(&spec, problems);
    service.selector = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
        .map(|selector| meta::labels(Some(selector), "spec.selector", problems));
    service
}

fn virtual_addresses(spec: &core::ServiceSpec, problems: &mut Problems) -> Vec<IpAddr> {
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    let one = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    if let (Some(first), Some(one)) = (list.first(), one)
        && first != one
    {
        problems.fatal(
            "spec.clusterIP",
            format!("{one} is not the first of clusterIPs, {first}"),
            "write the same address in both, or clusterIPs alone",
        );
    }
    if list.iter().any(|ip| ip == "None") || one == Some("None") {
        if list.len() > 1 {
            problems.fatal(
                "spec.clusterIPs",
                "a headless service has no address beside None",
                "write None alone, or the addresses alone",
            );
        }
        return Vec::new();
    }
    if list.is_empty() {
        addresses(one.into_iter().map(|ip| ("spec.clusterIP".to_owned(), ip)), problems)
    } else {
        addresses(list.iter().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip.as_str())), problems)
    }
}

fn ports(spec: &core::ServiceSpec, problems: &mut Problems) -> Vec<ServicePort> {
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        problems.fatal("spec.ports", "a service with an address has at least one port", "add a port");
    }
    if given.len() > MAX_PORTS {
        problems.fatal(
            "spec.ports",
            format!("there are {} ports", given.len()),
            format!("write at most {MAX_PORTS}, and the rest in another service"),
        );
        return Vec::new();
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (index, one) in given.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = one.name.as_deref().unwrap_or_default();
        if name.is_empty() && given.len() > 1 {
            problems.fatal(
                format!("{field}.name"),
                "it is missing, and the service has several ports",
                "give each port a name",
            );
        } else if !name.is_empty() && !meta::is_port_name(name) {
            problems.fatal(
                format!("{field}.name"),
                format!("{name:?} is no port name"),
                "write lower-case letters, digits and '-'",
            );
        } else if !name.is_empty() && !names.insert(name) {
            problems.fatal(
                format!("{field}.name"),
                format!("two ports of the service are named {name:?}"),
                "give each port a name of its own",
            );
        }
        let number = port(one.port, &format!("{field}.port"), problems);
        let transport = protocol(one.protocol.as_deref(), &format!("{field}.protocol"), problems);
        let target = target_port(one, &format!("{field}.targetPort"), problems);
        let (Some(number), Some(transport), Some(target)) = (number, transport, target) else { continue };
        if ports.iter().any(|p| p.port == number && p.protocol == transport) {
            problems.fatal(
                format!("{field}.port"),
                format!("port {number} stands twice with the same protocol"),
                "write each pair of port and protocol once",
            );
            continue;
        }
        let speaks = one.app_protocol.as_deref().map(Arc::from);
        ports.push(ServicePort { port: number, protocol: transport, name: name.into(), target, speaks });
    }
    ports.sort_by_key(|p| (p.port, p.protocol));
    ports
}

fn target_port(one: &core::ServicePort, field: &str, problems: &mut Problems) -> Option<TargetPort> {
    match &one.target_port {
        None => application_port_if_it_is_one(one, field, problems),
        Some(IntOrString::Int(number)) => application_port(*number, field, problems).map(TargetPort::Number),
        Some(IntOrString::String(name)) if meta::is_port_name(name) && name.bytes().any(|b| b.is_ascii_lowercase()) => {
            Some(TargetPort::Name(Arc::from(name.as_str())))
        }
        Some(IntOrString::String(name)) => {
            problems.fatal(
                field,
                format!("{name:?} is neither a port number nor a port's name"),
                "write a number without quotes, or the name of a port of the container",
            );
            None
        }
    }
}

/// Without a targetPort the port itself is meant; a fault of it is told at `port`, once.
fn application_port_if_it_is_one(one: &core::ServicePort, field: &str, problems: &mut Problems) -> Option<TargetPort> {
    match u16::try_from(one.port) {
        Ok(number) if number > 0 => application_port(i32::from(number), field, problems).map(TargetPort::Number),
        Ok(_) | Err(_) => None,
    }
}
