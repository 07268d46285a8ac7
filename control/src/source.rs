//! Where the objects come from: a directory of manifests, or a Kubernetes API server. A source ends in `watch`ed [`Sourced`] values, whole each time.

use std::sync::Arc;

use millrace_model::Map;

use crate::{
    diagnostic::{Diagnostic, Key, Place},
    world::Objects,
};

pub mod directory;
pub mod inotify;
pub mod kubernetes;
pub mod manifest;
pub mod object;
pub mod shelf;
pub mod yaml;

/// All that a source has to say at one time.
#[derive(Clone, Debug, Default)]
pub struct Sourced {
    /// The objects in force.
    pub objects: Objects,
    /// Where each stands, for whoever finds fault with it later.
    pub places: Map<Key, Place>,
    /// What is wrong with what could not be taken.
    pub diagnostics: Vec<Diagnostic>,
    /// Which version of each object was read, where its status is to say so.
    pub revisions: Arc<kubernetes::Revisions>,
    /// Which object each is of those that bear no status, where an event may speak of it.
    pub uids: Arc<kubernetes::Uids>,
    /// What each route asks for, where its status is to say what became of it.
    pub asked: Arc<kubernetes::AllAsked>,
}

/// An object of any kind, parsed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// v1
    Namespace(Arc<crate::world::Namespace>),
    /// v1
    Node(Arc<crate::world::Node>),
    /// v1
    ServiceAccount,
    /// v1
    Pod(Arc<crate::world::Pod>),
    /// v1
    Service(Arc<crate::world::Service>),
    /// discovery.k8s.io/v1
    Slice(Arc<crate::world::Slice>),
    /// networking.k8s.io/v1
    Network(Arc<crate::world::network::NetworkPolicy>),
    /// millrace.dev/v1alpha1
    Access(Arc<crate::world::AccessPolicy>),
    /// millrace.dev/v1alpha1
    Encryption(Arc<crate::world::EncryptionPolicy>),
    /// millrace.dev/v1alpha1
    Profile(Arc<crate::world::NodeProfile>),
    /// millrace.dev/v1alpha1
    Telemetry(Arc<crate::world::TelemetryPolicy>),
    /// millrace.dev/v1alpha1
    Traffic(Arc<crate::world::TrafficPolicy>),
    /// millrace.dev/v1alpha1: a service, and its endpoints.
    ExternalService(Arc<crate::world::Service>, Arc<crate::world::Slice>),
    /// millrace.dev/v1alpha1: a pod of no node.
    ExternalWorkload(Arc<crate::world::Pod>),
    /// millrace.dev/v1alpha1
    Fault(Arc<crate::world::route::HttpFault>),
    /// gateway.networking.k8s.io/v1: either kind of route.
    Route(Arc<crate::world::route::Route>),
    /// gateway.networking.k8s.io/v1beta1
    Grant(Arc<crate::world::route::Grant>),
    /// gateway.networking.x-k8s.io/v1alpha1
    Backend(Arc<crate::world::BackendPolicy>),
}

impl Object {
    /// The object, where what it is worth beside others can depend on where it stands.
    pub fn placed(mut self, place: &Place) -> Self {
        // Of two that have a time it is the time that counts, then the name: as where no file is.
        if let Self::Route(route) = &mut self
            && route.age.made == crate::world::Made::Unknown
        {
            Arc::make_mut(route).age.place = Some((place.file.clone(), place.document));
        }
        self
    }
}

impl Objects {
    /// Puts one in.
    pub fn insert(&mut self, key: &Key, object: Object) {
        let name = key.name.clone();
        match object {
            Object::Namespace(namespace) => drop(self.namespaces.insert(name.name, namespace)),
            Object::Node(node) => drop(self.nodes.insert(name.name, node)),
            Object::ServiceAccount => drop(self.service_accounts.insert(name, ())),
            Object::Pod(pod) => drop(self.pods.insert(name, pod)),
            Object::Service(service) => drop(self.services.insert(name, service)),
            Object::Slice(slice) => drop(self.slices.insert(name, slice)),
            Object::Network(policy) => drop(self.network.insert(name, policy)),
            Object::Access(policy) => drop(self.access.insert(name, policy)),
            Object::Encryption(policy) => drop(self.encryption.insert(name, policy)),
            Object::Profile(profile) => drop(self.profiles.insert(name.name, profile)),
            Object::Telemetry(policy) => drop(self.telemetry.insert(name, policy)),
            Object::Traffic(policy) => drop(self.traffic.insert(name, policy)),
            Object::ExternalService(service, slice) => {
                self.services.insert(service.name.clone(), service.clone());
                self.slices.insert(service.name.clone(), slice);
            }
            Object::ExternalWorkload(pod) => drop(self.pods.insert(pod.name.clone(), pod)),
            Object::Fault(fault) => drop(self.faults.insert(name, fault)),
            Object::Route(route) => drop(self.routes.insert(route.name.clone(), route)),
            Object::Grant(grant) => drop(self.grants.insert(name, grant)),
            Object::Backend(policy) => drop(self.backends.insert(name, policy)),
        }
    }
}
