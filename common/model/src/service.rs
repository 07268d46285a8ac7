//! Says what a service is, and which endpoints stand behind it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::ObjectName;

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
    pub ports: BTreeMap<(u16, Protocol), u16>,
    /// Its share among the ready ones; 0 takes none.
    pub weight: u32,
    /// Whether it may be given connections.
    pub readiness: Readiness,
}

/// Whether an endpoint may be given new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not serve now: not ready, terminating, or not yet enrolled.
    Unready,
}
