//! `ExternalWorkload`: a machine outside Kubernetes that Services select as they do pods.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{external_service::PortProtocol, selector::PolicyStatus};

/// A machine outside Kubernetes. Services of its namespace select it by its labels, beside pods. It is called plainly, as without a
/// mesh, unless `tunnel` says otherwise; what it calls has no identity unless it calls by tunnel itself.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "ExternalWorkload",
    plural = "externalworkloads",
    namespaced,
    category = "millrace",
    shortname = "mrew",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "A machine outside Kubernetes that Services select by its labels, as they do pods.",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.addresses[0]"}"#,
    printcolumn = r#"{"name":"Tunnel","type":"string","jsonPath":".spec.tunnel"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalWorkloadSpec {
    /// Its addresses: one of each family at most, first the primary one.
    #[schemars(length(min = 1, max = 2))]
    pub addresses: Vec<String>,
    /// The service account that its identity names, in the object's namespace. It need not exist.
    #[serde(default = "default_account")]
    pub service_account: String,
    /// Its ports that have names: a Service's `targetPort` may say one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub ports: Vec<WorkloadPort>,
    /// The zone it is in, as nodes' label `topology.kubernetes.io/zone` says theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Its share among a Service's endpoints; 0 takes none. Left out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 65535))]
    pub weight: Option<u32>,
    /// Whether it is called by tunnel.
    #[serde(default)]
    pub tunnel: TunnelMode,
}

fn default_account() -> String {
    "default".to_owned()
}

/// A port with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Its name, as a Service's `targetPort` spells it.
    pub name: String,
    /// Its number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The transport that it takes.
    #[serde(default)]
    pub protocol: PortProtocol,
}

/// Whether a machine is called by tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TunnelMode {
    /// Plainly, as without a mesh.
    #[default]
    Disabled,
    /// By mTLS tunnels (HBONE) to its port 15008, where its certificate must name its identity; never plainly.
    Enabled,
}
