//! Says whether what should stand on a route of its parents, or on an XBackendTrafficPolicy of its ancestors, differs from what does, and what
//! to write then. Pure.
//!
//! The list of them is everybody's and is written whole: entries of other controllers go back as they came, and so do
//! conditions that others put beside ours. A parent that the route names no more loses our entry.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::condition::{self, Wanted};
use crate::{
    diagnostic::Kind,
    world::route::{Parent, Written},
};

/// Who answers for our entries.
pub const CONTROLLER: &str = "millrace.dev/control";
/// Whether the nodes that it is for hold the route.
pub const PROGRAMMED: &str = "millrace.dev/Programmed";
/// Whether some of its rules can't be honoured while others are.
pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
/// What we write; whatever else stands in an entry of ours is another's.
const OURS: &[&str] = &["Accepted", "ResolvedRefs", PARTIALLY_INVALID, PROGRAMMED];

/// What the list is called, and in an entry what it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The list.
    pub list: &'static str,
    /// What an entry is of.
    pub of: &'static str,
}

impl Fields {
    /// Those of a kind that has such a list.
    pub fn of(kind: Kind) -> Self {
        if kind.is_route() {
            Self { list: "parents", of: "parentRef" }
        } else {
            Self { list: "ancestors", of: "ancestorRef" }
        }
    }
}

/// What should stand on a route of one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The parent, as it is written.
    pub parent: Parent,
    /// Each condition, and the generation of the route that it is of.
    pub conditions: Vec<(Wanted, i64)>,
}

/// The list to write, given the one that stands; None where that says so already.
pub fn change(fields: Fields, wanted: &[Entry], standing: &[Value], now: Timestamp) -> Option<Vec<Value>> {
    let (ours, others): (Vec<&Value>, Vec<&Value>) = standing.iter().partition(|entry| is_ours(entry));
    let stands: Vec<(&Value, Vec<Condition>)> =
        ours.into_iter().map(|entry| (parent(fields, entry), conditions(entry))).collect();
    let next: Vec<(Value, Vec<Condition>)> = wanted
        .iter()
        .map(|Entry { parent, conditions }| {
            let parent = written(parent);
            let before = stands.iter().find(|(of, _)| **of == parent).map(|(_, list)| list.as_slice());
            let before = before.unwrap_or_default();
            let others = before.iter().filter(|one| !OURS.contains(&&*one.type_)).cloned();
            let ours = conditions.iter().map(|(one, generation)| condition::next(one, before, *generation, now));
            (parent, ours.chain(others).collect())
        })
        .collect();
    let is_same = next.len() == stands.len()
        && next.iter().zip(&stands).all(|((parent, list), (of, stood))| {
            parent == *of && list.len() == stood.len() && list.iter().all(|one| stood.contains(one))
        });
    let entry = |(parent, conditions): (Value, Vec<Condition>)| json!({fields.of: parent, "controllerName": CONTROLLER, "conditions": conditions});
    (!is_same).then(|| others.into_iter().cloned().chain(next.into_iter().map(entry)).collect())
}

/// What stands of this parent in an entry of ours.
pub fn of(fields: Fields, wanted: &Parent, standing: &[Value]) -> Vec<Condition> {
    let wanted = written(wanted);
    let found = standing.iter().find(|entry| is_ours(entry) && *parent(fields, entry) == wanted);
    found.map(conditions).unwrap_or_default()
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER)
}

fn parent(fields: Fields, entry: &Value) -> &Value {
    entry.get(fields.of).unwrap_or(&Value::Null)
}

fn conditions(entry: &Value) -> Vec<Condition> {
    let list = entry.get("conditions").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|one| Condition::deserialize(one).ok()).collect()
}

/// The reference as it stands in the route.
fn written(parent: &Parent) -> Value {
    let Parent { group, kind, name, namespace, section, port } = parent;
    let mut fields = Map::new();
    let mut add = |field: &str, value: Value| drop(fields.insert(field.to_owned(), value));
    add("group", json!(&**group));
    add("kind", json!(&**kind));
    add("name", json!(&*name.name));
    match namespace {
        Written::There => add("namespace", json!(&*name.namespace)),
        Written::Not => {}
    }
    if let Some(section) = section {
        add("sectionName", json!(&**section));
    }
    if let Some(port) = port {
        add("port", json!(port));
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use millrace_model::ObjectName;
    use serde_json::{Value, json};

    use super::{CONTROLLER, Entry, Fields, PARTIALLY_INVALID, change};
    use crate::{
        status::condition::{Holds, Wanted},
        world::route::{Parent, Written},
    };

    const ROUTE: Fields = Fields { list: "parents", of: "parentRef" };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn service(name: &str, port: Option<u16>) -> Parent {
        Parent {
            group: "".into(),
            kind: "Service".into(),
            name: ObjectName::new("shop", name),
            namespace: Written::Not,
            section: None,
            port,
        }
    }

    fn entry(parent: &Parent, message: &str) -> Entry {
        let accepted = Wanted { name: "Accepted", holds: Holds::True, reason: "Accepted", message: message.to_owned() };
        Entry { parent: parent.clone(), conditions: vec![(accepted, 3)] }
    }

    fn gateway() -> Value {
        json!({"parentRef": {"name": "front", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
            "controllerName": "example.org/gateway", "conditions": [{"type": "Accepted", "status": "False",
            "reason": "NoMatchingParent", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "more": 1})
    }

    #[test]
    fn what_stands_there_already_is_not_written_again() {
        let wanted = [entry(&service("web", None), "good"), entry(&service("web", Some(80)), "good")];
        let first = change(ROUTE, &wanted, &[gateway()], at(100)).unwrap();
        assert_eq!(first.len(), 3);
        assert_eq!(change(ROUTE, &wanted, &first, at(200)), None);
        assert_eq!(change(ROUTE, &[], &[gateway()], at(200)), None, "who was never ours is not written");
    }

    #[test]
    fn anothers_entry_goes_back_as_it_came() {
        let first = change(ROUTE, &[entry(&service("web", None), "good")], &[gateway()], at(100)).unwrap();
        assert_eq!(first[0], gateway());
        assert_eq!(first[1]["parentRef"], json!({"group": "", "kind": "Service", "name": "web"}));
        assert_eq!(change(ROUTE, &[], &first, at(200)).unwrap(), [gateway()], "ours goes with the reference");
    }

    #[test]
    fn anothers_condition_in_our_entry_stays() {
        let wanted = [entry(&service("web", None), "good")];
        let mut standing = change(ROUTE, &wanted, &[], at(100)).unwrap();
        let theirs = json!({"type": "example.org/Audited", "status": "True", "reason": "Seen", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        standing[0]["conditions"].as_array_mut().unwrap().push(theirs);
        assert_eq!(change(ROUTE, &wanted, &standing, at(200)), None);
        let next = change(ROUTE, &[entry(&service("web", None), "other")], &standing, at(200)).unwrap();
        assert_eq!(next[0]["conditions"][1]["type"], "example.org/Audited");
        assert_eq!(next[0]["conditions"][0]["lastTransitionTime"], standing[0]["conditions"][0]["lastTransitionTime"]);
    }

    #[test]
    fn a_condition_that_holds_no_more_goes() {
        let mut partly = entry(&service("web", None), "good");
        let dropped =
            Wanted { name: PARTIALLY_INVALID, holds: Holds::True, reason: "UnsupportedValue", message: String::new() };
        partly.conditions.push((dropped, 4));
        let standing = change(ROUTE, &[partly], &[], at(100)).unwrap();
        let next = change(ROUTE, &[entry(&service("web", None), "good")], &standing, at(200)).unwrap();
        assert_eq!(next[0]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(next[0]["controllerName"], CONTROLLER);
    }
}
