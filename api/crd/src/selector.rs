//! What every policy has: which workloads it selects, and what became of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Selects pods by their labels, in the policy's own namespace; in every namespace for a policy in the mesh's root namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Every one of these labels must be on the pod, with this value. Without any, all pods are selected.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// An object that a policy attaches to, as Gateway API policies do; always in the policy's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// The API group of the target: empty for the core kinds.
    #[serde(default)]
    pub group: String,
    /// The kind of the target. `ServiceAccount` selects the pods that run as it.
    pub kind: String,
    /// The name of the target.
    pub name: String,
}

/// What became of a policy, told by conditions: `Accepted` (it can be read and compiled) and `Enforced` (every node that runs
/// what it selects has applied it).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The conditions, at most one of each type. Each controller writes its own types and leaves others' alone.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
