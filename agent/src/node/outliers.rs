//! Leaves out the endpoints to which connections fail, by what the kernel counted and what the proxies said.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use millrace_abi::{Failures, Reason};
use millrace_model::{
    Ejected, Mesh, Outliers,
    outlier::{Cause, Change, Pool, Trouble, Watch},
};
use millrace_node::clock;

use super::{Node, moment};
use crate::{clock::monotonic, flows, status};

/// Entries of the kernel's that no failure was added to for this long are forgotten there: past any bound that matters here.
const STALE: Duration = Duration::from_secs(3_600);

/// What is known of failing endpoints.
#[derive(Debug, Default)]
pub(super) struct Outlying {
    watch: Watch,
    /// What the kernel's entries said when they were read last.
    seen: BTreeMap<SocketAddr, Failures>,
    ejected: Ejected,
}

/// What an entry of the kernel's says that it did not say before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing.
    None,
    /// A connection was made after the last that failed.
    Mended,
    /// So many failed in a row, and none was made before them since the last look.
    Failed(u32),
    /// So many failed in a row since one was made.
    FailedAgain(u32),
}

/// What happened between two looks at a backend's entry.
fn news(before: Option<&Failures>, now: &Failures) -> News {
    let known = before.map_or(0, |before| before.failed);
    // An entry that was made anew began from nothing.
    let new = u32::try_from(now.failed.checked_sub(known).unwrap_or(now.failed)).unwrap_or(u32::MAX);
    match (new, now.run) {
        (0, 0) if before.is_some_and(|before| before.run > 0) => News::Mended,
        (0, _) => News::None,
        (_, 0) => News::Mended,
        (new, run) if run <= new && before.is_some_and(|before| before.run > 0) => News::FailedAgain(run),
        (new, run) => News::Failed(new.min(run)),
    }
}

impl Outlying {
    /// Who is left out.
    pub(super) fn ejected(&self) -> &Ejected {
        &self.ejected
    }

    /// Takes in what the kernel's entries say; those that are to be forgotten there.
    fn hear_kernel(&mut self, mesh: &Mesh, entries: &[(SocketAddr, Failures)], now: Duration) -> Vec<SocketAddr> {
        let mut over = Vec::new();
        let mut seen = BTreeMap::new();
        for (endpoint, failures) in entries {
            let at = Duration::from_nanos(failures.at_ns).min(now);
            let cause = match Reason::from_number(failures.cause) {
                Some(Reason::BackendTimedOut) => Cause::TimedOut,
                Some(_) | None => Cause::Refused,
            };
            match news(self.seen.get(endpoint), failures) {
                News::None => {}
                News::Mended => self.mended(mesh, *endpoint),
                News::Failed(n) => self.failed(mesh, (*endpoint, n), cause, at),
                News::FailedAgain(n) => {
                    self.mended(mesh, *endpoint);
                    self.failed(mesh, (*endpoint, n), cause, at);
                }
            }
            if failures.run == 0 || now.saturating_sub(at) > STALE {
                over.push(*endpoint);
            } else {
                seen.insert(*endpoint, *failures);
            }
        }
        self.seen = seen;
        over
    }

    fn failed(&mut self, mesh: &Mesh, (endpoint, n): (SocketAddr, u32), cause: Cause, at: Duration) {
        for pool in Pool::of(mesh, endpoint) {
            let outliers = mesh.snapshot.services.get(&pool.service).map(|service| service.traffic.outliers);
            if let Some(Outliers::Ejected(bounds)) = outliers {
                self.watch.failed(&pool, (endpoint, n), cause, (&bounds, at));
            }
        }
    }

    fn mended(&mut self, mesh: &Mesh, endpoint: SocketAddr) {
        for pool in Pool::of(mesh, endpoint) {
            self.watch.succeeded(&pool, endpoint);
        }
    }

    /// The mesh is another: an endpoint that was gone, or not to be called, for a moment begins anew when it is back.
    pub(super) fn turn(&mut self, mesh: &Mesh, node: &str) {
        let pools: Vec<Pool> = self.watch.pools().cloned().collect();
        for pool in pools {
            self.watch.keep_members(&pool, &pool.members(mesh, node).0);
        }
        self.ejected = self.watch.ejected();
    }

    /// Who leaves and who returns.
    fn decide(&mut self, mesh: &Mesh, node: &str, now: Duration) -> Vec<(Pool, Change)> {
        let pools: Vec<Pool> = self.watch.pools().cloned().collect();
        let mut all = Vec::new();
        for pool in pools {
            let (members, outliers) = pool.members(mesh, node);
            let changes = self.watch.decide(&pool, &members, outliers, now);
            all.extend(changes.into_iter().map(|change| (pool.clone(), change)));
        }
        self.ejected = self.watch.ejected();
        all
    }

    /// Who is left out and why, for `/status`.
    pub(super) fn told(&self, mesh: &Mesh, now: Duration) -> Vec<status::Ejected> {
        let mut all = Vec::new();
        for pool in self.watch.pools() {
            for (endpoint, trouble) in self.watch.troubles(pool) {
                let workload = mesh.workload_at(endpoint.ip()).map(|workload| workload.name.to_string());
                all.extend(told(pool, (endpoint, workload), trouble, now));
            }
        }
        all
    }
}

fn told(
    pool: &Pool,
    (endpoint, workload): (SocketAddr, Option<String>),
    trouble: &Trouble,
    now: Duration,
) -> Option<status::Ejected> {
    let (since, until) = trouble.out?;
    Some(status::Ejected {
        service: pool.service.to_string(),
        port: pool.port,
        endpoint,
        workload,
        cause: trouble.cause.name(),
        failures: trouble.run,
        times: trouble.times,
        since_s: now.saturating_sub(since).as_secs(),
        returns_in_s: until.saturating_sub(now).as_secs(),
    })
}

impl Node {
    /// Looks at what failed, and has the tables written where somebody leaves or returns.
    pub(super) fn watch_outliers(&mut self) {
        let now = monotonic();
        match self.kernel.failures() {
            Ok(entries) => {
                for endpoint in self.outlying.hear_kernel(&self.mesh, &entries, now) {
                    if let Err(why) = self.kernel.forget_failures(endpoint) {
                        tracing::debug!(error = &why as &dyn std::error::Error, "a count of failures stays");
                    }
                }
            }
            Err(why) => {
                tracing::debug!(
                    error = &why as &dyn std::error::Error,
                    "the kernel's counts of failures can't be read"
                );
            }
        }
        self.decide_outliers(now);
    }

    /// A proxy's word on an endpoint of another node. It is one of this node's own processes, and may at worst leave out what
    /// the bounds let it.
    pub(super) fn hear_outcome(&mut self, endpoint: SocketAddr, failed: Option<Cause>) {
        let now = monotonic();
        match failed {
            Some(cause) => self.outlying.failed(&self.mesh, (endpoint, 1), cause, now),
            None => self.outlying.mended(&self.mesh, endpoint),
        }
        self.decide_outliers(now);
    }

    fn decide_outliers(&mut self, now: Duration) {
        let changes = self.outlying.decide(&self.mesh, &self.name, now);
        if changes.is_empty() {
            return;
        }
        for (Pool { service, port, family: _ }, change) in &changes {
            match change {
                Change::Ejected(endpoint, trouble) => {
                    let (since, until) = trouble.out.unwrap_or_default();
                    let (failures, cause) = (trouble.run, trouble.cause.name());
                    let for_s = until.saturating_sub(since).as_secs();
                    tracing::warn!(%service, port, %endpoint, cause, failures, for_s, "an endpoint is left out: it fails");
                    self.outputs.metrics.ejected(trouble.cause);
                }
                Change::Returned(endpoint) => tracing::info!(%service, port, %endpoint, "an endpoint returns"),
            }
            self.outputs.metrics.flows.inc();
            self.outputs.flows.record(flows::outlier((service, *port), change, moment()));
        }
        self.due.get_or_insert_with(clock::now);
        self.publish();
    }
}

#[cfg(test)]
mod tests;
