//! Turns what kernel and proxy tell of connections into flow records, keeps the last ones, and streams them to who follows.

mod decided;
mod edges;
mod ended;
mod names;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use millrace_abi::{Addr, Port, Reason};
use millrace_model::{ObjectName, outlier::Change};
use millrace_node::{
    admin::{self, Request, Response},
    wire::node::Denial,
};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

pub use decided::Decided;
pub use edges::Edges;
pub use ended::Ended;
pub use millrace_node::date::rfc3339;
pub use names::Names;

use crate::revoke::Why;

/// Records kept for who asks later: what a person scrolls through, and about a megabyte.
const KEPT: usize = 4096;

/// Records that wait for a follower. One who reads slower than this misses some; the agent waits for nobody.
const WAITING: usize = 4096;

const NDJSON: &str = "application/x-ndjson";

/// What a [`Flow`] tells, beside what an end does.
const DECIDED: &str = "decided";

/// One decision on a connection, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// When, in RFC 3339.
    pub at: String,
    /// `decided`.
    pub event: &'static str,
    /// The reason's name.
    pub verdict: String,
    /// The calling workload, as namespace/name; empty where unknown.
    pub source: String,
    /// The netns cookie of the socket that connected; 0 where it is not known.
    pub netns: u64,
    /// What was asked for.
    pub asked: String,
    /// Where it went.
    pub target: String,
    /// The policy that it rests on; empty for none.
    pub policy: String,
}

/// Where clocks stood at one moment: the kernel stamps its records with the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// From the Unix epoch.
    pub unix: Duration,
    /// CLOCK_MONOTONIC.
    pub monotonic: Duration,
}

impl Moment {
    /// The time, from the Unix epoch, of a moment on the monotonic clock.
    fn of(self, monotonic_ns: u64) -> Duration {
        self.unix.saturating_sub(self.monotonic.saturating_sub(Duration::from_nanos(monotonic_ns)))
    }
}

/// A live connection that was closed because policy turned, or because its other end is gone: of this namespace and
/// workload, to `remote`.
pub fn revoked(caller: (u64, u64), remote: SocketAddr, why: Why, names: &Names, now: Moment) -> Flow {
    let (netns, source) = caller;
    let (verdict, policy) = match why {
        Why::Denied(policy) => (Reason::Denied.name(), policy),
        Why::Gone => ("gone", 0),
        Why::Left => ("left_service", 0),
    };
    Flow {
        at: rfc3339(now.unix),
        event: DECIDED,
        verdict: verdict.to_owned(),
        source: names.who(source).to_string(),
        netns,
        asked: remote.to_string(),
        target: remote.to_string(),
        policy: names.policy(policy).to_string(),
    }
}

/// An endpoint that a service's port leaves out, or takes back.
pub fn outlier((service, port): (&ObjectName, u16), change: &Change, now: Moment) -> Flow {
    let (verdict, endpoint) = match change {
        Change::Ejected(endpoint, _) => ("ejected", endpoint),
        Change::Returned(endpoint) => ("returned", endpoint),
    };
    Flow {
        at: rfc3339(now.unix),
        event: DECIDED,
        verdict: verdict.to_owned(),
        source: String::new(),
        netns: 0,
        asked: format!("{service}:{port}"),
        target: endpoint.to_string(),
        policy: String::new(),
    }
}

/// A proxy's refusal.
pub fn from_proxy(denial: Denial, now: Moment) -> Flow {
    let Denial { source, target, reason, policy } = denial;
    let at = rfc3339(now.unix);
    Flow { at, event: DECIDED, verdict: reason, source, netns: 0, asked: target.clone(), target, policy }
}

fn address(addr: Addr, port: Port) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv6Addr::from(addr)).to_canonical(), u16::from_be_bytes(port))
}

/// What becomes a line when somebody reads it. Most are never read: to name what an id means now is cheap, to print it is not.
#[derive(Clone, Debug)]
pub enum Line {
    /// What was said in words.
    Said(Flow),
    /// A decision of the kernel's.
    Decided(Decided),
    /// An end that the kernel told.
    Ended(Ended),
}

impl Line {
    fn bytes(&self) -> Bytes {
        // Nothing in it can fail to be printed.
        let mut line = match self {
            Self::Said(flow) => serde_json::to_vec(flow),
            Self::Decided(decided) => serde_json::to_vec(&decided.printed()),
            Self::Ended(ended) => serde_json::to_vec(&ended.printed()),
        }
        .unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

impl From<Flow> for Line {
    fn from(flow: Flow) -> Self {
        Self::Said(flow)
    }
}

impl From<Decided> for Line {
    fn from(decided: Decided) -> Self {
        Self::Decided(decided)
    }
}

impl From<Ended> for Line {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

/// The last records, and who follows.
#[derive(Debug)]
pub struct Flows {
    kept: Mutex<VecDeque<Line>>,
    live: broadcast::Sender<Bytes>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { kept: Mutex::default(), live: broadcast::channel(WAITING).0 }
    }
}

impl Flows {
    /// Keeps a record, and sends it to who follows.
    pub fn record(&self, line: impl Into<Line>) {
        let line = line.into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        // Sent while the lock is held, so that a follower who begins now neither misses a record nor sees it twice. An error
        // says that nobody follows.
        if self.live.receiver_count() > 0 {
            drop(self.live.send(line.bytes()));
        }
        kept.push_back(line);
    }

    /// Answers `GET /flows`: the records kept, then each new one; with `?follow=false` only the former.
    pub fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let follow = match request.uri().query().unwrap_or_default() {
            "" | "follow=true" => true,
            "follow=false" => false,
            other => return admin::text(StatusCode::BAD_REQUEST, format!("{other:?}: only follow=true|false\n")),
        };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let lines: Vec<Line> = kept.iter().cloned().collect();
        drop(kept);
        let lines = futures_util::stream::iter(lines).map(|line| line.bytes());
        if follow {
            // A follower who fell behind goes on at what is still there.
            let live = BroadcastStream::new(live).filter_map(async |line| line.ok());
            admin::stream(NDJSON, lines.chain(live))
        } else {
            admin::stream(NDJSON, lines)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
