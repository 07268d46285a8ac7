//! Converts between the model and its protobufs by full destructuring; what can't be read is named by its path.

mod network;
mod retry;
mod route;
mod session;
mod traffic;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use millrace_model as model;
use prost::Message;

use crate::mesh as pb;

mod profile;
mod telemetry;
mod texts;

use texts::Texts;

use network::{policy, policy_from};
pub use profile::{limits, limits_from};

/// A message that this version can't read.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// Not the protobuf it should be.
    #[error("not a valid protobuf")]
    Protobuf(#[from] prost::DecodeError),
    /// A field is missing, or holds what it may not.
    #[error("field {field}: {why}")]
    Field {
        /// The field, as `message.field`.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The Delta is not from generation 0, so it is no whole Snapshot.
    #[error("not a whole snapshot: it starts from generation {0}")]
    NotWhole(u64),
}

fn bad(field: &'static str, why: impl ToString) -> Undecodable {
    Undecodable::Field { field, why: why.to_string() }
}

/// The whole Snapshot as bytes: an Update from generation 0.
pub fn encode_snapshot(snapshot: &model::Snapshot) -> Vec<u8> {
    update(&model::Delta::between(&model::Snapshot::default(), snapshot)).encode_to_vec()
}

/// The Snapshot in these bytes, of which it takes no copy.
pub fn decode_snapshot(bytes: Bytes) -> Result<model::Snapshot, Undecodable> {
    let delta = delta(pb::Update::decode(bytes)?)?;
    model::Snapshot::default().apply(&delta).map_err(|wrong| Undecodable::NotWhole(wrong.from))
}

/// A Delta as bytes.
pub fn encode_update(delta: &model::Delta) -> Vec<u8> {
    update(delta).encode_to_vec()
}

/// The Delta in these bytes.
pub fn decode_update(bytes: Bytes) -> Result<model::Delta, Undecodable> {
    delta(pb::Update::decode(bytes)?)
}

/// A Delta as an Update.
pub fn update(delta: &model::Delta) -> pb::Update {
    let model::Delta { from, to, trust_domain, workloads, services, endpoints, policies, profiles, routes, telemetry } =
        delta;
    pb::Update {
        from: *from,
        to: *to,
        trust_domain: trust_domain.to_string(),
        workloads: workloads.set.iter().map(|(_, w)| encoded(&workload(w))).collect(),
        workloads_gone: workloads.gone.iter().map(name).collect(),
        services: services.set.iter().map(|(_, s)| encoded(&service(s))).collect(),
        services_gone: services.gone.iter().map(name).collect(),
        endpoints: endpoints.set.iter().map(|(_, e)| encoded(&endpoints_to(e))).collect(),
        endpoints_gone: endpoints.gone.iter().map(name).collect(),
        policies: policies.set.iter().map(|(_, p)| encoded(&policy(p))).collect(),
        policies_gone: policies.gone.iter().map(name).collect(),
        profiles: profiles.set.iter().map(|(node, p)| profile::to(node, p)).collect(),
        profiles_gone: profiles.gone.iter().map(ToString::to_string).collect(),
        routes: routes.set.iter().map(|(_, r)| encoded(&route::routes(r))).collect(),
        routes_gone: routes.gone.iter().map(name).collect(),
        trust: None,

        telemetry: telemetry.set.iter().map(|(_, t)| encoded(&telemetry::telemetry(t))).collect(),
        telemetry_gone: telemetry.gone.iter().map(name).collect(),
    }
}

/// An Update as a Delta.
pub fn delta(update: pb::Update) -> Result<model::Delta, Undecodable> {
    let pb::Update {
        from,
        to,
        trust_domain,
        workloads,
        workloads_gone,
        services,
        services_gone,
        endpoints,
        endpoints_gone,
        policies,
        policies_gone,
        profiles,
        profiles_gone,
        routes,
        routes_gone,
        trust: _,

        telemetry,
        telemetry_gone,
    } = update;
    let said = &mut Texts::default();
    Ok(model::Delta {
        from,
        to,
        trust_domain: said.one(&trust_domain),
        workloads: change(workloads, workloads_gone, said, |w, said| {
            let w = workload_from(w, said)?;
            Ok((w.name.clone(), w))
        })?,
        services: change(services, services_gone, said, |s, said| {
            let s = service_from(s, said)?;
            Ok((s.name.clone(), s))
        })?,
        endpoints: change(endpoints, endpoints_gone, said, |e, said| {
            let e = endpoints_from(e, said)?;
            Ok((e.service.clone(), e))
        })?,
        policies: change(policies, policies_gone, said, |p, said| {
            let p = policy_from(p, said)?;
            Ok((p.name.clone(), p))
        })?,
        profiles: profile::change(profiles, profiles_gone)?,
        routes: change(routes, routes_gone, said, |r, said| {
            let r = route::routes_from(r, said)?;
            Ok((r.service.clone(), r))
        })?,
        telemetry: change(telemetry, telemetry_gone, said, |t, said| {
            let t = telemetry::telemetry_from(t, said)?;
            Ok((t.name.clone(), t))
        })?,
    })
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn change<P: Message + Default, M>(
    set: Vec<Bytes>,
    gone: Vec<pb::ObjectName>,
    said: &mut Texts,
    read: impl Fn(P, &mut Texts) -> Result<(model::ObjectName, M), Undecodable>,
) -> Result<model::Change<M>, Undecodable> {
    Ok(model::Change {
        set: each(set, |item| {
            let (name, item) = read(P::decode(item)?, said)?;
            Ok((name, Arc::new(item)))
        })?,
        gone: each(gone, |n| said.name(Some(n), "gone.name"))?,
    })
}

/// Each of these, read, in a list that has room for no more: one that is collected of what may fail has room for four where it holds
/// one, and most lists of a mesh hold one.
fn each<P, M>(items: Vec<P>, mut read: impl FnMut(P) -> Result<M, Undecodable>) -> Result<Vec<M>, Undecodable> {
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        all.push(read(item)?);
    }
    Ok(all)
}

/// An object's name on the wire.
pub fn name(name: &model::ObjectName) -> pb::ObjectName {
    let model::ObjectName { namespace, name } = name;
    pb::ObjectName { namespace: namespace.to_string(), name: name.to_string() }
}

/// An object's name off the wire; `field` is named where it is missing or empty.
pub fn name_from(name: Option<pb::ObjectName>, field: &'static str) -> Result<model::ObjectName, Undecodable> {
    Texts::default().name(name, field)
}

fn address(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address_from(bytes: &[u8], field: &'static str) -> Result<IpAddr, Undecodable> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => Ok(IpAddr::from(v6)),
        Err(_) => Err(bad(field, format!("{} bytes are no IP address", bytes.len()))),
    }
}

fn port_from(port: u32, field: &'static str) -> Result<u16, Undecodable> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(bad(field, format!("{port} is no port"))),
    }
}

fn workload(workload: &model::Workload) -> pb::Workload {
    let model::Workload {
        name: own_name,
        instance,
        identity,
        addresses,
        node,
        zone,
        netns,
        membership,
        encryption,
        policies,
        probe_ports,
        telemetry,
        network,
    } = workload;
    let model::Encryption { default, ports, udp } = encryption;
    pb::Workload {
        name: Some(name(own_name)),
        instance: instance.to_string(),
        identity: identity.to_string(),
        addresses: addresses.iter().map(address).collect(),
        node: node.to_string(),
        zone: zone.as_ref().map(ToString::to_string),
        netns: netns.as_ref().map(ToString::to_string),
        membership: match membership {
            model::Membership::Outside => pb::Membership::Outside,
            model::Membership::Pending => pb::Membership::Pending,
            model::Membership::Enrolled => pb::Membership::Enrolled,
            model::Membership::Host => pb::Membership::Host,
        }
        .into(),
        encryption: Some(pb::Encryption {
            default: mode(*default).into(),
            ports: ports.iter().map(|(port, m)| (u32::from(*port), mode(*m).into())).collect(),
            udp: match udp {
                model::UdpMode::Allow => pb::UdpMode::Allow,
                model::UdpMode::Deny => pb::UdpMode::Deny,
            }
            .into(),
        }),
        policies: policies.iter().map(name).collect(),
        probe_ports: probe_ports.iter().map(|port| u32::from(*port)).collect(),
        telemetry: telemetry.as_ref().map(name),
        network: network.as_deref().map(network::network),
    }
}

fn workload_from(workload: pb::Workload, said: &mut Texts) -> Result<model::Workload, Undecodable> {
    let pb::Workload {
        name,
        instance,
        identity,
        addresses,
        node,
        zone,
        netns,
        membership,
        encryption,
        policies,
        probe_ports,
        telemetry,
        network,
    } = workload;
    let pb::Encryption { default, ports, udp } = encryption.ok_or_else(|| bad("workload.encryption", "missing"))?;
    Ok(model::Workload {
        name: said.name(name, "workload.name")?,
        instance: instance.into(),
        identity: said.identity(&identity, "workload.identity")?,
        addresses: each(addresses, |a| address_from(&a, "workload.addresses"))?,
        node: said.one(&node),
        zone: zone.map(|zone| said.one(&zone)),
        netns: netns.map(Into::into),
        membership: match pb::Membership::try_from(membership) {
            Ok(pb::Membership::Outside) => model::Membership::Outside,
            Ok(pb::Membership::Pending) => model::Membership::Pending,
            Ok(pb::Membership::Enrolled) => model::Membership::Enrolled,
            Ok(pb::Membership::Host) => model::Membership::Host,
            Ok(pb::Membership::Unspecified) | Err(_) => return Err(bad("workload.membership", membership)),
        },
        encryption: model::Encryption {
            default: mode_from(default)?,
            ports: ports
                .into_iter()
                .map(|(port, m)| Ok((port_from(port, "workload.encryption.ports")?, mode_from(m)?)))
                .collect::<Result<BTreeMap<_, _>, Undecodable>>()?,
            udp: match pb::UdpMode::try_from(udp) {
                Ok(pb::UdpMode::Allow) => model::UdpMode::Allow,
                Ok(pb::UdpMode::Deny) => model::UdpMode::Deny,
                Ok(pb::UdpMode::Unspecified) | Err(_) => return Err(bad("workload.encryption.udp", udp)),
            },
        },
        policies: policies.into_iter().map(|n| said.name(Some(n), "workload.policies")).collect::<Result<_, _>>()?,
        probe_ports: probe_ports
            .into_iter()
            .map(|port| port_from(port, "workload.probe_ports"))
            .collect::<Result<_, _>>()?,
        telemetry: telemetry.map(|name| said.name(Some(name), "workload.telemetry")).transpose()?,
        network: network.map(|one| network::network_from(one, said)).transpose()?.map(Into::into),
    })
}

fn mode(mode: model::EncryptionMode) -> pb::EncryptionMode {
    match mode {
        model::EncryptionMode::Strict => pb::EncryptionMode::Strict,
        model::EncryptionMode::Permissive => pb::EncryptionMode::Permissive,
    }
}

fn mode_from(mode: i32) -> Result<model::EncryptionMode, Undecodable> {
    match pb::EncryptionMode::try_from(mode) {
        Ok(pb::EncryptionMode::Strict) => Ok(model::EncryptionMode::Strict),
        Ok(pb::EncryptionMode::Permissive) => Ok(model::EncryptionMode::Permissive),
        Ok(pb::EncryptionMode::Unspecified) | Err(_) => Err(bad("encryption.mode", mode)),
    }
}

fn protocol(protocol: model::Protocol) -> i32 {
    match protocol {
        model::Protocol::Tcp => pb::Protocol::Tcp,
        model::Protocol::Udp => pb::Protocol::Udp,
    }
    .into()
}

fn protocol_from(protocol: i32, field: &'static str) -> Result<model::Protocol, Undecodable> {
    match pb::Protocol::try_from(protocol) {
        Ok(pb::Protocol::Tcp) => Ok(model::Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Ok(model::Protocol::Udp),
        Ok(pb::Protocol::Unspecified) | Err(_) => Err(bad(field, protocol)),
    }
}

fn service(service: &model::Service) -> pb::Service {
    let model::Service { name: own_name, addresses, ports, traffic } = service;
    pb::Service {
        name: Some(name(own_name)),
        addresses: addresses.iter().map(address).collect(),
        ports: ports
            .iter()
            .map(|model::ServicePort { port, protocol: p, name }| pb::ServicePort {
                port: u32::from(*port),
                protocol: protocol(*p),
                name: name.to_string(),
            })
            .collect(),
        traffic: Some(traffic::traffic(traffic)),
    }
}

fn service_from(service: pb::Service, said: &mut Texts) -> Result<model::Service, Undecodable> {
    let pb::Service { name, addresses, ports, traffic } = service;
    Ok(model::Service {
        name: said.name(name, "service.name")?,
        addresses: each(addresses, |a| address_from(&a, "service.addresses"))?,
        ports: each(ports, |pb::ServicePort { port, protocol, name }| {
            Ok(model::ServicePort {
                port: port_from(port, "service.ports.port")?,
                protocol: protocol_from(protocol, "service.ports.protocol")?,
                name: said.one(&name),
            })
        })?,
        traffic: traffic::traffic_from(traffic)?,
    })
}

fn endpoints_to(endpoints: &model::Endpoints) -> pb::Endpoints {
    let model::Endpoints { service, endpoints } = endpoints;
    pb::Endpoints { service: Some(name(service)), endpoints: endpoints.iter().map(endpoint).collect() }
}

fn endpoint(endpoint: &model::Endpoint) -> pb::Endpoint {
    let model::Endpoint { address: at, workload, ports, weight, readiness, place } = endpoint;
    pb::Endpoint {
        address: address(at),
        workload: workload.as_ref().map(name),
        ports: ports
            .iter()
            .map(|((port, p), target)| pb::TargetPort {
                port: u32::from(*port),
                protocol: protocol(*p),
                target: u32::from(*target),
            })
            .collect(),
        weight: *weight,
        readiness: traffic::readiness(*readiness),
        place: Some(traffic::place(place)),
    }
}

fn endpoints_from(endpoints: pb::Endpoints, said: &mut Texts) -> Result<model::Endpoints, Undecodable> {
    let pb::Endpoints { service, endpoints } = endpoints;
    Ok(model::Endpoints {
        service: said.name(service, "endpoints.service")?,
        endpoints: each(endpoints, |one| endpoint_from(one, said))?,
    })
}

fn endpoint_from(endpoint: pb::Endpoint, said: &mut Texts) -> Result<model::Endpoint, Undecodable> {
    let pb::Endpoint { address, workload, ports, weight, readiness, place } = endpoint;
    Ok(model::Endpoint {
        address: address_from(&address, "endpoint.address")?,
        workload: workload.map(|n| said.name(Some(n), "endpoint.workload")).transpose()?,
        ports: ports
            .into_iter()
            .map(|pb::TargetPort { port, protocol, target }| {
                let port = port_from(port, "endpoint.ports.port")?;
                let protocol = protocol_from(protocol, "endpoint.ports.protocol")?;
                Ok(((port, protocol), port_from(target, "endpoint.ports.target")?))
            })
            .collect::<Result<_, Undecodable>>()?,
        weight,
        readiness: traffic::readiness_from(readiness)?,
        place: traffic::place_from(place, said)?,
    })
}
