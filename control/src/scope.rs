//! Says what one node may see of an edition, and what changed of that between two. The same scope stands on both sides of a diff.
//!
//! A node sees the whole mesh, save the network namespaces of pods on other nodes and other nodes' profiles. The diff of what all see is made once for
//! each edition; a node's own part costs what the node is, not what the world is.

use std::{collections::BTreeMap, sync::Arc};

use millrace_model::{Change, Delta, Map, NodeProfile, ObjectName, Snapshot, Workload, map::Differs};

/// The workloads of one node.
pub type Own = Map<ObjectName, Arc<Workload>>;

/// A published generation, split into what all nodes see and what each sees alone.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// Everything; leaves this process only by its admin socket.
    pub snapshot: Arc<Snapshot>,
    /// What every node sees.
    public: Snapshot,
    /// By node, its own workloads, whole.
    own: Map<Arc<str>, Own>,
    /// What made `public` of the edition before.
    step: Option<Delta>,
}

impl Edition {
    /// The edition that follows `previous`: costs what differs.
    pub fn new(snapshot: Snapshot, previous: Option<&Self>) -> Self {
        let first = Self::default();
        let before = previous.unwrap_or(&first);
        let (mut workloads, mut own) = (before.public.workloads.clone(), before.own.clone());
        for Differs { key: name, before, now } in before.snapshot.workloads.differences(&snapshot.workloads) {
            if let Some(left) = before.filter(|before| now.is_none_or(|now| now.node != before.node)) {
                let of_node = own.get_mut(&left.node);
                let is_last = of_node.is_some_and(|own| {
                    own.remove(name);
                    own.is_empty()
                });
                if is_last {
                    own.remove(&left.node);
                }
            }
            let Some(now) = now else {
                workloads.remove(name);
                continue;
            };
            if let Some(of_node) = own.get_mut(&now.node) {
                of_node.insert(name.clone(), now.clone());
            } else {
                own.insert(now.node.clone(), [(name.clone(), now.clone())].into());
            }
            let shown = match now.netns {
                None => now.clone(),
                Some(_) => Arc::new(Workload { netns: None, ..Workload::clone(now) }),
            };
            // One that looks as it did is no change for those who do not see the rest.
            if workloads.get(name) != Some(&shown) {
                workloads.insert(name.clone(), shown);
            }
        }
        let public = Snapshot { workloads, profiles: Map::new(), ..snapshot.clone() };
        let step = previous.map(|previous| Delta::between(&previous.public, &public));
        Self { snapshot: Arc::new(snapshot), public, own, step }
    }

    /// Its generation.
    pub fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    /// The workloads of `previous`, which this one follows, that are gone, or are others under their name.
    pub fn gone_since<'p>(&self, previous: &'p Self) -> impl Iterator<Item = &'p Workload> {
        let changed = self.step.iter().flat_map(|step| {
            let Change { set, gone } = &step.workloads;
            set.iter().map(|(name, _)| name).chain(gone)
        });
        let before = changed.filter_map(move |name| previous.snapshot.workloads.get(name));
        before.map(|workload| &**workload).filter(move |before| {
            let now = self.snapshot.workloads.get(&before.name);
            now.is_none_or(|now| now.instance != before.instance || now.node != before.node)
        })
    }

    /// The workloads on this node.
    pub fn on(&self, node: &str) -> Option<&Own> {
        self.own.get(node)
    }

    /// The nodes that have workloads.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.own.keys()
    }

    /// All that this node may see.
    pub fn view(&self, node: &str) -> Snapshot {
        let mut view = self.public.clone();
        view.workloads.extend(self.own.get(node).into_iter().flatten().map(|(name, w)| (name.clone(), w.clone())));
        view.profiles.extend(self.profile(node).map(|profile| (node.into(), profile.clone())));
        view
    }

    /// What makes this node's view of `self` of its view of `have`; from the empty Snapshot where it has none.
    pub fn since(&self, have: Option<&Self>, node: &str) -> Delta {
        let Some(have) = have else { return Delta::between(&Snapshot::default(), &self.view(node)) };
        let mut delta = match &self.step {
            Some(step) if step.from == have.generation() => step.clone(),
            Some(_) | None => Delta::between(&have.public, &self.public),
        };
        let mut set: BTreeMap<ObjectName, Arc<Workload>> = delta.workloads.set.into_iter().collect();
        let none = Own::new();
        let (before, now) = (have.own.get(node).unwrap_or(&none), self.own.get(node).unwrap_or(&none));
        for Differs { key: name, before: _, now } in before.differences(now) {
            if let Some(workload) = now.filter(|now| have.seen(node, name) != Some(*now)) {
                set.insert(name.clone(), workload.clone());
            }
        }
        delta.workloads.set = set.into_iter().collect();
        let own = |now: &Arc<NodeProfile>| vec![(node.into(), now.clone())];
        delta.profiles = match (have.profile(node), self.profile(node)) {
            (Some(before), Some(now)) if before == now => Change::default(),
            (_, Some(now)) => Change { set: own(now), gone: Vec::new() },
            (Some(_), None) => Change { set: Vec::new(), gone: vec![node.into()] },
            (None, None) => Change::default(),
        };
        delta
    }

    fn profile(&self, node: &str) -> Option<&Arc<NodeProfile>> {
        self.snapshot.profiles.get(node)
    }

    fn seen(&self, node: &str, name: &ObjectName) -> Option<&Arc<Workload>> {
        self.own.get(node).and_then(|own| own.get(name)).or_else(|| self.public.workloads.get(name))
    }
}

#[cfg(test)]
mod tests;
