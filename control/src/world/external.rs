//! How what is outside Kubernetes stands among what is within: an ExternalWorkload is a pod of no node, an ExternalService a service
//! with a slice. No object's name has a colon, so that none is taken for another.

use millrace_model::ObjectName;

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

/// True for a machine outside Kubernetes.
pub fn is_outside(pod: &Pod) -> bool {
    pod.name.name.starts_with(WORKLOAD)
}
