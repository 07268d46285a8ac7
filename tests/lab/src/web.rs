//! The lab's HTTP server and client: the server says which pod answered and what it was sent, the client counts. The program is
//! `probe-http`.

pub mod corpus;
pub mod crowd;
pub mod expect;
pub mod load;
pub mod raw;
pub mod serve;
pub mod socket;
mod trouble;

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// The header in which the server says its name.
pub const POD: &str = "x-pod";

/// The header in which the proxy names its reason for a refusal.
pub const REASON: &str = "x-millrace-reason";

/// What a server was sent, as it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Who answered.
    pub pod: String,
    /// Whom accept() gave.
    pub client: SocketAddr,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers, by name in lower case; several of one name joined by commas.
    pub headers: BTreeMap<String, String>,
    /// Bytes of body.
    pub n_body: u64,
    /// What came behind it.
    pub trailers: BTreeMap<String, String>,
}

/// Many requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Who answered how often.
    pub by_pod: BTreeMap<String, u32>,
    /// With which status, where that was not 200.
    pub by_status: BTreeMap<u16, u32>,
    /// Requests that were not answered, and how that went.
    pub failures: BTreeMap<String, u32>,
    /// Connections opened.
    pub n_connections: u32,
}

impl Counted {
    /// The requests that did not get a 200.
    pub fn n_failed(&self) -> u32 {
        self.by_status.values().chain(self.failures.values()).sum()
    }

    /// How many of a hundred requests this pod answered.
    pub fn share_of(&self, pod: &str) -> f64 {
        let all: u32 = self.by_pod.values().sum();
        100.0 * f64::from(self.by_pod.get(pod).copied().unwrap_or_default()) / f64::from(all.max(1))
    }

    /// Takes in another's counts.
    pub fn add(&mut self, other: &Self) {
        let Self { by_pod, by_status, failures, n_connections } = other;
        by_pod.iter().for_each(|(pod, n)| *self.by_pod.entry(pod.clone()).or_default() += n);
        by_status.iter().for_each(|(status, n)| *self.by_status.entry(*status).or_default() += n);
        failures.iter().for_each(|(failure, n)| *self.failures.entry(failure.clone()).or_default() += n);
        self.n_connections += n_connections;
    }
}
