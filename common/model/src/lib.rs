//! Says what a mesh is: identities, workloads, services, policies, and the decisions over them.
//!
//! Everything here is a value or a pure function. This crate does no IO, reads no clock, knows no
//! Kubernetes object, no protobuf and no kernel map.

pub mod authorize;
pub mod balance;
pub mod datagram;
pub mod delta;
pub mod explain;
pub mod identity;
pub mod map;
pub mod mesh;
pub mod name;
pub mod network;
pub mod outlier;
pub mod policy;
pub mod port;
pub mod profile;
pub mod resolve;
pub mod retry;
pub mod route;
pub mod service;
pub mod session;
pub mod snapshot;
pub mod telemetry;
pub mod traffic;
pub mod workload;

pub use authorize::{Facts, Ground, Verdict, authorize, authorize_by};
pub use delta::{Change, Delta};
pub use explain::{Explanation, explain};
pub use identity::Identity;
pub use map::Map;
pub use mesh::Mesh;
pub use name::ObjectName;
pub use outlier::{Ejected, Outliers};
pub use policy::{Action, Policy, Rule, Source, Tier};
pub use profile::NodeProfile;
pub use resolve::{Destination, resolve};
pub use retry::{Retry, RetryBudget};
pub use route::{RouteKind, RouteName, Routes};
pub use service::{Endpoint, Endpoints, Protocol, Service, ServicePort};
pub use session::Session;
pub use snapshot::Snapshot;
pub use telemetry::Telemetry;
pub use traffic::{Affinity, Place, Reach, Traffic};
pub use workload::{Encryption, EncryptionMode, Membership, UdpMode, Workload};
