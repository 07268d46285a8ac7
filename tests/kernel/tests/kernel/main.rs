//! The kernel programs, on the real kernel. Mirrors `ebpf/programs/src` file by file; `node` is the scratch node.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "what a test cannot set up is a panic that says where"
)]

mod connect;
mod cost;
mod ends;
mod forged;
mod host;
mod host_pods;
mod inbound;
mod load;
mod names;
mod node;
mod outcome;
mod pending;
mod ports;
mod service;
mod sockops;
mod spoof;
