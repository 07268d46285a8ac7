//! `TrafficPolicy`: how callers treat a Service's endpoints. So far: when they leave out those that fail.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{PolicyStatus, TargetRef};

/// How callers treat the endpoints of Services. One policy decides for a Service, whole: the older one, then the first by name.
/// Where none applies, the defaults below do.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    category = "millrace",
    shortname = "mrtp",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "How callers treat a Service's endpoints: when those that fail are left out.",
    printcolumn = r#"{"name":"Ejection","type":"string","jsonPath":".spec.outlierEjection.mode"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The Services that this policy is for, by name, in the policy's own namespace. `kind` is `Service`, `group` is empty.
    #[schemars(length(min = 1))]
    pub target_refs: Vec<TargetRef>,
    /// When an endpoint to which connections fail is left out, and for how long. Each node decides for its own pods, by what
    /// they meet.
    pub outlier_ejection: OutlierEjection,
}

/// When an endpoint is left out. Times are numbers with a unit (`ms`, `s`, `m`, `h`), such as `30s` or `1m30s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierEjection {
    /// Whether failing endpoints are left out at all.
    #[serde(default)]
    pub mode: EjectionMode,
    /// So many connections in a row that could not be made leave an endpoint out. Left out: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// A failure that comes later than this after the one before begins the count anew. Left out: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub interval: Option<String>,
    /// How long the first ejection lasts; the second in a row lasts twice as long, and so on. Left out: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub base_ejection_time: Option<String>,
    /// How long an ejection lasts at most. Left out: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub max_ejection_time: Option<String>,
    /// The part of the endpoints that may be out at once, in percent; never all of them, whatever it says. Left out: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 100))]
    pub max_ejected_percent: Option<u32>,
}

// Not On and Off: YAML as `kubectl` reads it takes those for truth values.
/// Whether failing endpoints are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EjectionMode {
    /// They are.
    #[default]
    Enabled,
    /// They are not.
    Disabled,
}
