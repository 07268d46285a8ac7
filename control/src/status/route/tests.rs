//! Says what stands on a route's parents, by what was read of it and what nodes report.

use std::{collections::BTreeMap, sync::Arc};

use millrace_model::{ObjectName, Snapshot};
use serde_json::{Value, json};

use super::{Routed, decide};
use crate::{
    compile,
    diagnostic::{Key, Kind},
    nodes::Node,
    publish::Outcome,
    scope::Edition,
    source::{
        kubernetes::{Cabinet, Read, Revision, Seen, Stands, cabinet::Id},
        object,
    },
    status::{
        condition::{Holds, Wanted},
        decide::Since,
        report::Report,
    },
    world::{Settings, World},
};

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() }
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key { kind, name: ObjectName::new(namespace, name) }
}

/// A route of shop as the watch reads it.
fn route(generation: i64, spec: &Value) -> (Key, i64, Value) {
    (key(Kind::HttpRoute, "shop", "r"), generation, json!({ "spec": spec }))
}

fn pod(namespace: &str, node: &str, address: &str) -> (Key, i64, Value) {
    let value = json!({"spec": {"nodeName": node}, "status": {"podIP": address}});
    (key(Kind::Pod, namespace, &format!("web-{node}")), 0, value)
}

fn service(namespace: &str) -> (Key, i64, Value) {
    let ports = json!([{"name": "http", "port": 80}]);
    let spec = json!({"spec": {"clusterIPs": [format!("10.96.0.{}", namespace.len())], "ports": ports}});
    (key(Kind::Service, namespace, "store"), 0, spec)
}

/// What these objects come to, each read after the one before it.
fn outcome(objects: &[(Key, i64, Value)]) -> Outcome {
    let mut cabinet = Cabinet::default();
    for (key, generation, rest) in objects {
        let mut value = json!({"metadata": {"name": &*key.name.name, "namespace": &*key.name.namespace,
            "labels": {"millrace.dev/mesh": "enabled"}}});
        if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest.clone()) {
            value.extend(rest);
        }
        let is_route = key.kind.is_route();
        let asked = is_route.then(|| object::asked(key, &value));
        let stands = is_route.then(|| Stands::Parents { parents: vec![], version: "1".into() });
        let (object, problems) = object::read(key, value, &settings());
        let revision = Revision { uid: "1".into(), generation: *generation };
        let read = Read { key: key.clone(), revision, stands, asked, object, instead: None, problems };
        cabinet.take(Seen::Put(Id { kind: key.kind, namespace: None }, Box::new(read)));
    }
    let sourced = cabinet.sourced();
    let world = World {
        settings: settings(),
        objects: sourced.objects.clone(),
        listening: BTreeMap::new(),
        revoked: std::collections::BTreeSet::new(),
    };
    let (snapshot, notes) = compile::compile(&world);
    let edition = Edition::new(Snapshot { generation: 100, ..snapshot }, None);
    let diagnostics = Arc::new([sourced.diagnostics.clone(), notes].concat());
    Outcome { edition: Some(Arc::new(edition)), sourced: Arc::new(sourced), diagnostics }
}

/// What stands on the route's first parent, by type.
fn conditions(outcome: &Outcome, applied: &[(&str, u64)]) -> BTreeMap<&'static str, (Wanted, i64)> {
    let mut since = Since::default();
    since.learn(outcome);
    let nodes = applied
        .iter()
        .map(|(name, applied)| (Arc::from(*name), Node { streams: 1, applied: *applied, ..Node::default() }));
    let report = Report::of(&since, &nodes.collect());
    let all = decide(outcome, &Routed::of(outcome, &settings()), [report].iter());
    let entries = &all[&key(Kind::HttpRoute, "shop", "r")];
    entries[0].conditions.iter().map(|(one, at)| (one.name, (one.clone(), *at))).collect()
}

fn world(specs: &[Value]) -> Outcome {
    let mut objects = vec![
        service("shop"),
        service("elsewhere"),
        pod("shop", "a", "10.0.0.1"),
        pod("shop", "b", "10.0.0.2"),
        pod("elsewhere", "c", "10.0.0.3"),
    ];
    objects.extend(specs.iter().enumerate().map(|(index, spec)| route(index as i64 + 1, spec)));
    outcome(&objects)
}

const TO: &str = "store";

fn to(name: &str, rules: &Value) -> Value {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": name}], "rules": rules})
}

fn good() -> Value {
    json!([{"backendRefs": [{"name": "store", "port": 80}]}])
}

/// The second rule is wrong, the first is not.
fn partly() -> Value {
    json!([{"backendRefs": [{"name": "store", "port": 80}]},
        {"matches": [{"path": {"type": "RegularExpression", "value": "("}}], "backendRefs": [{"name": "store", "port": 80}]}])
}

#[test]
fn a_route_is_programmed_once_every_node_with_callers_has_it() {
    let outcome = world(&[to(TO, &good())]);
    let found = conditions(&outcome, &[("a", 100), ("b", 99)]);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["Accepted", "ResolvedRefs", "millrace.dev/Programmed"]);
    assert!(found["Accepted"].0.holds == Holds::True && found["ResolvedRefs"].0.holds == Holds::True);
    let (programmed, at) = &found["millrace.dev/Programmed"];
    assert_eq!((programmed.holds, programmed.reason, *at), (Holds::False, "Pending", 1));
    assert_eq!(programmed.message, "on 1 of 3 nodes; not yet on b; not connected: c");
    let found = conditions(&outcome, &[("a", 100), ("b", 100), ("c", 100)]);
    let (programmed, _) = &found["millrace.dev/Programmed"];
    assert_eq!(
        (programmed.holds, programmed.reason, &*programmed.message),
        (Holds::True, "Programmed", "on 3 of 3 nodes")
    );
}

#[test]
fn a_consumers_route_is_for_the_nodes_of_its_own_namespaces_pods() {
    let mut spec = to(TO, &json!([{}]));
    spec["parentRefs"][0]["namespace"] = json!("elsewhere");
    let found = conditions(&world(&[spec]), &[("a", 100), ("b", 100)]);
    assert_eq!(found["millrace.dev/Programmed"].0.message, "on 2 of 2 nodes");
}

#[test]
fn a_route_to_nobody_is_neither_accepted_nor_programmed() {
    let found = conditions(&world(&[to("nobody", &good())]), &[("a", 100)]);
    let (accepted, _) = &found["Accepted"];
    assert_eq!((accepted.holds, accepted.reason), (Holds::False, "NoMatchingParent"));
    assert_eq!(found["millrace.dev/Programmed"].0.reason, "NotAccepted");
}

#[test]
fn a_route_that_can_not_be_read_says_so_on_the_parents_that_it_asks_for() {
    let found = conditions(&world(&[to(TO, &partly())]), &[("a", 100)]);
    let (accepted, at) = &found["Accepted"];
    assert_eq!((accepted.holds, accepted.reason, *at), (Holds::False, "UnsupportedValue", 1));
    assert!(accepted.message.starts_with("spec.rules[1].matches[0].path.value: "), "{}", accepted.message);
    assert!(!found.contains_key("PartiallyInvalid") && !found.contains_key("ResolvedRefs"), "{found:?}");
}

#[test]
fn a_good_route_with_a_rule_gone_wrong_falls_back_and_says_to_what() {
    let applied = [("a", 100), ("b", 100), ("c", 100)];
    let found = conditions(&world(&[to(TO, &good()), to(TO, &partly())]), &applied);
    let (accepted, at) = &found["Accepted"];
    assert_eq!((accepted.holds, *at), (Holds::True, 1), "of the generation that is in force");
    let (partly, at) = &found["PartiallyInvalid"];
    assert_eq!((partly.holds, partly.reason, *at), (Holds::True, "UnsupportedValue", 2));
    assert!(partly.message.starts_with("Fall Back: generation 1 stays in force"), "{}", partly.message);
    assert!(partly.message.contains("spec.rules[1].matches[0].path.value: "), "{}", partly.message);
    assert_eq!(found["millrace.dev/Programmed"].0.holds, Holds::True);
}

#[test]
fn a_route_gone_wrong_in_all_its_rules_is_not_accepted_though_the_last_one_stays() {
    let wrong = json!([{"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}]);
    let found = conditions(&world(&[to(TO, &good()), to(TO, &wrong)]), &[("a", 100)]);
    let (accepted, at) = &found["Accepted"];
    assert_eq!((accepted.holds, accepted.reason, *at), (Holds::False, "UnsupportedValue", 2));
    assert!(found["millrace.dev/Programmed"].0.message.starts_with("the version read before stays in force"));
    assert!(!found.contains_key("PartiallyInvalid"), "it must not be set on one that is wholly invalid");
}

#[test]
fn a_rule_that_answers_nothing_but_500_is_dropped_where_others_serve() {
    let filter = json!({"type": "ExtensionRef", "extensionRef": {"group": "example.org", "kind": "Moon", "name": "m"}});
    let rules = json!([{"backendRefs": [{"name": "store", "port": 80}]}, {"filters": [filter]}]);
    let found = conditions(&world(&[to(TO, &rules)]), &[("a", 100)]);
    let (accepted, _) = &found["Accepted"];
    assert!(accepted.holds == Holds::True && accepted.message.contains("extensionRef"), "{}", accepted.message);
    let (partly, _) = &found["PartiallyInvalid"];
    assert!(partly.message.starts_with("Dropped Rule 1: "), "{}", partly.message);
}

#[test]
fn a_route_of_a_gateway_alone_is_somebody_elses() {
    let spec = json!({"parentRefs": [{"name": "front"}], "rules": good()});
    let outcome = world(&[spec]);
    let all = decide(&outcome, &Routed::of(&outcome, &settings()), std::iter::empty());
    assert!(all[&key(Kind::HttpRoute, "shop", "r")].is_empty());
}
