//! Holds what a node's agent and its proxies share: the hand-over protocol, credentials, telemetry, admin endpoint, drain.
//!
//! Nothing here knows what a mesh decides (that is `millrace_model`), and nothing touches a kernel map.
//! The control plane's admin endpoint and log lines are made here too, so that all processes look alike.

pub mod admin;
pub mod clock;
mod config;
pub mod credentials;
pub mod date;
pub mod drain;
pub mod handover;
pub mod memory;
mod socket;
pub mod telemetry;

pub use millrace_wire as wire;
