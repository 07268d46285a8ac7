//! Differs two Snapshots, and applies the difference. There is no second path: a full sync is a difference from the empty Snapshot.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::map::Differs;
use crate::{Endpoints, Map, NodeProfile, ObjectName, Policy, Routes, Service, Snapshot, Telemetry, Workload};

/// What turns the Snapshot at generation `from` into the one at `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The generation it applies to.
    pub from: u64,
    /// The generation it makes.
    pub to: u64,
    /// The trust domain at `to`.
    pub trust_domain: Arc<str>,
    /// Pods set or gone.
    pub workloads: Change<Workload>,
    /// Services set or gone.
    pub services: Change<Service>,
    /// Endpoints set or gone.
    pub endpoints: Change<Endpoints>,
    /// Policies set or gone.
    pub policies: Change<Policy>,
    /// Nodes' profiles set or gone, by the node's name.
    pub profiles: Change<NodeProfile, Arc<str>>,
    /// Routes set or gone, by service.
    #[serde(default)]
    pub routes: Change<Routes>,
    /// What is recorded, by policy.
    #[serde(default)]
    pub telemetry: Change<Telemetry>,
}

/// Objects of one kind that a Delta sets or removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T, K = ObjectName> {
    /// New or changed, in order of name.
    pub set: Vec<(K, Arc<T>)>,
    /// Gone, in order of name.
    pub gone: Vec<K>,
}

impl<T, K> Default for Change<T, K> {
    fn default() -> Self {
        Self { set: Vec::new(), gone: Vec::new() }
    }
}

impl<T, K> Change<T, K> {
    /// True where nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

/// The Delta was made for another generation than the one it was to be applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delta from generation {from} does not apply to generation {have}")]
pub struct WrongBase {
    /// What the Delta starts from.
    pub from: u64,
    /// What the Snapshot is at.
    pub have: u64,
}

impl Delta {
    /// The difference that makes `now` of `have`.
    pub fn between(have: &Snapshot, now: &Snapshot) -> Self {
        let Snapshot {
            generation,
            trust_domain,
            workloads,
            services,
            endpoints,
            policies,
            profiles,
            routes,
            telemetry,
        } = now;
        Self {
            from: have.generation,
            to: *generation,
            trust_domain: trust_domain.clone(),
            workloads: difference(&have.workloads, workloads),
            services: difference(&have.services, services),
            endpoints: difference(&have.endpoints, endpoints),
            policies: difference(&have.policies, policies),
            profiles: difference(&have.profiles, profiles),
            routes: difference(&have.routes, routes),
            telemetry: difference(&have.telemetry, telemetry),
        }
    }

    /// True where only the generation differs.
    pub fn is_empty(&self) -> bool {
        let Self {
            from: _,
            to: _,
            trust_domain: _,
            workloads,
            services,
            endpoints,
            policies,
            profiles,
            routes,
            telemetry,
        } = self;
        workloads.is_empty()
            && services.is_empty()
            && endpoints.is_empty()
            && policies.is_empty()
            && profiles.is_empty()
            && routes.is_empty()
            && telemetry.is_empty()
    }
}

impl Snapshot {
    /// This Snapshot with `delta` applied. A Delta from generation 0 applies to any: it starts from the empty Snapshot.
    pub fn apply(&self, delta: &Delta) -> Result<Self, WrongBase> {
        let Delta { from, to, trust_domain, workloads, services, endpoints, policies, profiles, routes, telemetry } =
            delta;
        let mut next = match *from {
            0 => Self::default(),
            from if from == self.generation => self.clone(),
            from => return Err(WrongBase { from, have: self.generation }),
        };
        next.generation = *to;
        next.trust_domain = trust_domain.clone();
        merge(&mut next.workloads, workloads);
        merge(&mut next.services, services);
        merge(&mut next.endpoints, endpoints);
        merge(&mut next.policies, policies);
        merge(&mut next.profiles, profiles);
        merge(&mut next.routes, routes);
        merge(&mut next.telemetry, telemetry);
        Ok(next)
    }
}

/// What the two share is passed over: it costs what differs.
fn difference<K: Ord + Clone, T: PartialEq>(have: &Map<K, Arc<T>>, now: &Map<K, Arc<T>>) -> Change<T, K> {
    let mut change = Change::default();
    for Differs { key, before: _, now } in have.differences(now) {
        match now {
            Some(new) => change.set.push((key.clone(), new.clone())),
            None => change.gone.push(key.clone()),
        }
    }
    change
}

fn merge<K: Ord + Clone, T>(into: &mut Map<K, Arc<T>>, change: &Change<T, K>) {
    for name in &change.gone {
        into.remove(name);
    }
    into.extend(change.set.iter().cloned());
}
