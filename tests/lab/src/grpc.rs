//! The lab's gRPC server and client, by tonic: every kind of call, and what became of it. The program is `probe-grpc`.
//!
//! On the wire all kinds are one: a stream of messages each way. So the server has one shape of call, and the client all four.

pub mod ask;
pub mod serve;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The service.
pub const SERVICE: &str = "probe.Probe";

/// The header in which the server says its name.
pub const POD: &str = "x-pod";

/// The trailer that comes with a status that was asked for.
pub const TRAILER: &str = "x-told";

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    /// Any text.
    #[prost(string, tag = "1")]
    pub text: String,
    /// How many messages to answer with, or how many came.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// With which status to end.
    #[prost(int32, tag = "3")]
    pub code: i32,
    /// Bytes to carry.
    #[prost(bytes = "vec", tag = "4")]
    pub payload: Vec<u8>,
}

/// Many calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Who answered how often.
    pub by_pod: BTreeMap<String, u32>,
    /// Statuses that were not OK, with their message.
    pub by_status: BTreeMap<String, u32>,
}

impl Calls {
    /// Calls that did not end with OK.
    pub fn n_failed(&self) -> u32 {
        self.by_status.values().sum()
    }
}

/// One call of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// What the unary call was answered with.
    pub unary: String,
    /// Messages of the server's stream, and how that ended: its status, and the trailer that came with it.
    pub server: (u32, String, String),
    /// Messages that the server counted of the client's stream, and bytes.
    pub client: (u32, u64),
    /// Rounds of a stream both ways, each message sent after the answer to the one before.
    pub both: u32,
}

/// A stream both ways, kept open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// Rounds.
    pub rounds: u32,
    /// How it ended, where its client did not end it.
    pub cut: Option<String>,
}
