//! Runs a node of the mesh: kernel programs and maps, pods' namespaces, certificates, and the proxies' socket.
//!
//! The agent parses no byte of any workload, never talks to Kubernetes, and carries no connection: kernel programs
//! decide, proxies carry. [`run::run`] is the list of what it does.

pub mod certificates;
pub mod check;
pub mod clock;
pub mod cni;
pub mod config;
pub mod control;
pub mod flows;
pub mod hold;
pub mod join;
pub mod kernel;
pub mod kubelet;
pub mod limits;
pub mod metrics;
mod native;
mod netlink;
pub mod node;
pub mod pods;
pub mod proxy;
pub mod revoke;
pub mod run;
pub mod seat;
pub mod state_dir;
pub mod status;
mod trust;
pub mod tuning;
