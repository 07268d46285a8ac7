//! Says what stands on a policy, by what was read of it and what nodes report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{ObjectName, Snapshot};
use serde_json::{Value, json};

use super::{Since, decide};
use crate::{
    compile,
    diagnostic::{Diagnostic, Effect, Key, Kind, Object},
    nodes::Node,
    publish::Outcome,
    scope::Edition,
    source::{Sourced, kubernetes::Revision, object},
    status::{
        condition::{Holds, Wanted},
        report::Report,
    },
    world::{Objects, Settings, World},
};

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() }
}

fn key() -> Key {
    Key { kind: Kind::AccessPolicy, name: ObjectName::new("shop", "guard") }
}

fn insert(objects: &mut Objects, kind: Kind, name: &str, rest: &Value) {
    let mut value = json!({"metadata": {"name": name, "namespace": "shop",
        "labels": {"app": "web", "millrace.dev/mesh": "enabled"}}});
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest.clone()) {
        value.extend(rest);
    }
    let key = Key { kind, name: ObjectName::new("shop", name) };
    let (object, problems) = object::read(&key, value, &settings());
    objects.insert(&key, object.unwrap_or_else(|| panic!("{problems:?}")));
}

/// A policy of this generation over a pod on each of these nodes.
fn outcome(generation: i64, nodes: &[&str], faults: &[(Effect, &str)]) -> Outcome {
    let mut objects = Objects::default();
    for (index, node) in nodes.iter().enumerate() {
        let spec = json!({"spec": {"nodeName": node}, "status": {"podIP": format!("10.0.0.{}", index + 1)}});
        insert(&mut objects, Kind::Pod, &format!("web-{node}"), &spec);
    }
    let policy = json!({"metadata": {"name": "guard", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    insert(&mut objects, Kind::AccessPolicy, "guard", &policy);
    let revisions = BTreeMap::from([(key(), Revision { uid: "1".into(), generation })]);
    let sourced = Sourced { objects, revisions: Arc::new(revisions.into()), ..Sourced::default() };
    let diagnostics = faults
        .iter()
        .map(|(effect, problem)| Diagnostic {
            place: None,
            object: Object::Known(key()),
            field: "spec.action".to_owned(),
            problem: (*problem).to_owned(),
            mend: "mend it".to_owned(),
            effect: *effect,
        })
        .collect();
    let world = World {
        settings: settings(),
        objects: sourced.objects.clone(),
        listening: BTreeMap::new(),
        revoked: BTreeSet::new(),
    };
    let (snapshot, _) = compile::compile(&world);
    let edition = Edition::new(Snapshot { generation: 100, ..snapshot }, None);
    Outcome { edition: Some(Arc::new(edition)), sourced: Arc::new(sourced), diagnostics: Arc::new(diagnostics) }
}

fn conditions(outcome: &Outcome, applied: &[(&str, u64)]) -> (Wanted, Wanted) {
    let mut since = Since::default();
    since.learn(outcome);
    let nodes = applied
        .iter()
        .map(|(name, applied)| (Arc::from(*name), Node { streams: 1, applied: *applied, ..Node::default() }));
    let report = Report::of(&since, &nodes.collect());
    let snapshot = &outcome.edition.as_ref().unwrap().snapshot;
    let bound = compile::bound_nodes(&outcome.sourced.objects, snapshot, &settings());
    let mut all = decide(outcome, &bound, [report].iter());
    let [accepted, enforced] = <[Wanted; 2]>::try_from(all.remove(&key()).unwrap()).unwrap();
    (accepted, enforced)
}

#[test]
fn a_policy_is_enforced_once_every_node_with_a_pod_of_it_has_applied_it() {
    let outcome = outcome(3, &["a", "b"], &[]);
    let (accepted, enforced) = conditions(&outcome, &[("a", 100), ("b", 99), ("c", 0)]);
    assert_eq!((accepted.holds, accepted.reason), (Holds::True, "Accepted"));
    assert_eq!((enforced.holds, enforced.reason), (Holds::False, "Pending"));
    assert_eq!(enforced.message, "on 1 of 2 nodes; not yet on b");
    let (_, enforced) = conditions(&outcome, &[("a", 100), ("b", 100)]);
    assert_eq!((enforced.holds, &*enforced.message), (Holds::True, "on 2 of 2 nodes"));
}

#[test]
fn a_node_that_is_not_connected_is_named() {
    let (_, enforced) = conditions(&outcome(1, &["a", "b"], &[]), &[("a", 100)]);
    assert_eq!((enforced.reason, &*enforced.message), ("NodesAway", "on 1 of 2 nodes; not connected: b"));
}

#[test]
fn a_policy_that_selects_nobody_says_so() {
    let (_, enforced) = conditions(&outcome(1, &[], &[]), &[("a", 100)]);
    assert_eq!((enforced.holds, enforced.reason), (Holds::True, "NothingSelected"));
}

#[test]
fn a_policy_that_is_refused_says_why_in_the_words_of_every_other_place() {
    let outcome = outcome(2, &["a"], &[(Effect::Refused, "it is odd")]);
    let (accepted, enforced) = conditions(&outcome, &[("a", 100)]);
    assert_eq!((accepted.holds, accepted.reason), (Holds::False, "Invalid"));
    assert_eq!(accepted.message, "spec.action: it is odd; mend it. It is not in force.");
    assert_eq!((enforced.holds, enforced.reason), (Holds::False, "NotAccepted"));
}

#[test]
fn what_is_only_worth_a_warning_is_accepted_with_it() {
    let outcome = outcome(2, &["a"], &[(Effect::Applied, "it is odd")]);
    let (accepted, enforced) = conditions(&outcome, &[("a", 100)]);
    assert_eq!((accepted.holds, accepted.reason), (Holds::True, "AcceptedWithWarnings"));
    assert_eq!(enforced.holds, Holds::True);
}
