//! `HTTPFault`: what is done to some requests, to see how those who call bear it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::PolicyStatus;

/// What is done to some of the requests of a route's rule that names this object as an `ExtensionRef` filter, from the same
/// namespace. Delay and abort are drawn one by one: a request may get neither, either or both, and then the delay comes first.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "HTTPFault",
    root = "HttpFault",
    plural = "httpfaults",
    namespaced,
    category = "millrace",
    shortname = "mrhf",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "What is done to some of a route's requests, to see how those who call bear it.",
    printcolumn = r#"{"name":"Delay","type":"string","jsonPath":".spec.delay.duration"}"#,
    printcolumn = r#"{"name":"Abort","type":"integer","jsonPath":".spec.abort.status"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct HttpFaultSpec {
    /// Makes some requests wait before they go on. Left out: none. One of `delay` and `abort` must stand here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FaultDelay")]
    pub delay: Option<FaultDelay>,
    /// Answers some requests in the place of a backend. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FaultAbort")]
    pub abort: Option<FaultAbort>,
}

/// How long some requests wait. Which ones: `percent` or `fraction` must say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long: numbers with a unit (`ms`, `s`, `m`, `h`), such as `250ms`; at most `1h`. The time counts towards the rule's
    /// `timeouts.request`.
    pub duration: String,
    /// So many of a hundred requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 100))]
    pub percent: Option<u32>,
    /// So many of so many requests, where a hundred is too coarse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FaultFraction")]
    pub fraction: Option<FaultFraction>,
}

/// What some requests are answered. Which ones: `percent` or `fraction` must say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// The status, from 400 to 599. A gRPC request gets the gRPC status that stands for it.
    #[schemars(range(min = 400, max = 599))]
    pub status: u32,
    /// So many of a hundred requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 100))]
    pub percent: Option<u32>,
    /// So many of so many requests, where a hundred is too coarse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FaultFraction")]
    pub fraction: Option<FaultFraction>,
}

/// So many of so many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultFraction {
    /// So many requests, at most `denominator`.
    pub numerator: u32,
    /// Of so many. Left out: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1))]
    pub denominator: Option<u32>,
}
