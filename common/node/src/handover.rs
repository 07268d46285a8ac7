//! Carries messages and descriptors between a node's agent and its proxies.
//!
//! One protobuf per SEQPACKET, its descriptors beside it by SCM_RIGHTS. What is too big for a packet travels as a
//! sealed memfd. Every bound is checked on both sides, and what breaks one is an error that ends the connection.

mod check;
mod connection;
mod memory;
mod outcome;

pub use check::{Malformed, check_from_agent, check_from_proxy};
pub use connection::{Connection, Fault, Listener, Packet, Peer};
pub use memory::{seal, unseal};
pub use outcome::{outcome, read_outcome};

/// The longest message, in bytes. The largest real one is a `Welcome` or `Denial` of a few hundred; the rest is room.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// The most descriptors in one packet: a batch of sockets is cheapest at about this size, and the kernel's bound is 253.
pub const MAX_DESCRIPTORS: usize = 64;

#[cfg(test)]
mod tests;
