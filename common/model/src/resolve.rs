//! Says where a connection goes: the one answer that the agent compiles into kernel maps, the proxy dials by and `explain` prints.

mod survey;

use std::{net::SocketAddr, sync::Arc};

use crate::{Ejected, EncryptionMode, Identity, Membership, Mesh, ObjectName, Protocol, Workload};

pub use survey::{Standing, survey, survey_by};

/// Where a connection to an address goes, seen from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nothing of the mesh: left alone.
    Untouched,
    /// A service's virtual address, with those that could take it.
    Service {
        /// The service.
        name: ObjectName,
        /// Those that clients of this node are given: see [`survey`].
        backends: Vec<Backend>,
    },
    /// A workload's own address.
    Workload(Hop),
}

/// One backend of a service and what lies between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The application's address and port.
    pub address: SocketAddr,
    /// Its share among the backends.
    pub weight: u32,
    /// How it is reached.
    pub hop: Hop,
}

/// How a workload is reached from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Not a mesh workload: plainly.
    Plain,
    /// On this node: straight, with the kernel's verdict.
    Local(Arc<Workload>),
    /// On another node: through a tunnel to this peer.
    Tunnel(Peer),
    /// Of the mesh, but its node has not opened its listeners: not at all, yet.
    Pending(Arc<Workload>),
}

/// The far end of a tunnel: it always has an identity, so plain text to a mesh peer can't be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Whom its certificate must name.
    pub identity: Identity,
    /// The tunnel's address: the workload's, at the tunnel port.
    pub tunnel: SocketAddr,
}

/// Where a TCP connection from `node` to `address` goes.
pub fn resolve(mesh: &Mesh, node: &str, address: SocketAddr) -> Destination {
    resolve_without(mesh, node, address, &Ejected::default())
}

/// The same, while these endpoints are left out.
pub fn resolve_without(mesh: &Mesh, node: &str, address: SocketAddr, ejected: &Ejected) -> Destination {
    resolve_by(mesh, node, (address, Protocol::Tcp), ejected)
}

/// Where what is sent by a protocol goes, while these endpoints are left out.
pub fn resolve_by(mesh: &Mesh, node: &str, to: (SocketAddr, Protocol), ejected: &Ejected) -> Destination {
    let (address, protocol) = (SocketAddr::new(to.0.ip().to_canonical(), to.0.port()), to.1);
    if let Some(service) = mesh.service_at(address.ip(), address.port(), protocol) {
        let backends = survey_by(mesh, node, service, (address, protocol), ejected)
            .into_iter()
            .filter_map(|(_, standing)| match standing {
                Standing::Chosen(backend) => Some(backend),
                Standing::Spare(_) | Standing::LeftOut(_) => None,
            })
            .collect();
        return Destination::Service { name: service.name.clone(), backends };
    }
    match hop(mesh, node, address) {
        Hop::Plain => Destination::Untouched,
        hop @ (Hop::Local(_) | Hop::Tunnel(_) | Hop::Pending(_)) => Destination::Workload(hop),
    }
}

/// How the workload at `address` is reached from `node`.
pub fn hop(mesh: &Mesh, node: &str, address: SocketAddr) -> Hop {
    let Some(workload) = mesh.workload_at(address.ip()) else { return Hop::Plain };
    match workload.membership {
        Membership::Outside | Membership::Host => Hop::Plain,
        Membership::Pending => Hop::Pending(workload.clone()),
        Membership::Enrolled if *workload.node == *node => Hop::Local(workload.clone()),
        Membership::Enrolled => Hop::Tunnel(Peer {
            workload: workload.clone(),
            identity: workload.identity.clone(),
            tunnel: SocketAddr::new(address.ip(), crate::port::TUNNEL),
        }),
    }
}

/// Whether a caller without identity is heard at all on this port, before any policy is asked.
pub fn hears_plaintext(workload: &Workload, port: u16) -> bool {
    match workload.encryption.mode(port) {
        EncryptionMode::Strict => false,
        EncryptionMode::Permissive => true,
    }
}
