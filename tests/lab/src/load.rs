//! Loads the mesh with connections, many at once or many a second: a client and a server of a protocol of one byte, as processes of
//! which several share a load that is more than one may have descriptors for.

pub mod client;
pub mod server;

use std::{collections::BTreeMap, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// The server answers in kind, and goes on.
pub const ECHO: u8 = b'e';

/// The server answers in kind, and closes first.
pub const CLOSE: u8 = b'c';

/// What a client did, and what became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections that did all that they were made for.
    pub done: u32,
    /// Those that did not, by what failed.
    pub failed: BTreeMap<String, u32>,
    /// From the first connect to the last one's end, without the time that connections were held.
    pub seconds: f64,
    /// The median, from connect to the first answer, in microseconds.
    pub median_us: u64,
    /// What 99 in 100 took at most.
    pub p99_us: u64,
}

impl Report {
    /// Both together; of the times, the longer ones.
    pub fn and(mut self, other: Self) -> Self {
        self.done += other.done;
        for (what, count) in other.failed {
            *self.failed.entry(what).or_default() += count;
        }
        self.seconds = self.seconds.max(other.seconds);
        self.median_us = self.median_us.max(other.median_us);
        self.p99_us = self.p99_us.max(other.p99_us);
        self
    }

    /// How many failed.
    pub fn n_failed(&self) -> u32 {
        self.failed.values().sum()
    }
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptors() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
