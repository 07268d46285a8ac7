//! The labels of an edge: names in the conventions of other meshes' metrics, so that their dashboards are soon changed.

use std::sync::Arc;

use millrace_abi::Side;
use millrace_model::{ObjectName, Workload};
use prometheus_client::encoding::EncodeLabelSet;

use crate::flows::ended::side_name;

/// Where a name is not known: somebody outside the mesh, or a pod that is gone.
const UNKNOWN: &str = "unknown";

/// Every name of the series that takes what has none of its own.
const OTHER: &str = "other";

/// Who calls whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    reporter: &'static str,
    path: &'static str,
    source_workload: Arc<str>,
    source_namespace: Arc<str>,
    source_service_account: Arc<str>,
    destination_workload: Arc<str>,
    destination_namespace: Arc<str>,
    destination_service: Arc<str>,
}

impl Labels {
    pub(super) fn of(
        side: Side,
        path: &'static str,
        (source, target): (Option<&Workload>, Option<&Workload>),
        service: Option<&ObjectName>,
    ) -> Self {
        let unknown = || Arc::from(UNKNOWN);
        let name = |workload: Option<&Workload>| workload.map_or_else(unknown, |w| w.name.name.clone());
        let namespace = |workload: Option<&Workload>| workload.map(|w| w.name.namespace.clone());
        Self {
            reporter: side_name(side),
            path,
            source_workload: name(source),
            source_namespace: namespace(source).unwrap_or_else(unknown),
            source_service_account: source.map_or_else(unknown, |w| w.identity.service_account.clone()),
            destination_workload: name(target),
            destination_namespace: namespace(target)
                .or_else(|| service.map(|service| service.namespace.clone()))
                .unwrap_or_else(unknown),
            destination_service: service.map_or_else(|| Arc::from(""), |service| service.name.clone()),
        }
    }

    /// Those of what has no series of its own.
    pub(super) fn other(side: Side) -> Self {
        let other = || Arc::from(OTHER);
        Self {
            reporter: side_name(side),
            path: OTHER,
            source_workload: other(),
            source_namespace: other(),
            source_service_account: other(),
            destination_workload: other(),
            destination_namespace: other(),
            destination_service: other(),
        }
    }
}
