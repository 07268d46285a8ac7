//! Reads what stands in no namespace: namespaces and nodes.

use k8s_openapi::api::core::v1 as core;

use super::meta;
use crate::{
    diagnostic::Problems,
    world::{Namespace, Node},
};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub(super) fn namespace(namespace: &core::Namespace, problems: &mut Problems) -> Namespace {
    meta::check(&namespace.metadata, problems);
    Namespace { mesh: meta::wish(&namespace.metadata, problems) }
}

pub(super) fn node(node: &core::Node, problems: &mut Problems) -> Node {
    let labels = meta::labels(node.metadata.labels.as_ref(), "metadata.labels", problems);
    let zone = labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into());
    Node { zone, labels }
}
