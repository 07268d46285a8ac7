//! `EncryptionPolicy`: whether a workload takes plain text from where nobody is attested.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{PolicyStatus, TargetRef, WorkloadSelector};

/// Whether mTLS is demanded. One policy decides for a workload, whole: one of its own namespace before one of the mesh's root
/// namespace, one that selects by label or target before one for the whole namespace; among equals the older one, then the
/// first by name. Where none applies, plain text is taken (Permissive).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "EncryptionPolicy",
    plural = "encryptionpolicies",
    namespaced,
    category = "millrace",
    shortname = "mrep",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Whether a workload demands mTLS of callers from other nodes.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0",
        "fieldPath": ".targetRefs", "message": "there is a selector too; keep one of selector and targetRefs"},
]))]
pub struct EncryptionPolicySpec {
    /// The pods that this policy binds. Left out, with no `targetRefs` either: every pod of the namespace (of the mesh,
    /// for a policy in the root namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadSelector")]
    pub selector: Option<WorkloadSelector>,
    /// The objects that this policy attaches to, instead of a selector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// The mode of every port that `ports` does not name.
    pub mode: EncryptionMode,
    /// The modes of single ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortEncryption>,
    /// Whether datagrams (UDP) are taken from other nodes and from outside the mesh, where they are in the clear and nobody
    /// knows who sends them. Within a node a pod is known by the kernel, and access policy alone decides. Left out: as strict as
    /// `mode`, which is Deny for Strict and Allow for Permissive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UdpMode")]
    pub udp: Option<UdpMode>,
}

/// Whether datagrams are taken from where nobody is attested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UdpMode {
    /// Where access policy lets a caller without identity in.
    #[default]
    Allow,
    /// None, save answers to what the pod asked.
    Deny,
}

/// Whether plain text is taken from where the kernel attested nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionMode {
    /// Only mTLS from other nodes, and callers that the kernel attested on the same node.
    Strict,
    /// Also plain text, where access policy lets a caller without identity in.
    #[default]
    Permissive,
}

/// The mode of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortEncryption {
    /// The port, as the application listens on it (a Service's `targetPort`, not its `port`).
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The mode of this port, in place of the policy's.
    pub mode: EncryptionMode,
}
