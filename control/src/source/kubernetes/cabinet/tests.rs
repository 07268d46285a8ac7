//! Says what the cabinet keeps, drops and tells, watch by watch.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::ObjectName;
use serde_json::{Value, json};

use super::{Cabinet, Change, Id, Read, Seen};
use crate::{
    diagnostic::{Effect, Key, Kind},
    source::{
        kubernetes::{Revision, Stands},
        object,
    },
    world::Settings,
};

fn id(kind: Kind) -> Id {
    Id { kind, namespace: None }
}

fn read(kind: Kind, name: &str, (uid, generation): (&str, i64), rest: &Value) -> Read {
    let mut value = json!({"metadata": {"name": name, "namespace": "shop", "uid": uid}});
    if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest.clone()) {
        value.extend(rest);
    }
    let settings = Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() };
    let key = Key { kind, name: ObjectName::new("shop", name) };
    let instead = object::instead(&key, &value);
    let (object, problems) = object::read(&key, value, &settings);
    let stands = kind.is_own().then(|| Stands::Conditions(Vec::new()));
    Read { key, revision: Revision { uid: uid.into(), generation }, stands, asked: None, object, instead, problems }
}

fn account(name: &str) -> Read {
    read(Kind::ServiceAccount, name, ("1", 0), &json!({}))
}

fn policy(uid: &str, generation: i64, spec: &Value) -> Read {
    read(Kind::AccessPolicy, "p", (uid, generation), &json!({ "spec": spec }))
}

fn put(cabinet: &mut Cabinet, read: Read) -> Change {
    let id = id(read.key.kind);
    cabinet.take(Seen::Put(id, Box::new(read)))
}

fn accounts(cabinet: &Cabinet) -> Vec<String> {
    cabinet.sourced().objects.service_accounts.keys().map(|name| name.name.to_string()).collect()
}

const CHANGED: Change = Change { objects: true, standing: false };
const SAME: Change = Change { objects: false, standing: false };

#[test]
fn nothing_is_whole_until_every_list_is() {
    let watches: BTreeSet<Id> = [id(Kind::ServiceAccount), id(Kind::Pod)].into();
    let mut cabinet = Cabinet::new(watches);
    assert!(!cabinet.is_whole());
    cabinet.take(Seen::Whole(id(Kind::ServiceAccount), vec![account("a")]));
    assert!(!cabinet.is_whole());
    assert_eq!(cabinet.take(Seen::Whole(id(Kind::Pod), vec![])), CHANGED, "that there is none is news the first time");
    assert!(cabinet.is_whole());
    assert_eq!(accounts(&cabinet), ["a"]);
}

#[test]
fn a_new_list_that_says_the_same_changes_nothing() {
    let mut cabinet = Cabinet::new([id(Kind::ServiceAccount)].into());
    cabinet.take(Seen::Whole(id(Kind::ServiceAccount), vec![account("a"), account("b")]));
    assert_eq!(cabinet.take(Seen::Whole(id(Kind::ServiceAccount), vec![account("b"), account("a")])), SAME);
}

#[test]
fn what_was_deleted_while_the_watch_was_away_goes_with_the_new_list_and_nothing_else() {
    let mut cabinet = Cabinet::new([id(Kind::ServiceAccount)].into());
    cabinet.take(Seen::Whole(id(Kind::ServiceAccount), vec![account("a"), account("b")]));
    let change = cabinet.take(Seen::Whole(id(Kind::ServiceAccount), vec![account("b"), account("c")]));
    assert_eq!((change, accounts(&cabinet)), (CHANGED, vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn one_namespaces_list_leaves_the_others_objects_alone() {
    let here = Id { kind: Kind::ServiceAccount, namespace: Some("shop".into()) };
    let there = Id { kind: Kind::ServiceAccount, namespace: Some("other".into()) };
    let mut cabinet = Cabinet::new([here.clone(), there.clone()].into());
    cabinet.take(Seen::Whole(here, vec![account("a")]));
    cabinet.take(Seen::Whole(there, vec![]));
    assert_eq!(accounts(&cabinet), ["a"]);
}

#[test]
fn a_version_that_is_wrong_leaves_the_one_before_in_force_and_is_told() {
    let mut cabinet = Cabinet::new([].into());
    put(&mut cabinet, policy("1", 1, &json!({"action": "Deny", "rules": [{"to": [{"ports": [80]}]}]})));
    assert_eq!(
        put(&mut cabinet, policy("1", 2, &json!({"action": "Maybe"}))),
        Change { objects: true, standing: false }
    );
    let sourced = cabinet.sourced();
    assert_eq!(sourced.objects.access.len(), 1);
    let told = &sourced.diagnostics[0];
    assert_eq!((told.field.as_str(), told.effect), ("spec.action", Effect::Kept));
    assert!(sourced.revisions.values().all(|revision| revision.generation == 2));
    put(&mut cabinet, policy("1", 3, &json!({"action": "Deny", "rules": [{"to": [{"ports": [80]}]}]})));
    assert_eq!(cabinet.sourced().diagnostics, []);
}

#[test]
fn a_wrong_object_that_took_the_name_of_a_deleted_one_has_nothing_in_force() {
    let mut cabinet = Cabinet::new([].into());
    put(&mut cabinet, policy("1", 1, &json!({"action": "Deny", "rules": [{"to": [{"ports": [80]}]}]})));
    put(&mut cabinet, policy("2", 1, &json!({"action": "Maybe"})));
    let sourced = cabinet.sourced();
    assert_eq!((sourced.objects.access.len(), sourced.diagnostics[0].effect), (0, Effect::Refused));
}

fn network(uid: &str, types: &str) -> Read {
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": [types], "egress": [{}]});
    read(Kind::NetworkPolicy, "p", (uid, 1), &json!({ "spec": spec }))
}

/// Which ways the policy lets anything through, and which it binds at all.
fn ways(cabinet: &Cabinet) -> (Effect, [Option<usize>; 2]) {
    let sourced = cabinet.sourced();
    let policy = sourced.objects.network.values().next().unwrap();
    let effect = sourced.diagnostics.first().map_or(Effect::Applied, |told| told.effect);
    (effect, [&policy.ingress, &policy.egress].map(|way| way.as_ref().map(Vec::len)))
}

#[test]
fn a_network_policy_that_was_never_readable_closes_what_it_selects() {
    let mut cabinet = Cabinet::new([].into());
    put(&mut cabinet, network("1", "Sideways"));
    let closed = (Effect::Closed, [Some(0), Some(0)]);
    assert_eq!(ways(&cabinet), closed);
    // What stands in for it is no version of it.
    put(&mut cabinet, network("1", "Backwards"));
    assert_eq!(ways(&cabinet), closed);
    put(&mut cabinet, network("1", "Egress"));
    assert_eq!(ways(&cabinet), (Effect::Applied, [None, Some(1)]));
    put(&mut cabinet, network("1", "Sideways"));
    assert_eq!(ways(&cabinet), (Effect::Kept, [None, Some(1)]));
    assert_eq!(cabinet.sourced().uids.len(), 1);
    put(&mut cabinet, network("2", "Sideways"));
    assert_eq!(ways(&cabinet), closed, "another object took the name");
    let key = Key { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", "p") };
    cabinet.take(Seen::Gone(id(Kind::NetworkPolicy), key));
    let sourced = cabinet.sourced();
    assert!(sourced.objects.network.is_empty() && sourced.uids.is_empty() && sourced.diagnostics.is_empty());
}

#[test]
fn which_object_it_is_is_known_of_what_an_event_may_speak_of_and_of_no_other() {
    let mut cabinet = Cabinet::new([].into());
    let labelled = |value: &str| {
        read(Kind::ServiceAccount, "a", ("7", 0), &json!({"metadata": {"name": "a", "labels": {"x": value}}}))
    };
    put(&mut cabinet, labelled("good"));
    assert!(cabinet.sourced().uids.is_empty());
    put(&mut cabinet, labelled("no label"));
    assert_eq!(cabinet.sourced().uids.values().map(|uid| &**uid).collect::<Vec<_>>(), ["7"]);
    // Until it is gone: that it is mended is told too.
    put(&mut cabinet, labelled("good"));
    assert_eq!(cabinet.sourced().uids.len(), 1);
}

#[test]
fn a_new_generation_that_means_the_same_is_still_told_to_who_writes_status() {
    let mut cabinet = Cabinet::new([].into());
    put(&mut cabinet, policy("1", 1, &json!({"action": "Allow"})));
    assert_eq!(put(&mut cabinet, policy("1", 2, &json!({}))), CHANGED);
    assert_eq!(put(&mut cabinet, policy("1", 2, &json!({}))), SAME);
}

#[test]
fn a_condition_written_by_anybody_is_no_change_of_objects() {
    let mut cabinet = Cabinet::new([].into());
    put(&mut cabinet, policy("1", 1, &json!({})));
    let mut next = policy("1", 1, &json!({}));
    next.stands = Some(Stands::Conditions(vec![
        serde_json::from_value(json!({"type": "Accepted", "status": "True", "reason": "x", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .unwrap(),
    ]));
    assert_eq!(put(&mut cabinet, next), Change { objects: false, standing: true });
    let key = Key { kind: Kind::AccessPolicy, name: ObjectName::new("shop", "p") };
    let stands = cabinet.standing().get(&key).map(|stands| &**stands);
    assert!(matches!(stands, Some(Stands::Conditions(list)) if list.len() == 1));
    assert_eq!(cabinet.take(Seen::Gone(id(Kind::AccessPolicy), key)), Change { objects: true, standing: true });
    assert!(cabinet.standing().is_empty());
}

#[test]
fn what_is_as_it_was_keeps_its_objects() {
    let pod = || read(Kind::Pod, "a", ("1", 0), &json!({"spec": {"nodeName": "n"}, "status": {"podIP": "10.0.0.1"}}));
    let mut cabinet = Cabinet::new([id(Kind::Pod)].into());
    cabinet.take(Seen::Whole(id(Kind::Pod), vec![pod()]));
    let before = cabinet.sourced();
    cabinet.take(Seen::Whole(id(Kind::Pod), vec![pod()]));
    let after = cabinet.sourced();
    let (before, after) = (before.objects.pods.values().next().unwrap(), after.objects.pods.values().next().unwrap());
    assert!(Arc::ptr_eq(before, after), "what compares by address downstream would take it for another");
}
