//! Says how a service's connections are spread: whether a client stays with its endpoint, and how far it may reach.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Outliers, RetryBudget};

/// How a service's connections are spread over its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Whether a client stays with the endpoint that it was given.
    pub affinity: Affinity,
    /// How far clients inside the cluster may reach.
    pub reach: Reach,
    /// Whether endpoints that fail are left out.
    pub outliers: Outliers,
    /// How many requests may be sent again.
    #[serde(default)]
    pub retries: RetryBudget,
}

/// Whether a client stays with the endpoint that it was given (`sessionAffinity`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    /// Each connection is drawn anew.
    #[default]
    None,
    /// A client stays while it comes back within this time of its last connection, and the endpoint may be given any.
    ClientIp {
        /// In whole seconds, from 1 to a day.
        timeout: Duration,
    },
}

/// How far clients inside the cluster may reach (`internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// To every endpoint.
    #[default]
    Cluster,
    /// To those of their own node alone: without one they are refused.
    Local,
}

/// Where an endpoint is, and for whom it is the near one. Kubernetes calls the latter hints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node it runs on, where that is known.
    pub node: Option<Arc<str>>,
    /// The nodes whose clients should take it before others.
    pub for_nodes: BTreeSet<Arc<str>>,
    /// The zones whose clients should.
    pub for_zones: BTreeSet<Arc<str>>,
}
