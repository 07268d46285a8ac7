//! Which profile tunes which node, and what is told of the rest.

use super::{BASE, notes, snapshot, world};
use crate::compile::{bound_nodes, compile};

fn profile(name: &str, more: &str, workers: u16) -> String {
    format!(
        "---\n{{apiVersion: millrace.dev/v1alpha1, kind: NodeProfile, metadata: {{name: {name}}}, \
         spec: {{{more}proxy: {{workers: {workers}}}}}}}\n"
    )
}

fn dated(profile: &str, when: &str) -> String {
    profile.replace("metadata: {", &format!("metadata: {{creationTimestamp: \"{when}\", "))
}

/// Node a of zone z1, node b of none, and c that only a pod names.
fn nodes(profiles: &str) -> String {
    let of_pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: shop}, spec: {nodeName: c}}\n";
    format!("{BASE}---\n{{apiVersion: v1, kind: Node, metadata: {{name: b}}}}\n{of_pod}{profiles}")
}

/// By node, whose profile it has.
fn tuned(profiles: &str) -> Vec<String> {
    let profiles = snapshot(&nodes(profiles)).profiles;
    profiles.iter().map(|(node, profile)| format!("{node}={}", profile.name)).collect()
}

/// What is told of profiles: that node c has no Node object is told too.
fn of_profiles(profiles: &str) -> Vec<String> {
    notes(&nodes(profiles)).into_iter().filter(|note| note.starts_with("NodeProfile")).collect()
}

const ZONE: &str = "topology.kubernetes.io/zone";

#[test]
fn a_profile_tunes_the_nodes_that_its_selector_finds() {
    let none: [String; 0] = [];
    assert_eq!(tuned(""), none);
    assert_eq!(tuned(&profile("p", "", 1)), ["a=p", "b=p", "c=p"], "without a selector: every node");
    let by_label = format!("nodeSelector: {{matchLabels: {{{ZONE}: z1}}}}, ");
    assert_eq!(tuned(&profile("p", &by_label, 1)), ["a=p"]);
    for (expression, expected) in [
        ("operator: In, values: [z1, z2]", &["a=p"][..]),
        ("operator: NotIn, values: [z1]", &["b=p", "c=p"]),
        ("operator: NotIn, values: [z9]", &["a=p", "b=p", "c=p"]),
        ("operator: Exists", &["a=p"]),
        ("operator: DoesNotExist", &["b=p", "c=p"]),
    ] {
        let selector = format!("nodeSelector: {{matchExpressions: [{{key: {ZONE}, {expression}}}]}}, ");
        assert_eq!(tuned(&profile("p", &selector, 1)), expected, "{expression}");
    }
}

#[test]
fn of_two_profiles_the_older_has_the_node_whole_and_the_other_is_told() {
    let (a, b) = (profile("a", "", 1), profile("b", "", 2));
    assert_eq!(tuned(&[a.clone(), b.clone()].concat()), ["a=a", "b=a", "c=a"], "the first by name");
    let older = dated(&b, "2025-01-01T00:00:00Z");
    assert_eq!(tuned(&[a.clone(), older.clone()].concat()), ["a=b", "b=b", "c=b"], "one with a date is the older");
    assert_eq!(tuned(&[dated(&a, "2026-01-01T00:00:00Z"), older].concat()), ["a=b", "b=b", "c=b"]);
    let told = of_profiles(&[a.clone(), b].concat());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("NodeProfile b: spec.nodeSelector: NodeProfile a selects node a too"), "{told:?}");
    // The loser asked for buffers: none of it is in force.
    let buffers = profile("b", "", 2).replace("workers: 2", "sendBufferBytes: 65536");
    let profiles = snapshot(&nodes(&[a, buffers].concat())).profiles;
    assert_eq!(profiles["a"].proxy.send_buffer, None, "profiles are never merged");
}

#[test]
fn a_profile_that_selects_no_node_is_told() {
    let told = of_profiles(&profile("p", "nodeSelector: {matchLabels: {pool: edge}}, ", 1));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("NodeProfile p: spec.nodeSelector: it selects no node there is"), "{told:?}");
}

#[test]
fn a_profile_holds_for_the_nodes_that_it_tunes() {
    let world = world(&nodes(&profile("p", &format!("nodeSelector: {{matchLabels: {{{ZONE}: z1}}}}, "), 1)));
    let (snapshot, _) = compile(&world);
    let bound = bound_nodes(&world.objects, &snapshot, &world.settings);
    let bound: Vec<String> = bound.into_iter().map(|(key, nodes)| format!("{key}: {nodes:?}")).collect();
    assert_eq!(bound, ["NodeProfile p: {\"a\"}"]);
}
