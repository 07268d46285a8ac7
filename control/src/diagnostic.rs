//! Says what is wrong with an object, where it stands and how to mend it: one sentence that a person can act on.

use std::{fmt, sync::Arc};

use millrace_model::ObjectName;
use serde::{Serialize, Serializer};

/// The kinds that Millrace reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// v1
    Namespace,
    /// v1
    Node,
    /// v1
    ServiceAccount,
    /// v1
    Pod,
    /// v1
    Service,
    /// discovery.k8s.io/v1
    EndpointSlice,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// millrace.dev/v1alpha1
    AccessPolicy,
    /// millrace.dev/v1alpha1
    EncryptionPolicy,
    /// millrace.dev/v1alpha1
    NodeProfile,
    /// millrace.dev/v1alpha1
    TelemetryPolicy,
    /// millrace.dev/v1alpha1
    TrafficPolicy,
    /// millrace.dev/v1alpha1
    ExternalService,
    /// millrace.dev/v1alpha1
    ExternalWorkload,
    /// millrace.dev/v1alpha1
    HttpFault,
    /// gateway.networking.k8s.io/v1
    HttpRoute,
    /// gateway.networking.k8s.io/v1
    GrpcRoute,
    /// gateway.networking.k8s.io/v1beta1, which every version of Gateway API serves; a file may say v1.
    ReferenceGrant,
    /// gateway.networking.x-k8s.io/v1alpha1: XBackendTrafficPolicy, the experimental channel's.
    BackendPolicy,
}

impl Kind {
    /// All of them, in the order in which messages list them.
    pub const ALL: [Self; 19] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::AccessPolicy,
        Self::EncryptionPolicy,
        Self::NodeProfile,
        Self::TelemetryPolicy,
        Self::TrafficPolicy,
        Self::ExternalService,
        Self::ExternalWorkload,
        Self::HttpFault,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ReferenceGrant,
        Self::BackendPolicy,
    ];

    /// As a manifest's `kind` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AccessPolicy => "AccessPolicy",
            Self::EncryptionPolicy => "EncryptionPolicy",
            Self::NodeProfile => "NodeProfile",
            Self::TelemetryPolicy => "TelemetryPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::ExternalService => "ExternalService",
            Self::ExternalWorkload => "ExternalWorkload",
            Self::HttpFault => "HTTPFault",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendPolicy => "XBackendTrafficPolicy",
        }
    }

    /// As a manifest's `apiVersion` spells it.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::ServiceAccount | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::AccessPolicy
            | Self::EncryptionPolicy
            | Self::NodeProfile
            | Self::TelemetryPolicy
            | Self::TrafficPolicy
            | Self::ExternalService
            | Self::ExternalWorkload
            | Self::HttpFault => millrace_crd::API_VERSION,
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io/v1",
            Self::ReferenceGrant => "gateway.networking.k8s.io/v1beta1",
            Self::BackendPolicy => "gateway.networking.x-k8s.io/v1alpha1",
        }
    }

    /// True where a manifest may spell its `apiVersion` so: what has another name for the same fields is taken too.
    pub fn may_be_of(self, version: &str) -> bool {
        version == self.api_version() || (self == Self::ReferenceGrant && version == "gateway.networking.k8s.io/v1")
    }

    /// True for Gateway API's kinds: a cluster may not have them, and what it has of them may be newer than this program.
    pub fn is_gateway(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::ReferenceGrant | Self::BackendPolicy)
    }

    /// True for the kinds of routes: what becomes of them is told by parent, on their status.
    pub fn is_route(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute)
    }

    /// True for the kinds whose status has an entry of ours for each object that they are attached to, in a list that other controllers have
    /// entries in.
    pub fn has_entries(self) -> bool {
        self.is_route() || self == Self::BackendPolicy
    }

    /// True for a kind that stands in no namespace.
    pub fn is_cluster_scoped(self) -> bool {
        match self {
            Self::Namespace | Self::Node | Self::NodeProfile => true,
            Self::ServiceAccount
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::NetworkPolicy
            | Self::AccessPolicy
            | Self::EncryptionPolicy
            | Self::TelemetryPolicy
            | Self::TrafficPolicy
            | Self::ExternalService
            | Self::ExternalWorkload
            | Self::HttpFault
            | Self::HttpRoute
            | Self::GrpcRoute
            | Self::ReferenceGrant
            | Self::BackendPolicy => false,
        }
    }

    /// True for a kind of Millrace's own, whose fields it knows all.
    pub fn is_own(self) -> bool {
        self.api_version() == millrace_crd::API_VERSION
    }
}

/// One object. The namespace of a cluster-scoped one is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name.namespace {
            "" => write!(f, "{} {}", self.kind.name(), self.name.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.name(), self.name.name),
        }
    }
}

/// Where a document stands. Counted from 1, as editors do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file's name within the directory.
    pub file: Arc<str>,
    /// Which of the file's documents; 0 for the file itself.
    pub document: usize,
    /// The line that it begins on, or that the fault is on.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.document {
            0 => write!(f, "{}", self.file),
            document => write!(f, "{} document {document} (line {})", self.file, self.line),
        }
    }
}

/// What becomes of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Effect {
    /// It is not in force, and no earlier version of it is.
    Refused,
    /// The last good version of it stays in force.
    Kept,
    /// It is not in force, and whom it can be seen to bind is bound by something stricter.
    Closed,
    /// It is in force, save what the message names.
    Applied,
}

/// One fault of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Where it stands, for an object that was read from a file.
    pub place: Option<Place>,
    /// Which object, as far as it could be told: `Kind namespace/name`.
    #[serde(serialize_with = "object_text")]
    pub object: Object,
    /// The path of the field, such as `spec.ports[0].port`; empty for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
    /// What becomes of the object.
    pub effect: Effect,
}

/// Which object a diagnostic is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// This one.
    Known(Key),
    /// What its text says of itself, where that is not enough to know it: "an unnamed Pod", "a document that is not YAML".
    Described(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(key) => key.fmt(f),
            Self::Described(text) => f.write_str(text),
        }
    }
}

fn object_text<S: Serializer>(object: &Object, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(object)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, object, field, problem, mend, effect } = self;
        if let Some(place) = place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{object}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        let effect = match effect {
            Effect::Refused => "It is not in force.",
            Effect::Kept => "The version read before stays in force.",
            Effect::Closed => "Until it can be read, the pods that it selects are closed.",
            Effect::Applied => "The rest of it is in force.",
        };
        write!(f, "{problem}; {mend}. {effect}")
    }
}

/// One fault, before it is known where it stands and what becomes of the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The path of the field.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
    /// Whether the object can be used nevertheless.
    pub weight: Weight,
}

/// Whether an object with a problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It can't.
    Fatal,
    /// It can, save what the problem names.
    Slight,
}

/// Gathers an object's problems, all of them, so that it is mended in one go.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes one that refuses the object.
    pub fn fatal(&mut self, field: impl Into<String>, problem: impl Into<String>, mend: impl Into<String>) {
        self.push(field.into(), problem.into(), mend.into(), Weight::Fatal);
    }

    /// Notes one that leaves the rest of the object in force.
    pub fn slight(&mut self, field: impl Into<String>, problem: impl Into<String>, mend: impl Into<String>) {
        self.push(field.into(), problem.into(), mend.into(), Weight::Slight);
    }

    /// True where the object can't be used.
    pub fn refuse(&self) -> bool {
        self.0.iter().any(|p| p.weight == Weight::Fatal)
    }

    fn push(&mut self, field: String, problem: String, mend: String, weight: Weight) {
        self.0.push(Problem { field, problem, mend, weight });
    }
}
