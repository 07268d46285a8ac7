//! The kernel programs, on the real kernel. Mirrors `ebpf/programs/src` file by file; `node` is the scratch node.

mod connect;
mod cost;
mod inbound;
mod load;
mod names;
mod node;
mod sockops;
