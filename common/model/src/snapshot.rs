//! Holds everything the data plane needs, at one generation. Immutable: a change is another Snapshot.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Endpoints, Map, NodeProfile, ObjectName, Policy, Routes, Service, Telemetry, Workload};

/// The whole mesh, compiled. No secret is ever in one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which compile made it: grows with every change, also across a restart of the control plane. 0 is the empty one.
    pub generation: u64,
    /// The trust domain of every identity in it.
    pub trust_domain: Arc<str>,
    /// Pods, by namespace and name.
    pub workloads: Map<ObjectName, Arc<Workload>>,
    /// Services, by namespace and name.
    pub services: Map<ObjectName, Arc<Service>>,
    /// What stands behind them, by the service's name.
    pub endpoints: Map<ObjectName, Arc<Endpoints>>,
    /// Access policies, by namespace and name.
    pub policies: Map<ObjectName, Arc<Policy>>,
    /// How nodes are tuned, by the node's name. A node is shown its own alone.
    #[serde(default)]
    pub profiles: Map<Arc<str>, Arc<NodeProfile>>,
    /// What becomes of requests, by the name of the service that they are sent to.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub routes: Map<ObjectName, Arc<Routes>>,
    /// What is recorded of requests, by the policy's name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub telemetry: Map<ObjectName, Arc<Telemetry>>,
}
