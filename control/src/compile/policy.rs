//! Binds policies to pods, and says which policies do not do what their author seems to think.

use std::collections::{BTreeMap, BTreeSet};

use millrace_model::{Encryption, ObjectName, Rule, Source};

use super::{Notes, index::Index, network::Networks};
use crate::{
    diagnostic::Kind,
    world::{AccessPolicy, EncryptionPolicy, Pod, Target, World},
};

/// Policies by the namespace they stand in: a pod is in reach of its own namespace's and of the root's.
pub(super) struct Bindings<'w> {
    root: &'w str,
    access: BTreeMap<&'w str, Vec<&'w AccessPolicy>>,
    encryption: BTreeMap<&'w str, Vec<&'w EncryptionPolicy>>,
    pub(super) network: Networks<'w>,
}

impl<'w> Bindings<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut access: BTreeMap<&str, Vec<&AccessPolicy>> = BTreeMap::new();
        for policy in world.objects.access.values() {
            access.entry(&policy.name.namespace).or_default().push(policy);
        }
        let mut encryption: BTreeMap<&str, Vec<&EncryptionPolicy>> = BTreeMap::new();
        for policy in world.objects.encryption.values() {
            encryption.entry(&policy.name.namespace).or_default().push(policy);
        }
        Self { root: &world.settings.root_namespace, access, encryption, network: Networks::new(world) }
    }

    /// The access policies that bind this pod.
    pub(super) fn access(&self, pod: &Pod) -> BTreeSet<ObjectName> {
        self.namespaces(pod)
            .into_iter()
            .filter_map(|namespace| self.access.get(namespace))
            .flatten()
            .filter(|policy| selects(&policy.target, pod))
            .map(|policy| policy.name.clone())
            .collect()
    }

    /// What the one encryption policy that decides for this pod says: its own namespace's before the root's, one that
    /// selects before one for all, then the older, then the first by name.
    pub(super) fn encryption(&self, pod: &Pod, notes: &mut Notes) -> Encryption {
        let mut binding: Vec<(Rank, &EncryptionPolicy)> = self
            .namespaces(pod)
            .into_iter()
            .enumerate()
            .filter_map(|(reach, namespace)| Some((reach, self.encryption.get(namespace)?)))
            .flat_map(|(reach, policies)| policies.iter().map(move |policy| (reach, *policy)))
            .filter(|(_, policy)| selects(&policy.target, pod))
            .map(|(reach, policy)| (Rank { reach, for_all: policy.target == Target::All }, policy))
            .collect();
        binding.sort_by_key(|(rank, policy)| (*rank, policy.made, &policy.name));
        let Some((rank, first)) = binding.first() else { return Encryption::default() };
        for (_, other) in binding.iter().skip(1).filter(|(r, p)| r == rank && p.encryption != first.encryption) {
            let problem = format!("{} selects the same pods, such as {}, and decides for them", first.name, pod.name);
            notes.add(
                Kind::EncryptionPolicy,
                &other.name,
                ("spec.selector", problem, "remove one of the two, or let one select fewer pods"),
            );
        }
        first.encryption.clone()
    }

    /// The encryption policies that could bind this pod.
    pub(super) fn encrypting(&self, pod: &Pod) -> impl Iterator<Item = &'w EncryptionPolicy> {
        let lists = self.namespaces(pod).into_iter().filter_map(|namespace| self.encryption.get(namespace));
        lists.flatten().copied().collect::<Vec<_>>().into_iter()
    }

    /// The namespaces whose policies reach this pod, nearest first.
    pub(super) fn namespaces<'a>(&'a self, pod: &'a Pod) -> Vec<&'a str> {
        let own = &*pod.name.namespace;
        if own == self.root { vec![own] } else { vec![own, self.root] }
    }
}

/// Which of two encryption policies is nearer to a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// 0 for the pod's own namespace.
    reach: usize,
    for_all: bool,
}

pub(super) fn selects(target: &Target, pod: &Pod) -> bool {
    match target {
        Target::All => true,
        Target::Labels(labels) => labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)),
        Target::ServiceAccounts(accounts) => accounts.contains(&pod.service_account),
    }
}

pub(super) fn field(target: &Target) -> &'static str {
    match target {
        Target::All => "spec",
        Target::Labels(_) => "spec.selector.matchLabels",
        Target::ServiceAccounts(_) => "spec.targetRefs",
    }
}

/// Notes a policy that selects nobody or somebody out of reach, and rules of it that nobody can match.
pub(super) fn check_access(policy: &AccessPolicy, index: &Index, notes: &mut Notes) {
    let chosen = policy.target != Target::All;
    let (selector, bound) = (field(&policy.target), index.bound.get(&policy.name));
    if chosen && bound.is_none() {
        let problem = "it selects no pod there is".to_owned();
        notes.add(Kind::AccessPolicy, &policy.name, (selector, problem, "correct the labels, if pods were meant"));
    }
    if let (true, Some(pod)) = (chosen, bound.and_then(|bound| bound.outside.first())) {
        let problem = format!("it selects pod {pod}, which is not in the mesh: calls to it are not checked");
        let mend = "label the pod or its namespace millrace.dev/mesh: enabled";
        notes.add(Kind::AccessPolicy, &policy.name, (selector, problem, mend));
    }
    for (at, Rule { from, ports: _, protocol: _ }) in policy.rules.iter().enumerate() {
        for source in from {
            if let Some((problem, mend)) = fault(index, source) {
                notes.add(Kind::AccessPolicy, &policy.name, (&format!("spec.rules[{at}].from"), problem, mend));
            }
        }
    }
}

/// Notes a policy that selects nobody.
pub(super) fn check_encryption(policy: &EncryptionPolicy, index: &Index, notes: &mut Notes) {
    if index.reached.get(&policy.name) == Some(&false) {
        let problem = "it selects no pod there is".to_owned();
        let mend = "correct the labels, if pods were meant";
        notes.add(Kind::EncryptionPolicy, &policy.name, (field(&policy.target), problem, mend));
    }
}

/// What is wrong with a source that could not call at all.
fn fault(index: &Index, source: &Source) -> Option<(String, &'static str)> {
    match source {
        Source::Identity(identity) => {
            let account = (identity.namespace.clone(), identity.service_account.clone());
            (!index.accounts.has(&account)).then(|| {
                let problem = format!("there is no ServiceAccount {}/{}", identity.namespace, identity.service_account);
                (problem, "correct the identity, if it is not one to come")
            })
        }
        Source::Namespace(namespace) => (!index.namespaces.has(&**namespace))
            .then(|| (format!("there is no Namespace {namespace}"), "correct the name, if it is not one to come")),
        Source::Block(_) | Source::Peers(_) => None,
    }
}
