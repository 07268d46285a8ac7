//! Indexes a Snapshot for the questions that the data plane asks of it: whose address is this, which service is that.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{Endpoints, Identity, ObjectName, Protocol, Service, Snapshot, Workload};

/// What a client asks a service by.
type VirtualAddress = (IpAddr, u16, Protocol);

/// A Snapshot and its indexes. Borrow one per connection or request, and ask nothing newer until it ends.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// What is indexed.
    pub snapshot: Arc<Snapshot>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    by_virtual_address: HashMap<VirtualAddress, Arc<Service>>,
    zones: HashMap<Arc<str>, Arc<str>>,
}

impl Mesh {
    /// Indexes `snapshot`. Where two workloads claim an address, the first by name has it: order must not matter.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut by_address = HashMap::with_capacity(snapshot.workloads.len());
        let mut zones = HashMap::new();
        for workload in snapshot.workloads.values() {
            if let Some(zone) = &workload.zone {
                zones.entry(workload.node.clone()).or_insert_with(|| zone.clone());
            }
            for address in &workload.addresses {
                by_address.entry(*address).or_insert_with(|| workload.clone());
            }
        }
        let mut by_virtual_address = HashMap::with_capacity(snapshot.services.len());
        for service in snapshot.services.values() {
            for address in &service.addresses {
                for port in &service.ports {
                    by_virtual_address.entry((*address, port.port, port.protocol)).or_insert_with(|| service.clone());
                }
            }
        }
        Self { snapshot, by_address, by_virtual_address, zones }
    }

    /// The workload that has this address; None for an address outside the mesh's world. A v4-mapped address is its IPv4 one.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The service with this virtual address and port.
    pub fn service_at(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<&Arc<Service>> {
        self.by_virtual_address.get(&(address.to_canonical(), port, protocol))
    }

    /// What stands behind a service; None where this node was not told.
    pub fn endpoints_of(&self, service: &ObjectName) -> Option<&Arc<Endpoints>> {
        self.snapshot.endpoints.get(service)
    }

    /// The zone of a node that has a workload; None where it has no zone.
    pub fn zone_of(&self, node: &str) -> Option<&Arc<str>> {
        self.zones.get(node)
    }

    /// True where some workload on `node` has this identity.
    pub fn runs_on(&self, identity: &Identity, node: &str) -> bool {
        self.snapshot.workloads.values().any(|w| w.identity == *identity && *w.node == *node)
    }
}
