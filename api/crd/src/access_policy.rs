//! `AccessPolicy`: who may call a workload, by identity, namespace, address and port.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{PolicyStatus, TargetRef, WorkloadSelector};

/// Who may call what. A workload that no AccessPolicy selects may be called by all. One Allow that selects it closes it to
/// every caller that no Allow matches. A Deny that matches wins over any Allow. The order of policies never matters.
/// In the mesh's root namespace a policy applies in every namespace, elsewhere in its own.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    namespaced,
    category = "millrace",
    shortname = "mrap",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Who may call a workload: by identity, namespace, address and port.",
    printcolumn = r#"{"name":"Action","type":"string","jsonPath":".spec.action"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0",
        "fieldPath": ".targetRefs", "message": "there is a selector too; keep one of selector and targetRefs"},
    {"rule": "self.action != 'Deny' || (has(self.rules) && size(self.rules) > 0)",
        "fieldPath": ".rules", "message": "a Deny without rules denies nothing; add the rule {} to deny every call, or say which"},
]))]
pub struct AccessPolicySpec {
    /// The pods that this policy binds. Left out, with no `targetRefs` either: every pod of the namespace (of the mesh,
    /// for a policy in the root namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadSelector")]
    pub selector: Option<WorkloadSelector>,
    /// The objects that this policy attaches to, instead of a selector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// What is done with a call that a rule matches.
    #[serde(default)]
    pub action: AccessAction,
    /// The calls spoken of: a call is matched when any rule matches it. An Allow without rules matches nothing, and so
    /// denies all.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub rules: Vec<AccessRule>,
}

/// What is done with a call that a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessAction {
    /// It is let through; calls that no Allow matches are denied.
    #[default]
    Allow,
    /// It is refused, whatever any Allow says.
    Deny,
}

/// Matches a call whose caller is one of `from` and whose target is one of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// The callers: any of these. Left out: every caller, also one without identity. An empty list is refused, since it
    /// could be read either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<AccessSource>", length(min = 1))]
    pub from: Option<Vec<AccessSource>>,
    /// What they call: any of these. Left out: everything. An empty list is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<AccessTarget>", length(min = 1))]
    pub to: Option<Vec<AccessTarget>>,
}

/// One way to say who calls. Exactly one of the fields is set; to mean another beside it, write another item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct AccessSource {
    /// Callers with one of these identities: `namespace/service-account` in the mesh's trust domain, or a whole SPIFFE id
    /// (`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub identities: Option<Vec<String>>,
    /// Callers with any identity in one of these namespaces of the mesh's trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub namespaces: Option<Vec<String>>,
    /// Callers from one of these blocks of addresses, such as `10.0.0.0/8` or `fd00::/8`, with or without identity. An
    /// address is weaker than an identity: it says where a call comes from, not who makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub ip_blocks: Option<Vec<String>>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessTarget {
    /// Any of these ports, as the application listens on them (a Service's `targetPort`, not its `port`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<u16>", length(min = 1), inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<u16>>,
}
