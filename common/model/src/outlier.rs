//! Decides which endpoints of a service are left out because connections to them fail, and when they return.
//!
//! Pure: what happened and when are arguments, time counted from any fixed moment. The agent asks it for what the kernel
//! and the proxy saw, the proxy for what itself saw: the same decision from the same evidence. Reads top down: [`Watch`], what
//! it is told, what it decides. It holds an entry for each endpoint that failed of late, and none for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Mesh, ObjectName, Protocol,
    resolve::{Standing, survey},
};

/// Whether failing endpoints are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outliers {
    /// They are not.
    Kept,
    /// They are, by these bounds.
    Ejected(Bounds),
}

impl Default for Outliers {
    fn default() -> Self {
        Self::Ejected(Bounds::default())
    }
}

/// When an endpoint is left out, for how long, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// So many failures with no success between them eject. At least 1.
    pub failures: u32,
    /// A failure that comes later than this after the one before begins the count anew.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th in a row n times as long.
    pub base: Duration,
    /// How long one lasts at most; and how long an endpoint must then serve for its next to count as its first.
    pub longest: Duration,
    /// The part of the endpoints that may be out at once, in percent. Never all of them, whatever it says.
    pub percent: u32,
}

impl Default for Bounds {
    /// Five are no accident, and half a minute lets a process restart; half of a service must carry what the other half drops.
    fn default() -> Self {
        Self {
            failures: 5,
            interval: Duration::from_secs(30),
            base: Duration::from_secs(30),
            longest: Duration::from_secs(300),
            percent: 50,
        }
    }
}

impl Bounds {
    /// How many of `n` may be out at once.
    fn most_of(&self, n: usize) -> usize {
        let percent = usize::try_from(self.percent).unwrap_or(100).min(100);
        (n.saturating_mul(percent) / 100).min(n.saturating_sub(1))
    }

    fn lasts(&self, times: u32) -> Duration {
        self.base.saturating_mul(times).min(self.longest)
    }
}

/// The endpoints among which one port of a service is drawn, of one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    /// The service.
    pub service: ObjectName,
    /// The service's port.
    pub port: u16,
    /// The addresses' family.
    pub family: Family,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Pool {
    /// The pool behind a virtual address of a service.
    pub fn at(service: &ObjectName, address: SocketAddr) -> Self {
        Self { service: service.clone(), port: address.port(), family: Family::of(address) }
    }

    /// Every pool of the mesh that this endpoint is of.
    pub fn of(mesh: &Mesh, endpoint: SocketAddr) -> Vec<Self> {
        let of_service = |endpoints: &std::sync::Arc<crate::Endpoints>| {
            let one = endpoints.endpoints.iter().find(|e| e.address == endpoint.ip())?;
            let ports = one.ports.iter().filter(|(_, target)| **target == endpoint.port());
            let tcp = ports.filter(|((_, protocol), _)| *protocol == Protocol::Tcp);
            let pool = |port| Self { service: endpoints.service.clone(), port, family: Family::of(endpoint) };
            Some(tcp.map(|((port, _), _)| pool(*port)).collect::<Vec<_>>())
        };
        mesh.snapshot.endpoints.values().filter_map(of_service).flatten().collect()
    }

    /// Who could be given connections on `node`, if nobody were ejected; and what the service says of failing ones.
    pub fn members(&self, mesh: &Mesh, node: &str) -> (Vec<SocketAddr>, Outliers) {
        let Some(service) = mesh.snapshot.services.get(&self.service) else { return (Vec::new(), Outliers::Kept) };
        let address = service.addresses.iter().map(|address| SocketAddr::new(*address, self.port));
        let Some(asked) = address.clone().find(|address| Family::of(*address) == self.family) else {
            return (Vec::new(), Outliers::Kept);
        };
        let standings = survey(mesh, node, service, asked, &Ejected::default()).into_iter();
        let members = standings.filter_map(|(_, standing)| match standing {
            Standing::Chosen(backend) | Standing::Spare(backend) => Some(backend.address),
            Standing::LeftOut(_) => None,
        });
        (members.collect(), service.traffic.outliers)
    }
}

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was refused.
    Refused,
    /// Nothing answered.
    TimedOut,
    /// The far node's proxy did not reach it.
    Unavailable,
}

impl Cause {
    /// Its name in metrics, logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The endpoints that are left out, by pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejected(BTreeMap<Pool, BTreeSet<SocketAddr>>);

impl Ejected {
    /// Those of the pool behind this virtual address.
    pub fn behind(&self, service: &ObjectName, address: SocketAddr) -> Option<&BTreeSet<SocketAddr>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&Pool::at(service, address))
    }

    /// The services that some are left out of, each as often as it has pools.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.0.keys().map(|pool| &pool.service)
    }

    /// With one more.
    pub fn insert(&mut self, pool: Pool, endpoint: SocketAddr) {
        self.0.entry(pool).or_default().insert(endpoint);
    }
}

/// What is known of an endpoint that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Failures with no success between them; of one that returned, one less than would eject it again.
    pub run: u32,
    /// When it failed last.
    pub failed: Duration,
    /// How it failed last.
    pub cause: Cause,
    /// From when until when it is left out; None while it is given connections.
    pub out: Option<(Duration, Duration)>,
    /// How many ejections in a row there were.
    pub times: u32,
}

/// What became of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is left out from now on.
    Ejected(SocketAddr, Trouble),
    /// It is given connections again.
    Returned(SocketAddr),
}

/// The endpoints that failed of late, by pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch(BTreeMap<Pool, BTreeMap<SocketAddr, Trouble>>);

impl Watch {
    /// Connections to an endpoint failed, `n` in a row. Of one that is left out nothing is noted: those began before.
    pub fn failed(&mut self, pool: &Pool, (endpoint, n): (SocketAddr, u32), cause: Cause, at: (&Bounds, Duration)) {
        let (bounds, now) = at;
        let new = Trouble { run: 0, failed: now, cause, out: None, times: 0 };
        let trouble = self.0.entry(pool.clone()).or_default().entry(endpoint).or_insert(new);
        if trouble.out.is_some() {
            return;
        }
        if now.saturating_sub(trouble.failed) > bounds.interval {
            trouble.run = 0;
        }
        trouble.run = trouble.run.saturating_add(n);
        (trouble.failed, trouble.cause) = (now, cause);
    }

    /// A connection to an endpoint was made.
    pub fn succeeded(&mut self, pool: &Pool, endpoint: SocketAddr) {
        if let Some(trouble) = self.0.get_mut(pool).and_then(|of| of.get_mut(&endpoint)) {
            trouble.run = 0;
        }
    }

    /// Forgets all but a pool's members: who was gone, and comes back, begins anew.
    pub fn keep_members(&mut self, pool: &Pool, members: &[SocketAddr]) {
        let Some(troubles) = self.0.get_mut(pool) else { return };
        troubles.retain(|endpoint, _| members.contains(endpoint));
        if troubles.is_empty() {
            self.0.remove(pool);
        }
    }

    /// Who of a pool's members leaves and who returns, and forgets what is over.
    pub fn decide(&mut self, pool: &Pool, members: &[SocketAddr], outliers: Outliers, now: Duration) -> Vec<Change> {
        let Some(troubles) = self.0.get_mut(pool) else { return Vec::new() };
        let mut changes = Vec::new();
        troubles.retain(|endpoint, _| members.contains(endpoint));
        match outliers {
            Outliers::Kept => {
                let out = troubles.iter().filter(|(_, trouble)| trouble.out.is_some());
                changes.extend(out.map(|(endpoint, _)| Change::Returned(*endpoint)));
                troubles.clear();
            }
            Outliers::Ejected(bounds) => {
                forget(troubles, &bounds, now);
                back(troubles, &bounds, (members.len(), now), &mut changes);
                out(troubles, &bounds, (members.len(), now), &mut changes);
            }
        }
        if troubles.is_empty() {
            self.0.remove(pool);
        }
        changes
    }

    /// The pools that something is known of.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.0.keys()
    }

    /// What is known of a pool's endpoints.
    pub fn troubles(&self, pool: &Pool) -> impl Iterator<Item = (SocketAddr, &Trouble)> {
        self.0.get(pool).into_iter().flatten().map(|(endpoint, trouble)| (*endpoint, trouble))
    }

    /// Who is left out.
    pub fn ejected(&self) -> Ejected {
        let mut ejected = Ejected::default();
        for (pool, troubles) in &self.0 {
            for (endpoint, _) in troubles.iter().filter(|(_, trouble)| trouble.out.is_some()) {
                ejected.insert(pool.clone(), *endpoint);
            }
        }
        ejected
    }
}

type Troubles = BTreeMap<SocketAddr, Trouble>;

/// Forgets what served for long enough.
fn forget(troubles: &mut Troubles, bounds: &Bounds, now: Duration) {
    troubles.retain(|_, trouble| {
        let quiet = now.saturating_sub(trouble.failed);
        let is_counted = trouble.run > 0 && quiet <= bounds.interval;
        let is_remembered = trouble.times > 0 && quiet <= bounds.longest;
        trouble.out.is_some() || is_counted || is_remembered
    });
}

/// Those whose time is over return, and those that are too many by now, the first to return first.
fn back(troubles: &mut Troubles, bounds: &Bounds, (n, now): (usize, Duration), changes: &mut Vec<Change>) {
    let mut all: Vec<(Duration, SocketAddr)> =
        troubles.iter().filter_map(|(endpoint, trouble)| Some((trouble.out?.1, *endpoint))).collect();
    all.sort_unstable();
    let too_many = all.len().saturating_sub(bounds.most_of(n));
    for (index, (until, endpoint)) in all.into_iter().enumerate() {
        if let Some(trouble) = troubles.get_mut(&endpoint).filter(|_| until <= now || index < too_many) {
            trouble.out = None;
            // Its next failure tells that nothing is mended; the moment of its return begins the time in which it counts.
            trouble.run = bounds.failures.saturating_sub(1);
            trouble.failed = now;
            changes.push(Change::Returned(endpoint));
        }
    }
}

/// Those that failed too often leave, the worst first, as long as enough are left.
fn out(troubles: &mut Troubles, bounds: &Bounds, (n, now): (usize, Duration), changes: &mut Vec<Change>) {
    let n_out = troubles.values().filter(|trouble| trouble.out.is_some()).count();
    let room = bounds.most_of(n).saturating_sub(n_out);
    let fails = |trouble: &Trouble| {
        trouble.out.is_none() && trouble.run >= bounds.failures && now.saturating_sub(trouble.failed) <= bounds.interval
    };
    let mut worst: Vec<(u32, SocketAddr)> =
        troubles.iter().filter(|(_, trouble)| fails(trouble)).map(|(at, trouble)| (trouble.run, *at)).collect();
    worst.sort_unstable_by_key(|(run, endpoint)| (std::cmp::Reverse(*run), *endpoint));
    for (_, endpoint) in worst.into_iter().take(room) {
        if let Some(trouble) = troubles.get_mut(&endpoint) {
            trouble.times = trouble.times.saturating_add(1);
            trouble.out = Some((now, now.saturating_add(bounds.lasts(trouble.times))));
            changes.push(Change::Ejected(endpoint, *trouble));
        }
    }
}

#[cfg(test)]
mod tests;
