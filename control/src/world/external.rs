//! How what is outside Kubernetes stands among what is within: an ExternalWorkload is a pod of no node, an ExternalService a service
//! with a slice. No object's name has a colon, so that none is taken for another.

use std::sync::Arc;

use millrace_model::{Map, ObjectName};

use super::Pod;
use crate::diagnostic::{Key, Kind};

const SERVICE: &str = "externalservice:";
const WORKLOAD: &str = "externalworkload:";

/// An ExternalService's name among services and slices.
pub fn service_name(own: &ObjectName) -> ObjectName {
    prefixed(SERVICE, own)
}

/// An ExternalWorkload's name among pods.
pub fn workload_name(own: &ObjectName) -> ObjectName {
    prefixed(WORKLOAD, own)
}

fn prefixed(prefix: &str, own: &ObjectName) -> ObjectName {
    ObjectName { namespace: own.namespace.clone(), name: format!("{prefix}{}", own.name).into() }
}

/// The object that somebody wrote, of what stands so in the World.
pub fn written(kind: Kind, name: &ObjectName) -> Key {
    let own = |kind, own: &str| Key { kind, name: ObjectName { namespace: name.namespace.clone(), name: own.into() } };
    if let Some(service) = name.name.strip_prefix(SERVICE) {
        own(Kind::ExternalService, service)
    } else if let Some(workload) = name.name.strip_prefix(WORKLOAD) {
        own(Kind::ExternalWorkload, workload)
    } else {
        Key { kind, name: name.clone() }
    }
}

/// The machines of a namespace: they stand together among its pods, so that nobody looks through these for one.
pub fn within<'w>(
    pods: &'w Map<ObjectName, Arc<Pod>>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'w Pod> + use<'w> {
    let first = ObjectName { namespace: namespace.clone(), name: WORKLOAD.into() };
    let namespace = namespace.clone();
    let own = move |name: &ObjectName| name.namespace == namespace && name.name.starts_with(WORKLOAD);
    pods.starting_at(&first).take_while(move |(name, _)| own(name)).map(|(_, pod)| &**pod)
}

/// True for a machine outside Kubernetes.
pub fn is_outside(pod: &Pod) -> bool {
    pod.name.name.starts_with(WORKLOAD)
}
