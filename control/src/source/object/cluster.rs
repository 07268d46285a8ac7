//! Reads what stands in no namespace: namespaces and nodes.

use k8s_openapi::api::core::v1 as core;

use super::meta;
use crate::{
    diagnostic::Problems,
    world::{Namespace, Node},
};

/// By which a selector names one namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub(super) fn namespace(namespace: &core::Namespace, problems: &mut Problems) -> Namespace {
    let mut labels = meta::labels(namespace.metadata.labels.as_ref(), "metadata.labels", problems);
    // The API server gives it to every namespace; a file may leave it out.
    labels.extend(namespace.metadata.name.clone().map(|name| (NAME_LABEL.to_owned(), name)));
    Namespace { mesh: meta::wish(&namespace.metadata, problems), labels }
}

pub(super) fn node(node: &core::Node, problems: &mut Problems) -> Node {
    let labels = meta::labels(node.metadata.labels.as_ref(), "metadata.labels", problems);
    let zone = labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into());
    Node { zone, labels }
}
