//! The lab's own server and client: real blocking sockets that tell exactly what each end saw. The program is `probe-peer`.
//!
//! The server greets with a line of JSON: what accept(), getpeername() and getsockname() gave. The client then sends one line:
//! `bye`, `echo`, `duplex <up> <down> <chunk>`, `reset <after>` or `hold`.

pub mod app;
pub mod busy;
pub mod client;
pub mod crowd;
pub mod datagram;
pub mod latency;
pub mod load;
pub mod payload;
pub mod server;

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// What a server saw of a connection, sent to its client as the first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The server's name.
    pub name: String,
    /// The address that accept() gave.
    pub accept: SocketAddr,
    /// The address that getpeername() gave.
    pub peer: SocketAddr,
    /// The address that getsockname() gave.
    pub local: SocketAddr,
}

/// One connection, as its client saw it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Called {
    /// What failed and how; None: all went well.
    pub error: Option<String>,
    /// What getpeername() gave at the client.
    pub peer: Option<SocketAddr>,
    /// What getsockname() gave at the client.
    pub local: Option<SocketAddr>,
    /// What the server saw.
    pub greeting: Option<Greeting>,
    /// From connect() to the greeting, in microseconds.
    pub took_us: u64,
}

/// A bulk exchange whose digests were equal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchanged {
    /// Bytes sent to the server.
    pub up: u64,
    /// Bytes received from it.
    pub down: u64,
    /// How long it took.
    pub seconds: f64,
    /// SHA-256 of what was sent, the same at both ends.
    pub up_sha256: String,
    /// SHA-256 of what was received, the same at both ends.
    pub down_sha256: String,
}

/// Many short connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connects {
    /// How often each server answered.
    pub by_name: BTreeMap<String, u32>,
    /// How often what failed.
    pub errors: BTreeMap<String, u32>,
    /// How long all took.
    pub seconds: f64,
}

/// Traffic that went on for a while: old connections used, new ones made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Steady {
    /// Echoes on the connections opened at the start.
    pub echoes: u32,
    /// New connections made.
    pub connects: u32,
    /// What failed, the first few.
    pub failures: Vec<String>,
    /// How many failed.
    pub n_failed: u32,
}

/// Round trips on one connection, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pings {
    /// Half of them took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
}

/// A connection's end, as the server prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The client's address as accept() gave it.
    pub client: SocketAddr,
    /// The command it gave.
    pub command: String,
    /// `ok`, or the kind of the error.
    pub how: String,
}
