//! Reads EndpointSlices.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use millrace_model::{ObjectName, Place, service::Readiness};

use super::{address, application_port, meta, named, protocol};
use crate::{
    diagnostic::Problems,
    world::{Slice, SliceEndpoint, SlicePort},
};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Kubernetes' own bound (EndpointSlice in its API).
const MAX_ENDPOINTS: usize = 1_000;
/// Kubernetes' own bound.
const MAX_PORTS: usize = 100;
/// Kubernetes' own bound.
const MAX_ADDRESSES: usize = 100;

pub(super) fn slice(name: &ObjectName, slice: &discovery::EndpointSlice, problems: &mut Problems) -> Slice {
    let labels = meta::labels(slice.metadata.labels.as_ref(), "metadata.labels", problems);
    let service = labels.get(SERVICE_LABEL).filter(|s| !s.is_empty());
    if service.is_none() {
        problems.fatal(
            format!("metadata.labels.{SERVICE_LABEL}"),
            "it is missing, so no service owns these endpoints",
            format!("add the label {SERVICE_LABEL} with the service's name"),
        );
    }
    let family = match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => {
            problems.fatal(
                "addressType",
                "the mesh dials addresses, not names",
                "write IPv4 or IPv6 and the addresses",
            );
            None
        }
        other => {
            problems.fatal("addressType", format!("{other:?} is not one of its values"), "write IPv4 or IPv6");
            None
        }
    };
    at_most(MAX_ENDPOINTS, slice.endpoints.len(), "endpoints", problems);
    at_most(MAX_PORTS, slice.ports.as_deref().unwrap_or_default().len(), "ports", problems);
    Slice {
        service: named(&name.namespace, service.map(String::as_str).unwrap_or_default()),
        endpoints: slice
            .endpoints
            .iter()
            .take(MAX_ENDPOINTS)
            .enumerate()
            .map(|(i, endpoint)| one(&name.namespace, endpoint, &format!("endpoints[{i}]"), family, problems))
            .collect(),
        ports: ports(slice.ports.as_deref().unwrap_or_default(), problems),
    }
}

fn at_most(most: usize, given: usize, field: &str, problems: &mut Problems) {
    if given > most {
        problems.fatal(
            field,
            format!("there are {given} of them"),
            format!("write at most {most}, and the rest in another slice of the service"),
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn one(
    namespace: &str,
    endpoint: &discovery::Endpoint,
    field: &str,
    family: Option<Family>,
    problems: &mut Problems,
) -> SliceEndpoint {
    if endpoint.addresses.is_empty() {
        problems.fatal(format!("{field}.addresses"), "an endpoint has at least one address", "add its address");
    }
    at_most(MAX_ADDRESSES, endpoint.addresses.len(), &format!("{field}.addresses"), problems);
    let addresses = endpoint
        .addresses
        .iter()
        .take(MAX_ADDRESSES)
        .enumerate()
        .filter_map(|(i, text)| {
            let field = format!("{field}.addresses[{i}]");
            let address = address(text, &field, problems)?;
            let wrong = match (family, address) {
                (Some(Family::V4), IpAddr::V6(_)) => Some("IPv4"),
                (Some(Family::V6), IpAddr::V4(_)) => Some("IPv6"),
                (Some(Family::V4 | Family::V6) | None, IpAddr::V4(_) | IpAddr::V6(_)) => None,
            };
            if let Some(wanted) = wrong {
                problems.fatal(
                    field,
                    format!("{address} is not of the slice's addressType {wanted}"),
                    "give each family a slice of its own",
                );
                return None;
            }
            Some(address)
        })
        .collect();
    SliceEndpoint {
        addresses,
        ready: readiness(&endpoint.conditions.clone().unwrap_or_default()),
        place: place(endpoint),
        zone: endpoint.zone.as_deref().filter(|zone| !zone.is_empty()).map(Into::into),
        pod: endpoint.target_ref.as_ref().and_then(|target| pod(namespace, target)),
    }
}

/// As EndpointConditions in the Kubernetes API say: a missing `ready` is true, a missing `serving` is what `ready` is, a missing
/// `terminating` is false. One that is ready although it terminates is so by `publishNotReadyAddresses`.
fn readiness(conditions: &discovery::EndpointConditions) -> Readiness {
    let ready = conditions.ready != Some(false);
    let (serving, terminating) = (conditions.serving.unwrap_or(ready), conditions.terminating == Some(true));
    match (ready, serving && terminating) {
        (true, _) => Readiness::Ready,
        (false, true) => Readiness::Leaving,
        (false, false) => Readiness::Unready,
    }
}

fn place(endpoint: &discovery::Endpoint) -> Place {
    let hints = endpoint.hints.clone().unwrap_or_default();
    Place {
        node: endpoint.node_name.as_deref().filter(|node| !node.is_empty()).map(Into::into),
        for_nodes: hints.for_nodes.into_iter().flatten().map(|node| node.name.into()).collect(),
        for_zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name.into()).collect(),
    }
}

fn pod(namespace: &str, target: &core::ObjectReference) -> Option<ObjectName> {
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    let name = target.name.as_deref().filter(|name| !name.is_empty())?;
    Some(named(target.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace), name))
}

fn ports(given: &[discovery::EndpointPort], problems: &mut Problems) -> Vec<SlicePort> {
    let mut ports: Vec<SlicePort> = Vec::new();
    for (index, one) in given.iter().take(MAX_PORTS).enumerate() {
        let field = format!("ports[{index}]");
        let transport = protocol(one.protocol.as_deref(), &format!("{field}.protocol"), problems);
        let Some(number) = one.port else {
            problems.fatal(format!("{field}.port"), "it is missing", "write the port the application listens on");
            continue;
        };
        let number = application_port(number, &format!("{field}.port"), problems);
        let (Some(protocol), Some(target)) = (transport, number) else { continue };
        let name: Arc<str> = one.name.as_deref().unwrap_or_default().into();
        if ports.iter().any(|p| p.name == name && p.protocol == protocol) {
            problems.fatal(
                format!("{field}.name"),
                format!("two ports of the slice are named {name:?}"),
                "give each port a name of its own",
            );
            continue;
        }
        ports.push(SlicePort { name, protocol, target });
    }
    ports
}
