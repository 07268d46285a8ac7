//! Says what a service is, and which endpoints stand behind it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{ObjectName, Place, Traffic};

/// The transport protocols a service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, MPTCP included.
    Tcp,
    /// UDP.
    Udp,
}

/// A virtual address with ports; who stands behind it is in [`Endpoints`], so that a node can know one without the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its virtual addresses; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Its ports, ordered by number and protocol.
    pub ports: Vec<ServicePort>,
    /// How its connections are spread.
    pub traffic: Traffic,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The number that clients connect to.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Its name; empty where the service has only one.
    pub name: Arc<str>,
}

/// What stands behind one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The service's name.
    pub service: ObjectName,
    /// Its endpoints, ordered by address.
    pub endpoints: Vec<Endpoint>,
}

/// One address behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// The workload that has this address, where it is a pod.
    pub workload: Option<ObjectName>,
    /// The application's port for each port of the service; a service port without an entry has no backend here.
    #[serde(with = "target_ports")]
    pub ports: BTreeMap<(u16, Protocol), u16>,
    /// Its share among the ready ones; 0 takes none.
    pub weight: u32,
    /// Whether it may be given connections.
    pub readiness: Readiness,
    /// Where it is, and for whom it is the near one.
    pub place: Place,
}

/// Whether an endpoint may be given new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It was told to go and serves still: given connections only where no endpoint is ready.
    Leaving,
    /// It does not serve now: not ready, gone, or not yet enrolled.
    Unready,
}

/// Writes an endpoint's ports as a list: JSON has no map whose keys are pairs.
mod target_ports {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Protocol;

    type TargetPorts = BTreeMap<(u16, Protocol), u16>;

    #[derive(Serialize, Deserialize)]
    struct TargetPort {
        port: u16,
        protocol: Protocol,
        target: u16,
    }

    pub(super) fn serialize<S: Serializer>(ports: &TargetPorts, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ports.iter().map(|((port, protocol), target)| TargetPort {
            port: *port,
            protocol: *protocol,
            target: *target,
        }))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<TargetPorts, D::Error> {
        let ports = Vec::<TargetPort>::deserialize(from)?;
        Ok(ports.into_iter().map(|TargetPort { port, protocol, target }| ((port, protocol), target)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Endpoint, Protocol, Readiness};

    #[test]
    fn an_endpoint_reads_back_from_json() {
        let endpoint = Endpoint {
            address: [10, 0, 0, 1].into(),
            workload: None,
            ports: BTreeMap::from([((80, Protocol::Tcp), 8080), ((53, Protocol::Udp), 5353)]),
            weight: 1,
            readiness: Readiness::Ready,
            place: Default::default(),
        };
        let text = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(serde_json::from_str::<Endpoint>(&text).unwrap(), endpoint, "{text}");
    }
}
