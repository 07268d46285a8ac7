//! Tells what is so: status and readiness to who asks, listeners and generations to the control plane, numbers to metrics.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use millrace_abi::{capacity, map};
use millrace_model::{Membership, ObjectName};
use millrace_node::clock;
use tokio::sync::watch;

use super::{Joined, Node, SETTLE, Settled, foretold::is_told};
use crate::{
    clock::{monotonic, wall_time},
    control::Report,
    flows::{Edges, Flows},
    kubelet::{Known, Sought},
    metrics::Metrics,
    status::{Control, Proxy, Status, Usage, Workload, unready},
};

/// How often the maps that only kernel programs write are counted: it walks them.
const COUNT: Duration = Duration::from_secs(10);

/// Where the loop tells what is so.
pub struct Outputs {
    /// For the control plane.
    pub report: watch::Sender<Report>,
    /// For whoever looks for pods.
    pub sought: watch::Sender<Sought>,
    /// For whoever holds a pod back until the kernel knows it.
    pub known: watch::Sender<Arc<Known>>,
    /// For `/status`.
    pub status: watch::Sender<Status>,
    /// For `/readyz`.
    pub ready: watch::Sender<Vec<String>>,
    /// For `/flows`.
    pub flows: Arc<Flows>,
    /// For `/metrics`, by who calls whom.
    pub edges: Arc<Edges>,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// How many hand-offs there were.
    pub counted: Counted,
}

/// How many hand-offs there were, and of how many pods, when they were counted last.
#[derive(Debug, Default)]
pub struct Counted {
    at: Option<Instant>,
    n_handoffs: u64,
    n_pending: u64,
}

impl Node {
    pub(super) fn publish(&mut self) {
        self.enrol();
        let now = wall_time();
        let proxy = self.proxies.serving().map(Proxy::of);
        let status = Status {
            node: self.name.to_string(),
            generation: self.mesh.snapshot.generation,
            control: Control::at(self.connected, clock::unix_time()),
            workloads: self
                .pods
                .iter()
                .filter_map(|(_, pod)| {
                    let is_named = pod.cookie().is_some_and(|cookie| self.have.pods.contains_key(&cookie));
                    Workload::of(pod, is_named, &self.keys, now)
                })
                .chain(self.pods.hosts().filter_map(Workload::in_hosts_network))
                .collect(),
            maps: self.usage(),
            ejected: self.outlying.told(&self.mesh, monotonic()),
            failures: [self.unjoined(), self.failures()].concat(),
            tuning: self.tuned(),
            proxy,
        };
        let ready = unready(self.enforced, status.proxy.as_ref());
        let expiries = self.keys.iter().map(|(identity, issued)| {
            let since = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (identity.to_string(), since.as_secs())
        });
        self.outputs.metrics.show(&status, self.enforced, expiries);
        let report = Report {
            listening: (self.settled == Settled::Yes).then(|| self.enrolled.clone()),
            applied: status.proxy.as_ref().map_or(0, |proxy| self.order.earlier(proxy.generation, self.enforced)),
            failures: self.failures(),
        };
        set(&self.outputs.known, Arc::new(self.known()));
        set(&self.outputs.report, report);
        set(&self.outputs.ready, ready);
        set(&self.outputs.status, status);
    }

    /// Notes which workloads a proxy listens for. One that did stays noted while its listeners are open: connections
    /// wait in their backlog for the next proxy.
    fn enrol(&mut self) {
        let captured = || self.pods.iter().filter(|(_, pod)| pod.is_captured() && is_told(&self.heard, pod));
        let key = |name: &ObjectName, instance: &Arc<str>| (name.clone(), instance.clone());
        let open: BTreeSet<_> = captured().map(|(name, pod)| key(name, &pod.workload.instance)).collect();
        self.enrolled.retain(|workload| open.contains(workload));
        let held = captured().filter(|(name, pod)| self.proxies.holds(name, pod));
        self.enrolled.extend(held.map(|(name, pod)| key(name, &pod.workload.instance)));
        if self.settled == Settled::Yes {
            return;
        }
        let is_late = clock::now().duration_since(self.began) >= SETTLE;
        let knows_all =
            self.proxies.serving().is_some() && open.iter().all(|workload| self.enrolled.contains(workload));
        if self.mesh.snapshot.generation != 0 && (knows_all && !self.has_unfound() || is_late) {
            self.settled = Settled::Yes;
        }
    }

    /// True where a workload that was enrolled before this agent began is not captured by it yet.
    fn has_unfound(&self) -> bool {
        let is_open = |name: &ObjectName| self.pods.iter().any(|(open, pod)| open == name && pod.is_captured());
        let local = self.mesh.on(&self.name);
        local.filter(|w| w.membership == Membership::Enrolled).any(|w| !is_open(&w.name))
    }

    /// The namespaces that calls are decided from.
    fn known(&self) -> Known {
        let found = self.pods.iter().filter_map(|(_, pod)| pod.found.as_ref());
        found.filter(|found| self.have.pods.contains_key(&found.cookie)).map(|found| found.file()).collect()
    }

    fn unjoined(&self) -> Vec<String> {
        match self.joined {
            Joined::Yes => Vec::new(),
            Joined::No => vec!["the node has no certificate of its own that holds: it must join the mesh".to_owned()],
        }
    }

    fn failures(&self) -> Vec<String> {
        let told = |(why, count): (&String, &u64)| match count {
            1 => why.clone(),
            count => format!("{why} ({count} times)"),
        };
        self.outcome.failures.iter().map(told).chain(self.tuning_failures()).collect()
    }

    /// How full each map is: the agent's own tables as it knows them, the programs' as it was counted last.
    fn usage(&mut self) -> Vec<Usage> {
        let now = clock::now();
        let counted = &mut self.outputs.counted;
        if counted.at.is_none_or(|at| now.duration_since(at) >= COUNT) {
            counted.at = Some(now);
            match self.kernel.handoffs() {
                Ok(found) => (counted.n_handoffs, counted.n_pending) = found,
                Err(why) => {
                    tracing::warn!(error = &why as &dyn std::error::Error, "the kernel's hand-offs can't be counted");
                }
            }
        }
        let capacities = self.kernel.capacities();
        let count = |map, entries| Usage { map, entries, capacity: capacities.get(map) };
        let usage = |map, entries: usize| count(map, entries as u64);
        vec![
            usage(map::PODS, self.have.pods.len()),
            usage(map::DESTS, self.have.dests.len()),
            usage(map::SERVICES, self.have.services.len()),
            usage(map::SLOTS, self.have.slots.len()),
            usage(map::VERDICTS, self.have.verdicts.len()),
            usage(map::PROBES, self.have.probes.len()),
            Usage { map: map::STRANGERS, entries: self.have.strangers.len() as u64, capacity: capacity::STRANGERS },
            count(map::HANDOFFS, counted.n_handoffs),
            count(map::PENDING, counted.n_pending),
            usage(map::LISTENERS, self.have.listeners.len()),
        ]
    }
}

/// Sends only what is new: who waits is woken by a change alone.
fn set<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|held| {
        let changed = *held != value;
        if changed {
            *held = value;
        }
        changed
    });
}
