//! Says where an endpoint is and for whom it is the near one: by its slice's hints, else as Kubernetes' own controller would
//! write them for the service's `trafficDistribution`.

use std::sync::Arc;

use millrace_model::Place;

use crate::world::{Distribution, Slice};

/// The distribution to write hints for: none where some slice has hints already, whoever wrote them.
pub(super) fn unwritten(distribution: Distribution, slices: &[&Slice]) -> Distribution {
    let mut places = slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| &endpoint.place);
    if places.any(|place| !place.for_nodes.is_empty() || !place.for_zones.is_empty()) {
        return Distribution::Even;
    }
    distribution
}

/// The place of an endpoint of this node and zone.
pub(super) fn place(distribution: Distribution, node: Option<&Arc<str>>, zone: Option<&Arc<str>>) -> Place {
    let (by_node, by_zone) = match distribution {
        Distribution::Even => (None, None),
        Distribution::SameZone => (None, zone),
        Distribution::SameNode => (node, zone),
    };
    Place {
        node: node.cloned(),
        for_nodes: by_node.into_iter().cloned().collect(),
        for_zones: by_zone.into_iter().cloned().collect(),
    }
}

/// What two places of one endpoint come to, in whatever order they are met.
pub(super) fn joined(one: Place, other: Place) -> Place {
    let Place { node, mut for_nodes, mut for_zones } = one;
    for_nodes.extend(other.for_nodes);
    for_zones.extend(other.for_zones);
    // None is less than any name.
    let node = match (node, other.node) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Place { node, for_nodes, for_zones }
}
