//! What a client does in a pod while the machine is watched. It runs as a process of its own, `millrace-bench load`, with blocking
//! sockets or one event loop: little enough beside what it measures, and the same for everybody.

mod bulk;
mod http;
mod http2;
mod ping;
mod reply;
mod short;
mod window;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::machine::Cpu;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Subcommand)]
pub enum Load {
    /// Sends as much as is taken
    Bulk {
        /// On so many connections at once
        streams: usize,
    },
    /// Sends 64 bytes and waits for them to come back, again and again on one connection
    Ping,
    /// Connects, sends 64 bytes, waits for them, closes
    Short {
        /// So many at once
        at_once: usize,
    },
    /// Asks for 1 KiB by HTTP/1.1 on kept connections, again as soon as it has come
    Http {
        /// On so many connections
        connections: usize,
    },
    /// Asks for 1 KiB by HTTP/2 in one connection, again as soon as it has come
    Http2 {
        /// In so many streams at once
        streams: usize,
    },
    /// Makes unary gRPC calls in one connection, 64 bytes there and 1 KiB back
    Grpc {
        /// In so many streams at once
        streams: usize,
    },
    /// Asks for 1 KiB by HTTP/1.1 at fixed times, whatever the answers do: what is late is counted from when it was due
    Open {
        /// On so many connections
        connections: usize,
        /// So often a second
        rate: u32,
    },
}

/// Against whom, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Where to connect.
    pub target: SocketAddr,
    /// Load before anything is counted.
    pub warm: Duration,
    /// How long is counted.
    pub window: Duration,
}

/// What a client measured within its window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// How long the window was.
    pub seconds: f64,
    /// Bytes sent.
    pub bytes: f64,
    /// Round trips, connections or requests completed.
    pub operations: f64,
    /// Those that failed.
    pub failures: u64,
    /// The whole machine's CPU time in the window.
    pub cpu: Cpu,
    /// Half took less than this, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 took less.
    pub p99_us: f64,
}

impl Load {
    /// Does it.
    pub fn run(self, task: Task) -> Result<Measured> {
        match self {
            Self::Bulk { streams } => bulk::run(task, streams),
            Self::Ping => ping::run(task),
            Self::Short { at_once } => short::run(task, at_once),
            Self::Http { connections } => http::closed(task, connections),
            Self::Http2 { streams } => http2::run(task, streams, http2::Kind::Plain),
            Self::Grpc { streams } => http2::run(task, streams, http2::Kind::Grpc),
            Self::Open { connections, rate } => http::open(task, connections, rate),
        }
    }

    /// As the command line of [`Load`] has it.
    pub fn arguments(self) -> Vec<String> {
        match self {
            Self::Bulk { streams } => vec!["bulk".to_owned(), streams.to_string()],
            Self::Ping => vec!["ping".to_owned()],
            Self::Short { at_once } => vec!["short".to_owned(), at_once.to_string()],
            Self::Http { connections } => vec!["http".to_owned(), connections.to_string()],
            Self::Http2 { streams } => vec!["http2".to_owned(), streams.to_string()],
            Self::Grpc { streams } => vec!["grpc".to_owned(), streams.to_string()],
            Self::Open { connections, rate } => vec!["open".to_owned(), connections.to_string(), rate.to_string()],
        }
    }
}
