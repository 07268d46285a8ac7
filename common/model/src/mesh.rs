//! Indexes a Snapshot for the questions that the data plane asks of it: whose address is this, which service is that.
//!
//! The indexes of a Snapshot that follows another are made of the other's, at the cost of what differs; those of the first follow the
//! empty one, so that there is one way to make them.

use std::{net::IpAddr, sync::Arc};

use crate::{Endpoints, Identity, Map, ObjectName, Protocol, Service, Snapshot, Workload, map::Differs};

/// What a client asks a service by.
type VirtualAddress = (IpAddr, u16, Protocol);

/// Those who claim one thing, in order of name: the first has it.
type Claims<T> = Vec<Arc<T>>;

/// The workloads of a node.
type Local = Map<ObjectName, Arc<Workload>>;

/// A Snapshot and its indexes. Borrow one per connection or request, and ask nothing newer until it ends.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// What is indexed.
    pub snapshot: Arc<Snapshot>,
    by_address: Map<IpAddr, Claims<Workload>>,
    by_virtual_address: Map<VirtualAddress, Claims<Service>>,
    by_node: Map<Arc<str>, Local>,
}

impl Mesh {
    /// Indexes `snapshot`. Where two workloads claim an address, the first by name has it: order must not matter.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self::default().turned(snapshot)
    }

    /// What it turns to where `snapshot` follows.
    #[must_use]
    pub fn turned(&self, snapshot: Arc<Snapshot>) -> Self {
        let mut next = self.clone();
        for Differs { key: _, before, now } in self.snapshot.workloads.differences(&snapshot.workloads) {
            if let Some(before) = before {
                before.addresses.iter().for_each(|address| give_up(&mut next.by_address, address, &before.name, named));
                let is_empty = next.by_node.get_mut(&before.node).is_some_and(|local| {
                    local.remove(&before.name);
                    local.is_empty()
                });
                if is_empty {
                    next.by_node.remove(&before.node);
                }
            }
            if let Some(now) = now {
                now.addresses.iter().for_each(|address| claim(&mut next.by_address, *address, now, named));
                match next.by_node.get_mut(&now.node) {
                    Some(local) => drop(local.insert(now.name.clone(), now.clone())),
                    None => drop(next.by_node.insert(now.node.clone(), [(now.name.clone(), now.clone())].into())),
                }
            }
        }
        for Differs { key: _, before, now } in self.snapshot.services.differences(&snapshot.services) {
            if let Some(before) = before {
                virtual_addresses(before)
                    .for_each(|at| give_up(&mut next.by_virtual_address, &at, &before.name, service_name));
            }
            if let Some(now) = now {
                virtual_addresses(now).for_each(|at| claim(&mut next.by_virtual_address, at, now, service_name));
            }
        }
        Self { snapshot, ..next }
    }

    /// The workload that has this address; None for an address outside the mesh's world. A v4-mapped address is its IPv4 one.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())?.first()
    }

    /// The service with this virtual address and port.
    pub fn service_at(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<&Arc<Service>> {
        self.by_virtual_address.get(&(address.to_canonical(), port, protocol))?.first()
    }

    /// What stands behind a service; None where this node was not told.
    pub fn endpoints_of(&self, service: &ObjectName) -> Option<&Arc<Endpoints>> {
        self.snapshot.endpoints.get(service)
    }

    /// The workloads of a node, in order of name.
    pub fn on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> + Clone {
        self.by_node.get(node).into_iter().flat_map(Map::values)
    }

    /// The zone of a node that has a workload; None where it has no zone.
    pub fn zone_of(&self, node: &str) -> Option<&Arc<str>> {
        self.on(node).find_map(|workload| workload.zone.as_ref())
    }

    /// True where some workload on `node` has this identity.
    pub fn runs_on(&self, identity: &Identity, node: &str) -> bool {
        self.on(node).any(|workload| workload.identity == *identity)
    }
}

fn named(workload: &Workload) -> &ObjectName {
    &workload.name
}

fn service_name(service: &Service) -> &ObjectName {
    &service.name
}

fn virtual_addresses(service: &Service) -> impl Iterator<Item = VirtualAddress> {
    let ports = |address: &IpAddr| {
        let address = *address;
        service.ports.iter().map(move |port| (address, port.port, port.protocol))
    };
    service.addresses.iter().flat_map(ports)
}

fn claim<K: Ord + Clone, T>(index: &mut Map<K, Claims<T>>, key: K, one: &Arc<T>, name: fn(&T) -> &ObjectName) {
    let Some(claims) = index.get_mut(&key) else {
        index.insert(key, vec![one.clone()]);
        return;
    };
    match claims.binary_search_by(|other| name(other).cmp(name(one))) {
        Ok(at) => claims.get_mut(at).into_iter().for_each(|held| held.clone_from(one)),
        Err(at) => claims.insert(at, one.clone()),
    }
}

fn give_up<K: Ord + Clone, T>(index: &mut Map<K, Claims<T>>, key: &K, gone: &ObjectName, name: fn(&T) -> &ObjectName) {
    let is_empty = index.get_mut(key).is_some_and(|claims| {
        claims.retain(|one| name(one) != gone);
        claims.is_empty()
    });
    if is_empty {
        index.remove(key);
    }
}

#[cfg(test)]
mod tests;
