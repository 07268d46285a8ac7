//! `TelemetryPolicy`: what is recorded of a workload's requests, and where it goes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{PolicyStatus, TargetRef, WorkloadSelector};

/// What is recorded of the requests that the selected pods make to ports with routes. One policy decides for a pod, whole: one of
/// its own namespace before one of the mesh's root namespace, one that selects by label or target before one for the whole
/// namespace; among equals the older one, then the first by name. Where none applies, requests are counted, and nothing else.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "TelemetryPolicy",
    plural = "telemetrypolicies",
    namespaced,
    category = "millrace",
    shortname = "mrtl",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "What is recorded of a workload's requests: metrics, access logs, traces.",
    printcolumn = r#"{"name":"Collector","type":"string","jsonPath":".spec.tracing.collector.service"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0",
        "fieldPath": ".targetRefs", "message": "there is a selector too; keep one of selector and targetRefs"},
]))]
pub struct TelemetryPolicySpec {
    /// The pods whose requests this policy is for. Left out, with no `targetRefs` either: every pod of the namespace (of the mesh,
    /// for a policy in the root namespace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadSelector")]
    pub selector: Option<WorkloadSelector>,
    /// The objects that this policy attaches to, instead of a selector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// Whether requests are counted and timed. Left out: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RecordingMode")]
    pub metrics: Option<RecordingMode>,
    /// What is written of each request. Left out: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AccessLogs")]
    pub access_logs: Option<AccessLogs>,
    /// Which requests are traced. Left out: none, and headers of traces pass as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tracing")]
    pub tracing: Option<Tracing>,
    /// Whether requests may be watched live, by `millrace tap` on their node. Left out: Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RecordingMode")]
    pub tap: Option<RecordingMode>,
}

// Not On and Off: YAML as `kubectl` reads it takes those for truth values.
/// Whether something is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordingMode {
    /// It is.
    #[default]
    Enabled,
    /// It is not.
    Disabled,
}

/// What is written of requests, a line each, to where the proxy's `--access-log` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogs {
    /// How a line looks. Left out: JSON.
    #[serde(default)]
    pub format: LogFormat,
    /// The fields of a JSON line, in this order; `header.NAME` is a header of the request. Left out: every field that has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = 64))]
    pub fields: Option<Vec<String>>,
    /// A text line, with fields as `{method}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 2048))]
    pub template: Option<String>,
    /// Which part of the requests that fit is written, drawn by chance. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Sampling")]
    pub sampling: Option<Sampling>,
    /// Only requests that fit one of these are written. Left out: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub only: Vec<LogCondition>,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// A JSON object.
    #[default]
    #[serde(rename = "JSON")]
    Json,
    /// The template, filled in.
    Text,
}

/// A part of all requests. One of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// So many of a hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 100))]
    pub percent: Option<u32>,
    /// A finer part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Fraction")]
    pub fraction: Option<Fraction>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fraction {
    /// How many are taken.
    pub numerator: u32,
    /// Of how many. Left out: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1))]
    pub denominator: Option<u32>,
}

/// What must hold of a request for it to be written. All that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogCondition {
    /// Its answer's status is this or a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 100, max = 599))]
    pub min_status: Option<u16>,
    /// Its answer's status is this or a lower one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 100, max = 599))]
    pub max_status: Option<u16>,
    /// It failed before an application had answered it whole, by the fault of one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<FaultSide>", length(min = 1, max = 3))]
    pub faults: Option<Vec<FaultSide>>,
    /// It took this long or longer: a number with a unit (`ms`, `s`, `m`, `h`), such as `500ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub slower_than: Option<String>,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FaultSide {
    /// The caller's.
    #[default]
    Client,
    /// That of something between the two.
    Mesh,
    /// The called one's.
    Upstream,
}

/// Which requests are traced, and who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Which part of the requests that come without a decision on it. One that comes with a decision keeps it. Left out: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Sampling")]
    pub sampling: Option<Sampling>,
    /// The headers by which a trace that begins here is told on. A trace that came with others is told on by those. Left out: W3C.
    #[serde(default)]
    pub begins: TraceHeaders,
    /// Who is told of spans. Left out: nobody; then headers are set and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SpanCollector")]
    pub collector: Option<SpanCollector>,
}

/// Headers that tell of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TraceHeaders {
    /// `traceparent`.
    #[default]
    W3C,
    /// `b3`.
    B3,
    /// `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`.
    B3Multi,
}

/// Who is told of spans: a Service. A pod's spans go to it from the pod's own network, as the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpanCollector {
    /// The Service's name.
    pub service: String,
    /// The Service's namespace. Left out: the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub namespace: Option<String>,
    /// The Service's port. Left out: 4318 for OTLPHTTP, 4317 for OTLPGRPC, 9411 for Zipkin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// What it takes.
    pub protocol: SpanProtocol,
}

/// How spans are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SpanProtocol {
    /// OpenTelemetry's protobuf, posted to `/v1/traces`.
    #[default]
    #[serde(rename = "OTLPHTTP")]
    OtlpHttp,
    /// OpenTelemetry's gRPC.
    #[serde(rename = "OTLPGRPC")]
    OtlpGrpc,
    /// Zipkin's JSON of version 2, posted to `/api/v2/spans`.
    Zipkin,
}
