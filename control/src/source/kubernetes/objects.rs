//! Finds and takes out single objects of those in force.

use std::sync::Arc;

use millrace_model::RouteName;

use crate::{
    diagnostic::{Key, Kind},
    source::{Object, object},
    world::{Objects, external},
};

impl Objects {
    /// The object of this kind and name.
    pub(super) fn get(&self, key: &Key) -> Option<Object> {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => self.namespaces.get(&name.name).cloned().map(Object::Namespace),
            Kind::Node => self.nodes.get(&name.name).cloned().map(Object::Node),
            Kind::ServiceAccount => self.service_accounts.contains_key(name).then_some(Object::ServiceAccount),
            Kind::Pod => self.pods.get(name).cloned().map(Object::Pod),
            Kind::Service => self.services.get(name).cloned().map(Object::Service),
            Kind::EndpointSlice => self.slices.get(name).cloned().map(Object::Slice),
            Kind::NetworkPolicy => self.network.get(name).cloned().map(Object::Network),
            Kind::AccessPolicy => self.access.get(name).cloned().map(Object::Access),
            Kind::EncryptionPolicy => self.encryption.get(name).cloned().map(Object::Encryption),
            Kind::NodeProfile => self.profiles.get(&name.name).cloned().map(Object::Profile),
            Kind::TelemetryPolicy => self.telemetry.get(name).cloned().map(Object::Telemetry),
            Kind::TrafficPolicy => self.traffic.get(name).cloned().map(Object::Traffic),
            Kind::ExternalService => {
                let name = external::service_name(name);
                let (service, slice) = (self.services.get(&name)?, self.slices.get(&name)?);
                Some(Object::ExternalService(service.clone(), slice.clone()))
            }
            Kind::ExternalWorkload => {
                self.pods.get(&external::workload_name(name)).cloned().map(Object::ExternalWorkload)
            }
            Kind::HttpFault => self.faults.get(name).cloned().map(Object::Fault),
            Kind::HttpRoute | Kind::GrpcRoute => self.routes.get(&route_name(key)).cloned().map(Object::Route),
            Kind::ReferenceGrant => self.grants.get(name).cloned().map(Object::Grant),
            Kind::BackendPolicy => self.backends.get(name).cloned().map(Object::Backend),
        }
    }

    /// Takes it out; true if it was there.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => taken(self.namespaces.remove(&name.name)),
            Kind::Node => taken(self.nodes.remove(&name.name)),
            Kind::ServiceAccount => self.service_accounts.remove(name).is_some(),
            Kind::Pod => taken(self.pods.remove(name)),
            Kind::Service => taken(self.services.remove(name)),
            Kind::EndpointSlice => taken(self.slices.remove(name)),
            Kind::NetworkPolicy => taken(self.network.remove(name)),
            Kind::AccessPolicy => taken(self.access.remove(name)),
            Kind::EncryptionPolicy => taken(self.encryption.remove(name)),
            Kind::NodeProfile => taken(self.profiles.remove(&name.name)),
            Kind::TelemetryPolicy => taken(self.telemetry.remove(name)),
            Kind::TrafficPolicy => taken(self.traffic.remove(name)),
            Kind::ExternalService => {
                let name = external::service_name(name);
                taken(self.slices.remove(&name)) | taken(self.services.remove(&name))
            }
            Kind::ExternalWorkload => taken(self.pods.remove(&external::workload_name(name))),
            Kind::HttpFault => taken(self.faults.remove(name)),
            Kind::HttpRoute | Kind::GrpcRoute => taken(self.routes.remove(&route_name(key))),
            Kind::ReferenceGrant => taken(self.grants.remove(name)),
            Kind::BackendPolicy => taken(self.backends.remove(name)),
        }
    }
}

fn route_name(key: &Key) -> RouteName {
    RouteName { kind: object::route_kind(key.kind), name: key.name.clone() }
}

fn taken<T>(one: Option<Arc<T>>) -> bool {
    one.is_some()
}
