//! Reads what is outside Kubernetes: services, and machines that services select.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_crd as crd;
use millrace_model::{ObjectName, Place, Protocol, Traffic, service::Readiness, workload::instance};

use super::{address, addresses, application_port, meta};
use crate::{
    diagnostic::Problems,
    world::{
        Distribution, Life, Network, Pod, Service, ServicePort, Slice, SliceEndpoint, SlicePort, TargetPort, Unready,
        Wish, external,
    },
};

/// Each takes an entry of the kernel's tables for every address.
const MAX_PORTS: usize = 100;
/// As many as an EndpointSlice has at most.
const MAX_ENDPOINTS: usize = 1_000;
/// A pod's, too.
const MAX_WEIGHT: u32 = 65_535;

pub(super) fn workload(name: &ObjectName, workload: &crd::ExternalWorkload, problems: &mut Problems) -> Pod {
    let crd::ExternalWorkloadSpec { addresses: given, service_account, ports, zone, weight, tunnel } = &workload.spec;
    let labels = meta::labels(workload.metadata.labels.as_ref(), "metadata.labels", problems);
    if given.is_empty() {
        problems.fatal("spec.addresses", "it has none", "write the machine's address");
    }
    let texts = given.iter().enumerate().map(|(at, text)| (format!("spec.addresses[{at}]"), text.as_str()));
    let addresses = addresses(texts, problems);
    if !meta::is_dns_subdomain(service_account) {
        let problem = format!("{service_account:?} is no object's name");
        problems.fatal("spec.serviceAccount", problem, "write lower-case letters, digits, '-' and '.'");
    }
    let weight = weight.unwrap_or(1);
    if weight > MAX_WEIGHT {
        problems.fatal("spec.weight", format!("{weight} is no weight"), "write a whole number from 0 to 65535");
    }
    at_most(MAX_PORTS, ports.len(), "spec.ports", problems);
    let mut named: BTreeMap<(Arc<str>, Protocol), u16> = BTreeMap::new();
    for (at, crd::WorkloadPort { name, port, protocol: own }) in ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        if !meta::is_port_name(name) {
            let problem = format!("{name:?} is no port name");
            problems.fatal(format!("{field}.name"), problem, "write lower-case letters, digits and '-'");
        }
        let number = application_port(i32::from(*port), &format!("{field}.port"), problems);
        if number.is_some_and(|number| named.insert((name.as_str().into(), protocol(*own)), number).is_some()) {
            let problem = format!("two ports are named {name:?}");
            problems.fatal(format!("{field}.name"), problem, "give each port a name of its own");
        }
    }
    Pod {
        name: external::workload_name(name),
        instance: instance("", service_account, None, &addresses),
        labels,
        service_account: service_account.as_str().into(),
        node: Some("".into()),
        addresses,
        netns: None,
        network: Network::Own,
        mesh: Some(match tunnel {
            crd::TunnelMode::Disabled => Wish::Disabled,
            crd::TunnelMode::Enabled => Wish::Enabled,
        }),
        life: Life::Ready,
        made: meta::made(&workload.metadata),
        ports: named,
        probe_ports: BTreeSet::new(),
        zone: self::zone(zone.as_deref(), "spec.zone", problems),
        weight,
    }
}

pub(super) fn service(name: &ObjectName, service: &crd::ExternalService, problems: &mut Problems) -> (Service, Slice) {
    meta::check(&service.metadata, problems);
    let crd::ExternalServiceSpec { addresses: given, ports, endpoints } = &service.spec;
    for (field, is_empty, mend) in [
        ("spec.addresses", given.is_empty(), "write the address that pods call"),
        ("spec.ports", ports.is_empty(), "write the port that pods call"),
        ("spec.endpoints", endpoints.is_empty(), "write the addresses of those who serve: the mesh resolves no name"),
    ] {
        if is_empty {
            problems.fatal(field, "it has none", mend);
        }
    }
    at_most(MAX_PORTS, ports.len(), "spec.ports", problems);
    at_most(MAX_ENDPOINTS, endpoints.len(), "spec.endpoints", problems);
    let texts = given.iter().enumerate().map(|(at, text)| (format!("spec.addresses[{at}]"), text.as_str()));
    let name = external::service_name(name);
    let mut made = Service {
        name: name.clone(),
        addresses: addresses(texts, problems),
        ports: Vec::new(),
        selector: None,
        unready: Unready::LeftOut,
        traffic: Traffic::default(),
        distribution: Distribution::SameZone,
    };
    let mut slice = Slice { service: name, endpoints: Vec::new(), ports: Vec::new() };
    for (at, one) in ports.iter().enumerate().take(MAX_PORTS) {
        port(one, (at, ports.len()), (&mut made, &mut slice), problems);
    }
    made.ports.sort_by_key(|port| (port.port, port.protocol));
    for (at, crd::ExternalEndpoint { address: text, zone }) in endpoints.iter().enumerate().take(MAX_ENDPOINTS) {
        let field = format!("spec.endpoints[{at}]");
        let zone = self::zone(zone.as_deref(), &format!("{field}.zone"), problems);
        let Some(address) = address(text, &format!("{field}.address"), problems) else { continue };
        if made.addresses.contains(&address) {
            let problem = format!("{address} is the service's own address");
            problems.fatal(format!("{field}.address"), problem, "give pods another address to call");
        }
        let (addresses, place) = (vec![address], Place::default());
        slice.endpoints.push(SliceEndpoint { addresses, ready: Readiness::Ready, place, zone, pod: None });
    }
    (made, slice)
}

fn port(
    one: &crd::ExternalPort,
    (at, n_ports): (usize, usize),
    (service, slice): (&mut Service, &mut Slice),
    problems: &mut Problems,
) {
    let crd::ExternalPort { port: number, protocol: own, name, target_port } = one;
    let (field, own) = (format!("spec.ports[{at}]"), protocol(*own));
    let name: Arc<str> = name.as_deref().unwrap_or_default().into();
    if name.is_empty() && n_ports > 1 {
        let problem = "it is missing, and the service has several ports";
        problems.fatal(format!("{field}.name"), problem, "give each port a name");
    } else if !name.is_empty() && !meta::is_port_name(&name) {
        let problem = format!("{name:?} is no port name");
        problems.fatal(format!("{field}.name"), problem, "write lower-case letters, digits and '-'");
    }
    if service.ports.iter().any(|other| other.port == *number && other.protocol == own) {
        let problem = format!("port {number} stands twice with the same protocol");
        problems.fatal(format!("{field}.port"), problem, "write each pair of port and protocol once");
    } else if service.ports.iter().any(|other| other.name == name && n_ports > 1) {
        let problem = format!("two ports of the service are named {name:?}");
        problems.fatal(format!("{field}.name"), problem, "give each port a name of its own");
    }
    let number = super::port(i32::from(*number), &format!("{field}.port"), problems);
    // Nobody's port is the mesh's own outside its pods; a target may be any.
    let target = target_port.map(|target| super::port(i32::from(target), &format!("{field}.targetPort"), problems));
    let (Some(number), Some(target)) = (number, target.unwrap_or(number)) else { return };
    let made = ServicePort {
        port: number,
        protocol: own,
        name: name.clone(),
        target: TargetPort::Number(target),
        speaks: None,
    };
    service.ports.push(made);
    slice.ports.push(SlicePort { name, protocol: own, target });
}

fn protocol(protocol: crd::PortProtocol) -> Protocol {
    match protocol {
        crd::PortProtocol::Tcp => Protocol::Tcp,
        crd::PortProtocol::Udp => Protocol::Udp,
    }
}

fn zone(zone: Option<&str>, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    let named = zone.map(|zone| BTreeMap::from([("zone".to_owned(), zone.to_owned())]));
    meta::labels(named.as_ref(), field, problems);
    zone.filter(|zone| !zone.is_empty()).map(Into::into)
}

fn at_most(most: usize, n: usize, field: &str, problems: &mut Problems) {
    if n > most {
        problems.fatal(field, format!("there are {n}"), format!("write at most {most}"));
    }
}
