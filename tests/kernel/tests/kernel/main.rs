//! The kernel programs, on the real kernel. Mirrors `ebpf/programs/src` file by file, with `load` for its `main`; `node` is the
//! scratch node. `host`, `older`, `missing`, `verifier` and `cost` ask of all programs together.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "what a test cannot set up is a panic that says where"
)]

mod account;
mod arrival;
mod asks;
mod by_service;
mod closing;
mod connect;
mod cost;
mod endpoint;
mod ends;
mod flow;
mod forged;
mod host;
mod host_pods;
mod hostile;
mod inbound;
mod leftovers;

mod listening;
mod load;
mod maps;
mod missing;
mod names;
mod node;
mod older;
mod outcome;
mod pending;
mod ports;
mod service;
mod services;
mod sockops;
mod spoof;
mod storage;
mod told;
mod tuning;
mod udp;
mod verifier;
