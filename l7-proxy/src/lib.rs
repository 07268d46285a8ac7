//! The node's shared proxy: carries connections between nodes in mTLS tunnels, with no privilege of its own.
//!
//! Reads from `run`. The agent gives listeners, keys, snapshots and sockets (`agent`); `accept` takes connections on one
//! thread and gives them to `worker`s; each lives in one function: `outbound`, `inbound` or `plaintext`. This crate never
//! opens a socket of the network, a file or a pinned map, never decides policy (that is `millrace_model`), and parses no
//! HTTP but what is sent to a port with routes (`http`).

mod accept;
mod agent;
mod application;
mod config;
mod copy;
mod crew;
mod descriptors;
mod dial;
mod fair;
mod fault;
mod frames;
mod gather;
mod handshakes;
pub mod head;
mod home;
mod http;
mod inbound;
mod judged;
mod keys;
mod limits;
pub mod maps;
mod memory;
mod metrics;
mod outbound;
mod outliers;
mod pace;
mod pick;
mod plaintext;
mod pool;
mod privilege;
mod proxy;
mod rarely;
mod record;
mod run;
mod slice;
mod stock;
mod tuning;
mod tunnel;
mod unrouted;
mod wire;
mod worker;

pub use agent::MakeMaps;
pub use config::{Args, Config, Privileges};
pub use http::foreign;
pub use privilege::{Privileged, User};
pub use run::{Parts, Running, run};
