//! Holds the cluster as watched: the objects, read and checked, and what the nodes report. A value; the two sources feed the same one.
//!
//! Everything here was parsed: a port is a port, an address an address. `compile` reads this and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_model::{
    Action, Encryption, Map, ObjectName, Outliers, Place, Protocol, RetryBudget, RouteName, Rule, Session, Telemetry,
    Traffic,
};
use serde::{Deserialize, Serialize};

pub mod external;
pub mod network;
pub mod route;

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The trust domain of every identity.
    pub trust_domain: Arc<str>,
    /// The namespace whose policies apply everywhere.
    pub root_namespace: Arc<str>,
}

/// The cluster as watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// The objects.
    pub objects: Objects,
    /// What each node said last of the listeners it holds open: a node that is away keeps its say, for its traffic goes on.
    pub listening: Listening,
    /// The nodes that were taken out: nobody is sent to a pod there.
    pub revoked: BTreeSet<Arc<str>>,
}

/// By node, the pods whose listeners are open there.
pub type Listening = BTreeMap<Arc<str>, Arc<BTreeSet<Listener>>>;

/// The objects, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// By name alone.
    pub namespaces: Map<Arc<str>, Arc<Namespace>>,
    /// By name alone.
    pub nodes: Map<Arc<str>, Arc<Node>>,
    /// Those that exist.
    pub service_accounts: Map<ObjectName, ()>,
    /// Pods that have a node, or may get one.
    pub pods: Map<ObjectName, Arc<Pod>>,
    /// Services.
    pub services: Map<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub slices: Map<ObjectName, Arc<Slice>>,
    /// NetworkPolicies.
    pub network: Map<ObjectName, Arc<network::NetworkPolicy>>,
    /// AccessPolicies.
    pub access: Map<ObjectName, Arc<AccessPolicy>>,
    /// EncryptionPolicies.
    pub encryption: Map<ObjectName, Arc<EncryptionPolicy>>,
    /// TelemetryPolicies.
    pub telemetry: Map<ObjectName, Arc<TelemetryPolicy>>,
    /// TrafficPolicies.
    pub traffic: Map<ObjectName, Arc<TrafficPolicy>>,
    /// NodeProfiles, by name alone.
    pub profiles: Map<Arc<str>, Arc<NodeProfile>>,
    /// HTTPFaults.
    pub faults: Map<ObjectName, Arc<route::HttpFault>>,
    /// HTTPRoutes and GRPCRoutes.
    pub routes: Map<RouteName, Arc<route::Route>>,
    /// ReferenceGrants.
    pub grants: Map<ObjectName, Arc<route::Grant>>,
    /// XBackendTrafficPolicies.
    pub backends: Map<ObjectName, Arc<BackendPolicy>>,
}

/// What the label `millrace.dev/mesh` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `enabled`
    Enabled,
    /// `disabled`
    Disabled,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// What its label asks for its pods.
    pub mesh: Option<Wish>,
    /// Its labels, its own name among them.
    pub labels: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub name: ObjectName,
    /// What tells it from one made again under its name: no uid, so that one world is one Snapshot whoever tells of it.
    pub instance: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The service account it runs as.
    pub service_account: Arc<str>,
    /// The node it was given; None while it waits for one.
    pub node: Option<Arc<str>>,
    /// Its addresses, primary first, never v4-mapped.
    pub addresses: Vec<IpAddr>,
    /// Path of its network namespace, or of its cgroup where it shares its node's network.
    pub netns: Option<Arc<str>>,
    /// Whose network it has.
    pub network: Network,
    /// What its own label asks.
    pub mesh: Option<Wish>,
    /// How far it is.
    pub life: Life,
    /// When it was made: of two with one address, the older has it.
    pub made: Made,
    /// Its containers' named ports.
    pub ports: BTreeMap<(Arc<str>, Protocol), u16>,
    /// The ports that its containers' probes ask at the pod's own address.
    pub probe_ports: BTreeSet<u16>,
    /// Its zone, where its node does not say.
    pub zone: Option<Arc<str>>,
    /// Its share among a service's endpoints.
    pub weight: u32,
}

/// Whose network a pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Its own namespace.
    Own,
    /// Its node's.
    Host,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It serves.
    Ready,
    /// It does not serve now.
    Unready,
    /// It was told to go, and serves still.
    Leaving,
    /// It was told to go, and serves no more.
    Terminating,
    /// All its containers ended: its addresses are no longer its own.
    Ended,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its virtual addresses; none for a headless one.
    pub addresses: Vec<IpAddr>,
    /// Its ports, ordered by number and protocol.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods; None where its EndpointSlices are made by hand.
    pub selector: Option<BTreeMap<String, String>>,
    /// Whether pods that are not ready take connections all the same.
    pub unready: Unready,
    /// How its connections are spread.
    pub traffic: Traffic,
    /// Whom its connections go to first.
    pub distribution: Distribution,
}

/// Whom a service's connections go to first (`trafficDistribution`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Nobody before another.
    #[default]
    Even,
    /// Endpoints of the client's zone: `PreferSameZone`, and `PreferClose`, its older name.
    SameZone,
    /// Endpoints of the client's node, then of its zone: `PreferSameNode`.
    SameNode,
}

/// Whether a service gives connections to pods that are not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// It does not.
    LeftOut,
    /// `publishNotReadyAddresses`
    Taken,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// What clients connect to.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Its name; empty for an unnamed one.
    pub name: Arc<str>,
    /// Where the application listens.
    pub target: TargetPort,
    /// What it says it speaks (`appProtocol`).
    pub speaks: Option<Arc<str>>,
}

/// Where the application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// On this port.
    Number(u16),
    /// On its container's port of this name.
    Name(Arc<str>),
}

/// Endpoints of a service, as somebody else worked them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The service they stand behind.
    pub service: ObjectName,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports each has.
    pub ports: Vec<SlicePort>,
}

/// One port of a slice's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port that leads to it; empty for an unnamed one.
    pub name: Arc<str>,
    /// The transport.
    pub protocol: Protocol,
    /// Where the application listens.
    pub target: u16,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, which are interchangeable.
    pub addresses: Vec<IpAddr>,
    /// Whether it serves.
    pub ready: millrace_model::service::Readiness,
    /// Where it is and for whom it is the near one, by the slice's word.
    pub place: Place,
    /// Its zone, where the slice says so.
    pub zone: Option<Arc<str>>,
    /// The pod, where it says so.
    pub pod: Option<ObjectName>,
}

/// Which pods a policy binds, of those in its reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All.
    All,
    /// Those with all these labels.
    Labels(BTreeMap<String, String>),
    /// Those that run as one of these service accounts.
    ServiceAccounts(BTreeSet<Arc<str>>),
}

/// When an object was made, in seconds since 1970; one whose source does not say comes after all that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Made {
    /// Then.
    At(i64),
    /// The source does not say.
    Unknown,
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// Which pods it binds.
    pub target: Target,
    /// What a match means.
    pub action: Action,
    /// What it matches.
    pub rules: Vec<Rule>,
}

/// Whether plain text is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// When it was made: of two that say different, the older holds.
    pub made: Made,
    /// Which pods it binds.
    pub target: Target,
    /// What it says.
    pub encryption: Encryption,
}

/// What is recorded of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryPolicy {
    /// When it was made: of two that select a pod, the older decides.
    pub made: Made,
    /// The pods whose requests it is for.
    pub target: Target,
    /// What it says, under its own name.
    pub says: Arc<Telemetry>,
}

/// How callers treat the endpoints of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// When it was made: of two for one service the older holds.
    pub made: Made,
    /// The services of its namespace that it is for.
    pub services: BTreeSet<Arc<str>>,
    /// Whether endpoints that fail are left out.
    pub outliers: Outliers,
}

/// How requests to services are sent again, for all who send them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// When it was made: of two for one service the older holds.
    pub made: Made,
    /// The services of its namespace that it is for.
    pub services: BTreeSet<Arc<str>>,
    /// How many requests may be sent again, where it says so.
    pub retries: Option<RetryBudget>,
    /// How a client's are kept with one endpoint, as a rule's.
    pub session: Option<Session>,
}

/// How nodes are tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProfile {
    /// When it was made: of two that select a node, the older has it.
    pub made: Made,
    /// What must hold of a node's labels.
    pub selector: Vec<LabelRule>,
    /// What it asks for.
    pub asks: millrace_model::NodeProfile,
}

/// One thing that must hold of an object's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelRule {
    /// The label is there, with one of these values.
    In(String, BTreeSet<String>),
    /// It is not there, or with none of these values.
    NotIn(String, BTreeSet<String>),
    /// It is there.
    Exists(String),
    /// It is not there.
    Absent(String),
}

/// One pod whose listeners are open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// The pod.
    pub name: ObjectName,
    /// Which of those that had this name.
    pub instance: Arc<str>,
}
