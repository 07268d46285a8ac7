//! Says what Millrace's own Kubernetes kinds are: the types that YAML is read into, and the definitions an API server is given.
//!
//! Depends on nothing of ours. What a field means is written once, on the field: the API server's `kubectl explain`
//! and `deploy/crds` say the same words. Fields that a kind does not have are found by the reader, not here.

pub mod access_policy;
pub mod encryption_policy;
pub mod external_service;
pub mod external_workload;
pub mod http_fault;
pub mod node_profile;
pub mod selector;
pub mod telemetry_policy;
pub mod traffic_policy;
mod wording;

pub use access_policy::{AccessAction, AccessPolicy, AccessPolicySpec, AccessRule, AccessSource, AccessTarget};
pub use encryption_policy::{EncryptionMode, EncryptionPolicy, EncryptionPolicySpec, PortEncryption, UdpMode};
pub use external_service::{ExternalEndpoint, ExternalPort, ExternalService, ExternalServiceSpec, PortProtocol};
pub use external_workload::{ExternalWorkload, ExternalWorkloadSpec, TunnelMode, WorkloadPort};
pub use http_fault::{FaultAbort, FaultDelay, FaultFraction, HttpFault, HttpFaultSpec};
use kube::CustomResourceExt as _;
pub use node_profile::{
    AccelerationProfile, Http2Profile, LabelExpression, LabelOperator, LimitsProfile, NodeProfile, NodeProfileSpec,
    NodeSelector, PodProfile, ProxyProfile,
};
pub use selector::{PolicyStatus, TargetRef, WorkloadSelector};
pub use telemetry_policy::{
    AccessLogs, FaultSide, Fraction, LogCondition, LogFormat, RecordingMode, Sampling, SpanCollector, SpanProtocol,
    TelemetryPolicy, TelemetryPolicySpec, TraceHeaders, Tracing,
};
pub use traffic_policy::{EjectionMode, OutlierEjection, TrafficPolicy, TrafficPolicySpec};

/// The API group of every kind here.
pub const GROUP: &str = "millrace.dev";

/// The version of every kind here.
pub const VERSION: &str = "v1alpha1";

/// `GROUP/VERSION`, as a manifest's `apiVersion` spells it.
pub const API_VERSION: &str = "millrace.dev/v1alpha1";

/// The definitions of all kinds, each with the file in `deploy/crds` that holds it, in order of kind.
pub fn crds() -> Vec<(&'static str, serde_json::Value)> {
    [
        ("accesspolicies.yaml", AccessPolicy::crd()),
        ("encryptionpolicies.yaml", EncryptionPolicy::crd()),
        ("externalservices.yaml", ExternalService::crd()),
        ("externalworkloads.yaml", ExternalWorkload::crd()),
        ("httpfaults.yaml", HttpFault::crd()),
        ("nodeprofiles.yaml", NodeProfile::crd()),
        ("telemetrypolicies.yaml", TelemetryPolicy::crd()),
        ("trafficpolicies.yaml", TrafficPolicy::crd()),
    ]
    .into_iter()
    // A definition is made of maps with string keys: it has no value that JSON can't hold.
    .map(|(file, crd)| (file, wording::worded(serde_json::to_value(crd).unwrap_or_default())))
    .collect()
}

/// One definition as the YAML that stands in `deploy/crds`.
pub fn yaml(crd: &serde_json::Value) -> Result<String, serde_yaml_ng::Error> {
    Ok(format!(
        "# Generated from api/crd by `cargo run -p millrace-crd --bin millrace-crds -- deploy/crds`.\n{}",
        serde_yaml_ng::to_string(crd)?
    ))
}
