//! `ExternalService`: a service outside the cluster, whose address pods call and whose endpoints are given.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::PolicyStatus;

/// A service outside the cluster. What pods of the mesh call at one of its addresses is spread over its endpoints as a Service's is: by
/// zone first, and those that fail are left out. The mesh resolves no name: whatever gives pods the address is not its part.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "ExternalService",
    plural = "externalservices",
    namespaced,
    category = "millrace",
    shortname = "mrxs",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "A service outside the cluster: the addresses that pods call, and the endpoints they are spread over.",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.addresses[0]"}"#,
    printcolumn = r#"{"name":"Endpoint","type":"string","jsonPath":".spec.endpoints[0].address"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceSpec {
    /// The addresses that pods call: one of each family at most, and no pod's, node's or Service's.
    #[schemars(length(min = 1, max = 2))]
    pub addresses: Vec<String>,
    /// The ports that pods call.
    #[schemars(length(min = 1, max = 100))]
    pub ports: Vec<ExternalPort>,
    /// Who serves: any of these. The mesh resolves no name, so that there must be some.
    #[schemars(length(min = 1, max = 1000))]
    pub endpoints: Vec<ExternalEndpoint>,
}

/// One port of a service outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPort {
    /// The number that pods call.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The transport of this port.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// Its name; needed where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Where the endpoints listen. Left out: at `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1, max = 65535))]
    pub target_port: Option<u16>,
}

/// One who serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalEndpoint {
    /// Its address. Where an ExternalWorkload or a pod has it, that is who is called.
    pub address: String,
    /// The zone it is in. Where every endpoint says its zone, clients are given those of their own first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 63))]
    pub zone: Option<String>,
}

/// A transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PortProtocol {
    /// TCP
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP
    #[serde(rename = "UDP")]
    Udp,
}
