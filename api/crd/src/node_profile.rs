//! `NodeProfile`: how the nodes that it selects are tuned.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::PolicyStatus;

/// How nodes are tuned: proxy, connections, kernel maps, limits of workloads. Speed and room, never who may call whom. One
/// profile decides for a node, whole: of several that select it the older, then the first by name; they are never merged.
/// What a profile leaves out has Millrace's own default. docs/TUNING.md says what each field helps, with measurements.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "NodeProfile",
    plural = "nodeprofiles",
    category = "millrace",
    shortname = "mrnp",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "How the nodes that it selects are tuned.",
    printcolumn = r#"{"name":"Workers","type":"integer","jsonPath":".spec.proxy.workers"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Enforced","type":"string","jsonPath":".status.conditions[?(@.type==\"Enforced\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeProfileSpec {
    /// The nodes that this profile tunes, by their labels. Left out, or empty: every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NodeSelector")]
    pub node_selector: Option<NodeSelector>,
    /// What is asked of the node's proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ProxyProfile")]
    pub proxy: Option<ProxyProfile>,
    /// What is asked for the connections that pods of the mesh make and take themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodProfile")]
    pub pods: Option<PodProfile>,
    /// How many entries kernel maps hold, by the map's name as `millrace status` shows it. In force after the agent's next
    /// start, which carries the entries over.
    #[serde(default)]
    pub maps: BTreeMap<String, u32>,
    /// What one workload may take of the proxy that it shares with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LimitsProfile")]
    pub workload_limits: Option<LimitsProfile>,
    /// Ways to be quicker that change nothing but speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AccelerationProfile")]
    pub acceleration: Option<AccelerationProfile>,
}

/// Selects nodes by their labels: all of `matchLabels`, and all of `matchExpressions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// Every one of these labels must be on the node, with this value.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Every one of these must hold of the node's labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One thing that must hold of a node's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelExpression {
    /// The label's name.
    pub key: String,
    /// What must hold of it.
    pub operator: LabelOperator,
    /// The values of In and NotIn; none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What must hold of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It is there with one of the values.
    #[default]
    In,
    /// It is not there, or with none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// What is asked of the node's proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProfile {
    /// Threads that carry connections. Left out: one for each processor. Applied live; a thread too many ends with its
    /// last connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1, max = 256))]
    pub workers: Option<u16>,
    /// The processors that the workers run on, one worker on each in turn, such as `0-3,8`. Left out: wherever the kernel puts
    /// them. Applied live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub cpus: Option<String>,
    /// Windows and frames of the HTTP/2 in tunnels. Applied to tunnels opened from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Http2Profile")]
    pub http2: Option<Http2Profile>,
    /// A tunnel socket's send buffer in bytes; the kernel grants no more than net.core.wmem_max. Left out: the kernel sizes it
    /// by itself, which is the better choice on most networks. Applied to tunnels opened from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 4096, max = 268435456))]
    pub send_buffer_bytes: Option<u32>,
    /// A tunnel socket's receive buffer in bytes; the kernel grants no more than net.core.rmem_max. Left out: as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 4096, max = 268435456))]
    pub receive_buffer_bytes: Option<u32>,
    /// The congestion control of tunnels, such as `bbr`, `cubic` or `dctcp`. A kernel without it keeps its default, which status
    /// says. Applied to tunnels opened from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub congestion_control: Option<String>,
}

/// Windows and frames of the HTTP/2 in tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Http2Profile {
    /// What one stream, and so one connection of an application, may have under way in bytes. It is also what the proxy holds
    /// for an application that has stopped reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 65535, max = 2147483647))]
    pub stream_window_bytes: Option<u32>,
    /// What all streams of one tunnel may have under way in bytes. Left out: 64 times the stream's, so that streams which
    /// stand still never stop the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 65535, max = 2147483647))]
    pub connection_window_bytes: Option<u32>,
    /// The largest frame taken, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 16384, max = 16777215))]
    pub frame_bytes: Option<u32>,
}

/// What is asked for the connections that pods of the mesh make and take themselves. Applied to new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodProfile {
    /// Their congestion control. Left out: what the application or its namespace chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub congestion_control: Option<String>,
    /// How many segments may be sent before the first acknowledgement. Left out: the kernel's 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = 1000))]
    pub initial_window_segments: Option<u32>,
}

/// What one workload may take of the proxy that it shares with others. Applied at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsProfile {
    /// Connections carried at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1))]
    pub max_connections: Option<u32>,
    /// Connections whose opening is under way: handshakes and dials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1))]
    pub max_pending_connections: Option<u32>,
    /// Bytes that wait in the proxy for somebody to read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64", range(min = 65536))]
    pub max_buffered_bytes: Option<u64>,
    /// Its part of the proxy's time where all want more than there is: twice the weight, twice the part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = 10000))]
    pub share_weight: Option<u32>,
    /// The processor time that the proxy spends on one workload at most, also where nobody else wants it: a quantity such as `250m`
    /// or `2`, from 10m to 256. What is over it waits, the workload's own work alone. Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IntOrString")]
    pub cpu: Option<IntOrString>,
}

/// Ways to be quicker that change nothing but speed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccelerationProfile {
    /// Bytes between sockets of one node past the TCP stack. Only false can be written: on the kernels tried it has no
    /// backpressure, and so is not safe.
    #[serde(default)]
    pub sockmap: bool,
}
