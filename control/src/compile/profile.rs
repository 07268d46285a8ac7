//! Says which NodeProfile tunes which node: one, whole. Of several that select a node the older has it, then the first by name.
//!
//! They are not merged: two halves that were each measured alone are a third thing that nobody measured, and which of them a
//! value came from could only be found by reading all (docs/decisions/0013).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Map, NodeProfile, ObjectName};

use super::Notes;
use crate::{
    diagnostic::Kind,
    world::{LabelRule, World, external},
};

/// By node, the profile that tunes it.
type Tuned = Map<Arc<str>, Arc<NodeProfile>>;

/// The profile of each node that has one.
pub(super) fn profiles(world: &World, notes: &mut Notes) -> Tuned {
    let mut ranked: Vec<_> = world.objects.profiles.iter().collect();
    ranked.sort_by_key(|(name, profile)| (profile.made, *name));
    let none = BTreeMap::new();
    let mut chosen = Tuned::new();
    let mut lost: BTreeMap<&str, [&str; 2]> = BTreeMap::new();
    let mut selected = BTreeSet::new();
    for node in nodes(world) {
        let labels = world.objects.nodes.get(node).map_or(&none, |node| &node.labels);
        let mut of_node = ranked.iter().filter(|(_, profile)| selects(&profile.selector, labels));
        let Some((first, profile)) = of_node.next() else { continue };
        chosen.insert(node.clone(), Arc::new(profile.asks.clone()));
        selected.insert(*first);
        for (other, _) in of_node {
            selected.insert(*other);
            lost.entry(other).or_insert([first, node]);
        }
    }
    let named = |name: &str| ObjectName { namespace: "".into(), name: name.into() };
    for (loser, [winner, node]) in lost {
        let problem =
            format!("NodeProfile {winner} selects node {node} too, and is the older or the first by name: it has it");
        let mend = "select fewer nodes with one of the two: profiles are not merged";
        notes.add(Kind::NodeProfile, &named(loser), ("spec.nodeSelector", problem, mend));
    }
    for name in world.objects.profiles.keys().filter(|name| !selected.contains(name)) {
        let problem = "it selects no node there is".to_owned();
        notes.add(
            Kind::NodeProfile,
            &named(name),
            ("spec.nodeSelector", problem, "correct the labels, if nodes were meant"),
        );
    }
    chosen
}

/// The nodes there are: those with a Node object, and those that a pod was given to.
fn nodes(world: &World) -> BTreeSet<&Arc<str>> {
    let pods = world.objects.pods.values().filter(|pod| !external::is_outside(pod));
    let of_pods = pods.filter_map(|pod| pod.node.as_ref());
    world.objects.nodes.keys().chain(of_pods).collect()
}

pub(super) fn selects(rules: &[LabelRule], labels: &BTreeMap<String, String>) -> bool {
    rules.iter().all(|rule| match rule {
        LabelRule::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
        LabelRule::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        LabelRule::Exists(key) => labels.contains_key(key),
        LabelRule::Absent(key) => !labels.contains_key(key),
    })
}
