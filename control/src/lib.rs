//! The control plane: a directory of manifests becomes a World, the World a Snapshot, the Snapshot each node's stream; and
//! certificates go to whom they belong.
//!
//! Deciding does no IO: `source::manifest`, `source::shelf`, `compile` and `scope` are pure. IO stands at the two ends: the
//! directory and its inotify, the gRPC server and the admin socket. The control plane never opens a connection by itself.

pub mod admin;
pub mod agreement;
pub mod clock;
pub mod compile;
pub mod config;
pub mod diagnostic;
pub mod generation;
pub mod issue;
pub mod listening;
pub mod metrics;
pub mod nodes;
pub mod publish;
pub mod run;
pub mod scope;
pub mod serve;
pub mod source;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod webhook;
pub mod world;
