//! Turns a Kubernetes object into what the World holds of it, or says every reason why not. Pure; one file for each family.
//!
//! An object that comes out has been checked whole: nothing later asks whether a port is a port.

use std::{net::IpAddr, sync::Arc};

use gateway_api::experimental::{
    grpcroutes::GrpcRoute, httproutes::HttpRoute, referencegrants::ReferenceGrant,
    xbackendtrafficpolicies::XBackendTrafficPolicy,
};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
    serde::de::DeserializeOwned,
};
use millrace_model::{ObjectName, Protocol};
use serde_json::Value;

use super::Object;
use crate::{
    diagnostic::{Key, Kind, Problem, Problems},
    world::Settings,
};

mod backend;
mod cluster;
mod duration;
mod external;
mod fault;
pub mod meta;
mod network;
mod pod;
mod policy;
mod profile;
mod route;
mod selector;
mod service;
mod session;
mod slice;
mod telemetry;
mod traffic;
mod typed;

pub use cluster::NAME_LABEL;
pub use meta::MESH_LABEL;
pub use pod::{NETNS_ANNOTATION, WEIGHT_ANNOTATION};
pub(crate) use route::kind_of as route_kind;
pub(super) use typed::is_unknown_field;

/// What an object that has entries on its status asks to be attached to, as far as that can be read.
pub(crate) fn asked(key: &Key, value: &Value) -> super::kubernetes::Asked {
    if key.kind.is_route() { route::asked(&key.name, value) } else { backend::asked(&key.name, value) }
}

/// The object in `value`, of this kind and name, and its problems. None where one of them is fatal.
#[expect(clippy::too_many_lines, reason = "a list of the kinds of objects")]
pub fn read(key: &Key, value: Value, settings: &Settings) -> (Option<Object>, Vec<Problem>) {
    let mut problems = Problems::default();
    let (own, mut value) = (key.kind.is_own(), value);
    if let (true, Value::Object(fields)) = (key.kind.is_gateway(), &mut value) {
        // Whatever any controller wrote there is nothing that this one reads.
        fields.remove("status");
    }
    if own {
        typed::refuse_nulls(value.get("spec").unwrap_or(&Value::Null), "spec", &mut problems);
    }
    let name = &key.name;
    let object = match key.kind {
        Kind::Namespace => read_as(value, own, &mut problems, |n: core::Namespace, p| {
            Object::Namespace(cluster::namespace(&n, p).into())
        }),
        Kind::Node => read_as(value, own, &mut problems, |n: core::Node, p| Object::Node(cluster::node(&n, p).into())),
        Kind::ServiceAccount => read_as(value, own, &mut problems, |account: core::ServiceAccount, p| {
            meta::check(&account.metadata, p);
            Object::ServiceAccount
        }),
        Kind::Pod => {
            read_as(value, own, &mut problems, |pod: core::Pod, p| Object::Pod(pod::pod(name, &pod, p).into()))
        }
        Kind::Service => read_as(value, own, &mut problems, |service: core::Service, p| {
            Object::Service(service::service(name, &service, p).into())
        }),
        Kind::EndpointSlice => read_as(value, own, &mut problems, |slice: discovery::EndpointSlice, p| {
            Object::Slice(slice::slice(name, &slice, p).into())
        }),
        Kind::NetworkPolicy => read_as(value, own, &mut problems, |policy: networking::NetworkPolicy, p| {
            Object::Network(network::network(name, &policy, p).into())
        }),
        Kind::AccessPolicy => read_as(value, own, &mut problems, |policy: millrace_crd::AccessPolicy, p| {
            Object::Access(policy::access(name, &policy, settings, p).into())
        }),
        Kind::EncryptionPolicy => read_as(value, own, &mut problems, |policy: millrace_crd::EncryptionPolicy, p| {
            Object::Encryption(policy::encryption(name, &policy, p).into())
        }),
        Kind::NodeProfile => read_as(value, own, &mut problems, |profile: millrace_crd::NodeProfile, p| {
            Object::Profile(profile::profile(name, &profile, p).into())
        }),
        Kind::TelemetryPolicy => read_as(value, own, &mut problems, |policy: millrace_crd::TelemetryPolicy, p| {
            Object::Telemetry(telemetry::telemetry(name, &policy, p).into())
        }),
        Kind::TrafficPolicy => read_as(value, own, &mut problems, |policy: millrace_crd::TrafficPolicy, p| {
            Object::Traffic(traffic::traffic(name, &policy, p).into())
        }),
        Kind::ExternalService => read_as(value, own, &mut problems, |service: millrace_crd::ExternalService, p| {
            let (service, slice) = external::service(name, &service, p);
            Object::ExternalService(service.into(), slice.into())
        }),
        Kind::ExternalWorkload => read_as(value, own, &mut problems, |workload: millrace_crd::ExternalWorkload, p| {
            Object::ExternalWorkload(external::workload(name, &workload, p).into())
        }),
        Kind::HttpFault => read_as(value, own, &mut problems, |fault: millrace_crd::HttpFault, p| {
            Object::Fault(fault::fault(name, &fault, p).into())
        }),
        Kind::HttpRoute => {
            read_as(value, own, &mut problems, |route: HttpRoute, p| Object::Route(route::http(name, &route, p).into()))
        }
        Kind::GrpcRoute => {
            read_as(value, own, &mut problems, |route: GrpcRoute, p| Object::Route(route::grpc(name, &route, p).into()))
        }
        Kind::ReferenceGrant => read_as(value, own, &mut problems, |grant: ReferenceGrant, p| {
            Object::Grant(route::grant(name, &grant, p).into())
        }),
        Kind::BackendPolicy => read_as(value, own, &mut problems, |policy: XBackendTrafficPolicy, p| {
            Object::Backend(backend::policy(name, &policy, p).into())
        }),
    };
    if key.kind.is_gateway() {
        route::weigh(&mut problems);
    }
    (object.filter(|_| !problems.refuse()), problems.0)
}

/// What holds of an object of this kind and name while it can't be read and no version of it was: None for all but a NetworkPolicy,
/// which closes what it selects.
pub fn instead(key: &Key, value: &Value) -> Option<Object> {
    (key.kind == Kind::NetworkPolicy).then(|| Object::Network(network::closed(&key.name, value).into()))
}

fn read_as<T: DeserializeOwned>(
    value: Value,
    own: bool,
    problems: &mut Problems,
    read: impl FnOnce(T, &mut Problems) -> Object,
) -> Option<Object> {
    let typed = typed::typed(value, own, problems)?;
    Some(read(typed, problems))
}

/// A port number, or a problem.
fn port(number: i32, field: &str, problems: &mut Problems) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        Ok(_) | Err(_) => {
            problems.fatal(field, format!("{number} is no port number"), "write a whole number from 1 to 65535");
            None
        }
    }
}

/// A port that an application listens on: none of the mesh's own.
fn application_port(number: i32, field: &str, problems: &mut Problems) -> Option<u16> {
    let port = port(number, field, problems)?;
    if millrace_model::port::is_mesh(port) {
        problems.fatal(
            field,
            format!("port {port} is one of the mesh's own inside every pod"),
            "let the application listen on another port than 15008, 15801 and 15806",
        );
        return None;
    }
    Some(port)
}

/// A transport protocol; None for one that the mesh does not carry, which is told but refuses nothing.
fn protocol(text: Option<&str>, field: &str, problems: &mut Problems) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => {
            problems.slight(field, "the mesh carries no SCTP", "expect this port to be left alone, or use TCP or UDP");
            None
        }
        Some(other) => {
            problems.fatal(field, format!("{other:?} is no protocol"), "write TCP or UDP");
            None
        }
    }
}

/// An address that a pod or service can have, or a problem.
fn address(text: &str, field: &str, problems: &mut Problems) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let mend = if text.contains('/') {
            "write the address alone, without a prefix length"
        } else {
            "write an IPv4 address such as 10.0.0.1 or an IPv6 address such as fd00::1"
        };
        problems.fatal(field, format!("{text:?} is no IP address"), mend);
        return None;
    };
    let why = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped IPv6 address"),
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        // It means something else on every link.
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    if let Some(why) = why {
        problems.fatal(
            field,
            format!("{text} is {why}, which no pod or service can be reached at"),
            "write the unicast address, in IPv4 form if it is one",
        );
        return None;
    }
    Some(address)
}

/// The addresses of a pod or service: one of each family at most, as Kubernetes has it. What there are more of would be
/// in every node's tables, which are bounded for all.
fn addresses<'a>(texts: impl Iterator<Item = (String, &'a str)>, problems: &mut Problems) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (field, text) in texts {
        let Some(address) = address(text, &field, problems) else { continue };
        if addresses.contains(&address) {
            problems.fatal(field, format!("{address} stands twice"), "write each address once");
        } else if let Some(first) = addresses.iter().find(|first| first.is_ipv4() == address.is_ipv4()) {
            let mend = "write at most one IPv4 and one IPv6 address";
            problems.fatal(field, format!("{address} is of the family of {first}"), mend);
            break;
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// An object's name in the World.
fn named(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: Arc::from(namespace), name: Arc::from(name) }
}
