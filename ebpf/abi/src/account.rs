//! Lays out what is told of a connection when it ends, and names the states that it ends from.

use crate::{Addr, Port};

/// Which end of a connection tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that connected.
    Client = 1,
    /// The end that accepted.
    Server = 2,
}

/// A record in FLOWS: a connection has ended. Longer than a [`crate::FlowEvent`], which tells them apart.
///
/// A connection between two pods of one node is told by its caller's end, for both. One that comes from elsewhere, or from the
/// host, is told by the end that accepted it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndEvent {
    /// CLOCK_MONOTONIC when it closed.
    pub at_ns: u64,
    /// The calling workload; 0 where the kernel does not know it.
    pub source: u64,
    /// The called workload; 0 where the kernel does not know it.
    pub target: u64,
    /// The policy that let it pass; 0: none, or decided elsewhere.
    pub policy: u64,
    /// Bytes of payload that this end sent, each counted once.
    pub sent: u64,
    /// Bytes of payload that this end received.
    pub received: u64,
    /// From SYN to close; from establishment at the server's side.
    pub duration_ns: u64,
    /// The connecting end. Loopback where a captured connection's socket says so: the pod's own address is meant.
    pub from: Addr,
    /// What was asked for.
    pub asked: Addr,
    /// The accepting end; the backend that the kernel picked, where it is captured.
    pub to: Addr,
    /// From SYN to establishment; 0 where it was never established, and at the server's side.
    pub connect_us: u32,
    /// The smoothed round-trip time; 0 where none was measured.
    pub srtt_us: u32,
    /// Segments that this end sent again, SYNs among them.
    pub retransmits: u32,
    /// The connecting end's port.
    pub from_port: Port,
    /// What was asked for.
    pub asked_port: Port,
    /// The accepting end's port.
    pub to_port: Port,
    /// The socket's error, a positive errno; 0 where it ended without one.
    pub errno: u16,
    /// A [`Side`].
    pub side: u8,
    /// The state it closed from, as linux/tcp_states.h numbers them.
    pub state: u8,
    /// A [`crate::Reason`]: the way it took.
    pub path: u8,
    /// 1 where the kernel vouches for both ends, which are pods of this node: the other end does not tell.
    pub is_attested: u8,
}

/// States that a connection closes from, as linux/tcp_states.h numbers them.
pub mod state {
    /// Both ends may send.
    pub const ESTABLISHED: u8 = 1;
    /// The SYN was sent.
    pub const SYN_SENT: u8 = 2;
    /// The other end has finished sending, this one has not.
    pub const CLOSE_WAIT: u8 = 8;
}

const _: () = assert!(size_of::<EndEvent>() == 128); // A change here is a change of SCHEMA.
