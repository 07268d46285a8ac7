//! Puts what was found of a cluster together: replicas, nodes, policies, and what is amiss. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;
use kube::core::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::look::Found;

/// The Lease by which one replica leads.
const LEADER: &str = "millrace-control";
/// Marks the Leases of replicas, and where their report stands.
const REPLICA: (&str, &str) = ("millrace.dev/replica", "millrace.dev/report");
/// Marks the Leases of nodes, where what they listen on stands too.
const LISTENING: &str = "millrace.dev/listening";
/// A node's Lease is this and its name.
const NODE: &str = "node.";
/// A replica repeats its report each 5 s, and the leader renews each 2 s.
const STALE_S: i64 = 20;

/// A cluster.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct View {
    pub(super) replicas: Vec<Replica>,
    pub(super) nodes: Vec<Node>,
    pub(super) policies: Vec<Policy>,
    pub(super) amiss: Vec<String>,
}

/// A replica of the control plane.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) leads: bool,
    pub(super) n_nodes: usize,
    /// How long ago it said something.
    pub(super) said_s: i64,
}

/// A node.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    /// Whom it has a stream to; None where its agent is connected to nobody.
    pub(super) replica: Option<String>,
    /// Pods whose listeners are open there.
    pub(super) n_listening: usize,
    /// Policies that it has not applied yet.
    pub(super) late: Vec<String>,
    pub(super) failures: Vec<String>,
}

/// A policy, with its conditions as they stand.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Policy {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) accepted: String,
    pub(super) enforced: String,
    pub(super) message: String,
}

/// What a replica reports; fields that this version does not know are let pass.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    nodes: BTreeMap<String, Progress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    late: BTreeSet<String>,
    failures: Vec<String>,
}

/// All of it.
pub(super) fn view(found: &Found) -> View {
    let mut amiss: Vec<String> = found
        .undefined
        .iter()
        .map(|kind| format!("{kind} is not defined: `millrace crds | kubectl apply --server-side -f -`"))
        .collect();
    let leader = found.leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(LEADER));
    let leader = leader.filter(|lease| age(lease, found.now) <= STALE_S).map(holder).filter(|name| !name.is_empty());
    if leader.is_none() {
        amiss.push("no replica leads: statuses are not written".to_owned());
    }
    let mut replicas = Vec::new();
    let mut reports = BTreeMap::new();
    for lease in found.leases.iter().filter(|lease| label(lease, REPLICA.0)) {
        let report: Report =
            annotation(lease, REPLICA.1).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let (name, said_s) = (holder(lease), age(lease, found.now));
        if said_s > STALE_S {
            amiss.push(format!("replica {name} has said nothing for {said_s} s"));
            continue;
        }
        let leads = leader.as_deref() == Some(&*name);
        replicas.push(Replica { name: name.clone(), leads, n_nodes: report.nodes.len(), said_s });
        reports.insert(name, report);
    }
    if replicas.is_empty() {
        amiss.push("no control plane reports: is millrace-control running?".to_owned());
    }
    let nodes: Vec<Node> = names(found, &reports).into_iter().map(|name| node(name, found, &reports)).collect();
    for Node { name, replica, n_listening, late: _, failures } in &nodes {
        if replica.is_none() && *n_listening > 0 {
            amiss.push(format!("node {name} has {n_listening} pods of the mesh and no stream to a control plane"));
        }
        amiss.extend(failures.iter().map(|failure| format!("node {name}: {failure}")));
    }
    let policies: Vec<Policy> = found.policies.iter().filter_map(|(kind, object)| policy(kind, object)).collect();
    for Policy { kind, name, accepted, enforced, message } in &policies {
        if accepted == "False" || enforced == "False" {
            amiss.push(format!("{kind} {name}: {message}"));
        }
    }
    View { replicas, nodes, policies, amiss }
}

/// Nodes that exist, and those that are told of.
fn names(found: &Found, reports: &BTreeMap<String, Report>) -> BTreeSet<String> {
    let listening = found.leases.iter().filter(|lease| label(lease, LISTENING));
    let by_lease = listening.filter_map(|lease| lease.metadata.name.as_deref()?.strip_prefix(NODE).map(str::to_owned));
    let reported = reports.values().flat_map(|report| report.nodes.keys().cloned());
    by_lease.chain(reported).chain(found.nodes.keys().cloned()).collect()
}

fn node(name: String, found: &Found, reports: &BTreeMap<String, Report>) -> Node {
    let lease = format!("{NODE}{name}");
    let lease = found.leases.iter().find(|one| one.metadata.name.as_deref() == Some(&*lease) && label(one, LISTENING));
    let pods =
        lease.and_then(|lease| serde_json::from_str::<BTreeMap<String, Value>>(annotation(lease, LISTENING)?).ok());
    // One that goes over is in two reports for a moment: the one that has less left to apply is the newer.
    let told = reports.iter().filter_map(|(replica, report)| Some((replica, report.nodes.get(&name)?)));
    let best = told.min_by_key(|(_, progress)| progress.late.len());
    Node {
        replica: best.map(|(replica, _)| replica.clone()),
        n_listening: pods.map_or(0, |pods| pods.len()),
        late: best.map(|(_, progress)| progress.late.iter().cloned().collect()).unwrap_or_default(),
        failures: best.map(|(_, progress)| progress.failures.clone()).unwrap_or_default(),
        name,
    }
}

/// None for an object whose kind has no conditions.
fn policy(kind: &str, object: &DynamicObject) -> Option<Policy> {
    let metadata = &object.metadata;
    let name = match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default()),
        None => metadata.name.clone().unwrap_or_default(),
    };
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let condition = |name: &str| {
        let one = conditions.iter().find(|one| one.get("type").and_then(Value::as_str) == Some(name))?;
        // One of an older version of the object says nothing of this one.
        let is_of_this = one.get("observedGeneration").and_then(Value::as_i64) == metadata.generation;
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        is_of_this.then(|| (text("status"), text("message")))
    };
    let unknown = || ("Unknown".to_owned(), "nobody has judged this version yet".to_owned());
    let (accepted, why) = condition("Accepted").unwrap_or_else(unknown);
    let (enforced, how) = condition("Enforced").unwrap_or_else(unknown);
    let message = if accepted == "False" { why } else { how };
    Some(Policy { kind: kind.to_owned(), name, accepted, enforced, message })
}

fn holder(lease: &Lease) -> String {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
}

fn age(lease: &Lease, now: i64) -> i64 {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    renewed.map_or(i64::MAX, |time| now.saturating_sub(time.0.as_second()).max(0))
}

fn label(lease: &Lease, name: &str) -> bool {
    lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(name))
}

fn annotation<'l>(lease: &'l Lease, name: &str) -> Option<&'l str> {
    lease.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Found, view};

    fn lease(
        name: &str,
        holder: &str,
        renewed: &str,
        (label, annotations): (&str, Value),
    ) -> k8s_openapi::api::coordination::v1::Lease {
        let lease = json!({
            "metadata": {"name": name, "labels": {label: "true"}, "annotations": annotations},
            "spec": {"holderIdentity": holder, "renewTime": renewed},
        });
        serde_json::from_value(lease).unwrap()
    }

    fn found() -> Found {
        let at = "2026-11-22T12:00:00.000000Z";
        let report = |nodes: Value| json!({"millrace.dev/report": json!({"versions": {}, "nodes": nodes}).to_string()});
        let leases = vec![
            lease("millrace-control", "one", at, ("x", json!({}))),
            lease("millrace-control-one", "one", at, ("millrace.dev/replica", report(json!({"a": {}})))),
            lease(
                "millrace-control-two",
                "two",
                at,
                (
                    "millrace.dev/replica",
                    report(json!({"b": {"late": ["AccessPolicy shop/guard"], "failures": ["VERDICTS is full"]}})),
                ),
            ),
            lease(
                "node.a",
                "one",
                at,
                ("millrace.dev/listening", json!({"millrace.dev/listening": "{\"shop/web\":\"1\"}"})),
            ),
            lease(
                "node.gone",
                "one",
                at,
                ("millrace.dev/listening", json!({"millrace.dev/listening": "{\"shop/db\":\"1\"}"})),
            ),
        ];
        let now = "2026-11-22T12:00:05Z".parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_second();
        let nodes = [("a", "6.18.0"), ("b", "6.18.0"), ("plain", "6.1.0")];
        Found { leases, now, nodes: nodes.map(|(n, k)| (n.to_owned(), k.to_owned())).into(), ..Found::default() }
    }

    #[test]
    fn each_node_is_shown_by_the_replica_that_hears_it_and_what_is_amiss_is_said() {
        let view = view(&found());
        let replicas: Vec<(&str, bool, usize)> = view.replicas.iter().map(|r| (&*r.name, r.leads, r.n_nodes)).collect();
        assert_eq!(replicas, [("one", true, 1), ("two", false, 1)]);
        let nodes: Vec<String> = view
            .nodes
            .iter()
            .map(|node| format!("{} {} {}", node.name, node.replica.as_deref().unwrap_or("none"), node.n_listening))
            .collect();
        assert_eq!(nodes, ["a one 1", "b two 0", "gone none 1", "plain none 0"]);
        assert_eq!(
            view.amiss,
            ["node b: VERDICTS is full", "node gone has 1 pods of the mesh and no stream to a control plane",]
        );
    }

    #[test]
    fn a_replica_that_says_nothing_and_a_lease_that_nobody_renews_are_amiss() {
        let view = view(&Found { now: found().now + 3600, ..found() });
        assert!(view.replicas.is_empty());
        assert!(view.amiss.iter().any(|line| line.starts_with("no replica leads")), "{:?}", view.amiss);
        assert!(view.amiss.iter().any(|line| line == "replica one has said nothing for 3605 s"), "{:?}", view.amiss);
    }

    #[test]
    fn a_condition_of_an_older_version_says_nothing_of_this_one() {
        let policy = |generation: i64| {
            serde_json::from_value(json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
                "metadata": {"name": "guard", "namespace": "shop", "generation": generation},
                "status": {"conditions": [
                    {"type": "Accepted", "status": "False", "message": "spec.rules: why", "observedGeneration": 1},
                    {"type": "Enforced", "status": "False", "message": "on no node", "observedGeneration": 1},
                ]},
            }))
            .unwrap()
        };
        let of = |generation| {
            let policies = vec![("AccessPolicy".to_owned(), policy(generation))];
            view(&Found { policies, ..found() })
        };
        assert!(of(1).amiss.contains(&"AccessPolicy shop/guard: spec.rules: why".to_owned()));
        assert_eq!((&*of(2).policies[0].accepted, &*of(2).policies[0].enforced), ("Unknown", "Unknown"));
    }
}
