//! Turns decisions of kernel and proxy into flow records, keeps the last ones, and streams them to who follows.

mod time;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use millrace_abi::{Addr, FlowEvent, Port, Reason};
use millrace_model::{Mesh, ObjectName, outlier::Change};
use millrace_node::{
    admin::{self, Request, Response},
    wire::node::Denial,
};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

pub use time::rfc3339;

use crate::revoke::Why;

/// Records kept for who asks later: what a person scrolls through, and under a megabyte.
const KEPT: usize = 4096;

/// Records that wait for a follower. One who reads slower than this misses some; the agent waits for nobody.
const WAITING: usize = 4096;

const NDJSON: &str = "application/x-ndjson";

/// One decision on a connection, as it is printed.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// When, in RFC 3339.
    pub at: String,
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

/// The ids of the kernel's records, by name.
#[derive(Debug, Default)]
pub struct Names {
    workloads: BTreeMap<u64, String>,
    policies: BTreeMap<u64, String>,
}

impl Names {
    /// The names of everything in `mesh`.
    pub fn of(mesh: &Mesh) -> Self {
        let snapshot = &mesh.snapshot;
        Self {
            workloads: snapshot.workloads.values().map(|w| (w.id(), w.name.to_string())).collect(),
            policies: snapshot.policies.keys().map(|name| (name.id(), name.to_string())).collect(),
        }
    }
}

/// Where clocks stood at one moment: the kernel stamps its records with the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// From the Unix epoch.
    pub unix: Duration,
    /// CLOCK_MONOTONIC.
    pub monotonic: Duration,
}

/// A kernel's record, with its ids named as far as they are known.
pub fn from_kernel(event: &FlowEvent, names: &Names, now: Moment) -> Flow {
    let ago = now.monotonic.saturating_sub(Duration::from_nanos(event.at_ns));
    Flow {
        at: rfc3339(now.unix.saturating_sub(ago)),
        verdict: Reason::from_number(event.reason)
            .map_or_else(|| format!("reason_{}", event.reason), |reason| reason.name().to_owned()),
        source: named(&names.workloads, event.source),
        netns: event.netns,
        asked: endpoint(event.asked, event.asked_port),
        target: endpoint(event.target, event.target_port),
        policy: named(&names.policies, event.policy),
    }
}

/// A live connection that was closed because policy turned, or because its other end is gone: of this namespace and
/// workload, to `remote`.
pub fn revoked(caller: (u64, u64), remote: SocketAddr, why: Why, names: &Names, now: Moment) -> Flow {
    let (netns, source) = caller;
    let (verdict, policy) = match why {
        Why::Denied(policy) => (Reason::Denied.name(), policy),
        Why::Gone => ("gone", 0),
    };
    Flow {
        at: rfc3339(now.unix),
        verdict: verdict.to_owned(),
        source: named(&names.workloads, source),
        netns,
        asked: remote.to_string(),
        target: remote.to_string(),
        policy: named(&names.policies, policy),
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
    Flow { at: rfc3339(now.unix), verdict: reason, source, netns: 0, asked: target.clone(), target, policy }
}

fn named(names: &BTreeMap<u64, String>, id: u64) -> String {
    match id {
        0 => String::new(),
        id => names.get(&id).cloned().unwrap_or_else(|| format!("#{id:016x}")),
    }
}

fn endpoint(addr: Addr, port: Port) -> String {
    SocketAddr::new(IpAddr::from(Ipv6Addr::from(addr)).to_canonical(), u16::from_be_bytes(port)).to_string()
}

/// The last records, and who follows.
#[derive(Debug)]
pub struct Flows {
    kept: Mutex<VecDeque<Bytes>>,
    live: broadcast::Sender<Bytes>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { kept: Mutex::default(), live: broadcast::channel(WAITING).0 }
    }
}

impl Flows {
    /// Keeps a record, and sends it to who follows.
    pub fn record(&self, flow: &Flow) {
        let Ok(mut line) = serde_json::to_vec(flow) else { return };
        line.push(b'\n');
        let line = Bytes::from(line);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        // Sent while the lock is held, so that a follower who begins now neither misses a record nor sees it twice.
        // An error says that nobody follows.
        drop(self.live.send(line));
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
        let lines: Vec<Bytes> = kept.iter().cloned().collect();
        drop(kept);
        let lines = futures_util::stream::iter(lines);
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
mod tests;
