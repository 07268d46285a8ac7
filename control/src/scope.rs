//! Says what one node may see of an edition, and what changed of that between two. The same scope stands on both sides of a diff.
//!
//! A node sees the whole mesh, save the network namespaces of pods on other nodes and other nodes' profiles. The diff of what all see is made once for
//! each edition; a node's own part costs what the node is, not what the world is.

use std::{collections::BTreeMap, sync::Arc};

use millrace_model::{Change, Delta, NodeProfile, ObjectName, Snapshot, Workload};

/// The workloads of one node.
pub type Own = BTreeMap<ObjectName, Arc<Workload>>;

/// A published generation, split into what all nodes see and what each sees alone.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// Everything; leaves this process only by its admin socket.
    pub snapshot: Arc<Snapshot>,
    /// What every node sees.
    public: Snapshot,
    /// By node, its own workloads, whole.
    own: BTreeMap<Arc<str>, Own>,
    /// What made `public` of the edition before.
    step: Option<Delta>,
}

impl Edition {
    /// The edition that follows `previous`.
    pub fn new(snapshot: Snapshot, previous: Option<&Self>) -> Self {
        let mut own: BTreeMap<Arc<str>, Own> = BTreeMap::new();
        let mut public = snapshot.clone();
        public.profiles.clear();
        for (name, workload) in &mut public.workloads {
            own.entry(workload.node.clone()).or_default().insert(name.clone(), workload.clone());
            if workload.netns.is_none() {
                continue;
            }
            // Most are as they were: told by the pointer, before anything is copied to be compared.
            if let Some(before) = previous.and_then(|p| p.shown_as_before(name, workload)) {
                *workload = before.clone();
                continue;
            }
            let shown = Workload { netns: None, ..Workload::clone(workload) };
            *workload = match previous.and_then(|p| p.public.workloads.get(name)).filter(|before| ***before == shown) {
                Some(before) => before.clone(),
                None => Arc::new(shown),
            };
        }
        let step = previous.map(|previous| Delta::between(&previous.public, &public));
        Self { snapshot: Arc::new(snapshot), public, own, step }
    }

    /// What all nodes were shown of this workload, if it is the very one that they were shown then.
    fn shown_as_before(&self, name: &ObjectName, workload: &Arc<Workload>) -> Option<&Arc<Workload>> {
        let before = self.snapshot.workloads.get(name)?;
        if Arc::ptr_eq(before, workload) { self.public.workloads.get(name) } else { None }
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
        for (name, workload) in self.own.get(node).into_iter().flatten() {
            if have.seen(node, name) != Some(workload) {
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
