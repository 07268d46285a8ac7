//! Which TelemetryPolicy decides for which pod, and what is told of the rest.

use millrace_model::{
    ObjectName,
    telemetry::{Field, LogFormat, Switch},
};

use super::{BASE, notes, pod, snapshot, world};
use crate::{
    compile::{bound_nodes, compile},
    diagnostic::{Key, Kind},
};

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: millrace.dev/v1alpha1, kind: TelemetryPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn dated(policy: &str, when: &str) -> String {
    policy.replace("metadata: {", &format!("metadata: {{creationTimestamp: \"{when}\", "))
}

/// By pod, whose policy it has.
fn recorded(policies: &str) -> Vec<String> {
    let pods = pod("web", "10.1.0.1", "") + &pod("db", "10.1.0.2", "");
    let workloads = snapshot(&format!("{BASE}{pods}{policies}")).workloads;
    let of = |policy: &Option<ObjectName>| policy.as_ref().map_or("-".to_owned(), ToString::to_string);
    workloads.values().map(|workload| format!("{}={}", workload.name.name, of(&workload.telemetry))).collect()
}

/// What is told of policies.
fn told(policies: &str) -> Vec<String> {
    let pods = pod("web", "10.1.0.1", "") + &pod("db", "10.1.0.2", "");
    let notes = notes(&format!("{BASE}{pods}{policies}"));
    notes.into_iter().filter(|note| note.starts_with("TelemetryPolicy")).collect()
}

#[test]
fn the_nearest_policy_decides_whole_and_among_equals_the_older() {
    assert_eq!(recorded(""), ["db=-", "web=-"]);
    let (root, all) = (policy("root", "r", ""), policy("shop", "all", ""));
    let one = policy("shop", "one", "selector: {matchLabels: {app: web}}");
    assert_eq!(recorded(&root), ["db=root/r", "web=root/r"], "the root namespace's is for everybody");
    assert_eq!(recorded(&(root.clone() + &all)), ["db=shop/all", "web=shop/all"]);
    assert_eq!(recorded(&(root + &all + &one)), ["db=shop/all", "web=shop/one"]);
    assert_eq!(recorded(&policy("other", "x", "")), ["db=-", "web=-"], "another namespace's is for nobody here");
    let (young, old) = (dated(&all, "2026-02-01T00:00:00Z"), dated(&policy("shop", "zz", ""), "2026-01-01T00:00:00Z"));
    assert_eq!(recorded(&(young.clone() + &old)), ["db=shop/zz", "web=shop/zz"]);
    let told = told(&(young + &old));
    let [note] = told.as_slice() else { panic!("one of the two does not decide: {told:?}") };
    assert!(note.contains("TelemetryPolicy shop/all") && note.contains("shop/zz selects pods of its too"), "{note}");
}

#[test]
fn what_selects_nobody_or_tells_nobody_is_said() {
    let nobody = told(&policy("shop", "p", "selector: {matchLabels: {app: wbe}}"));
    assert!(nobody.len() == 1 && nobody[0].contains("it selects no pod there is"), "{nobody:?}");
    let collector = |more: &str| policy("shop", "p", &format!("tracing: {{collector: {{protocol: Zipkin, {more}}}}}"));
    let missing = told(&collector("service: jaeger"));
    assert!(missing.len() == 1 && missing[0].contains("there is no Service shop/jaeger"), "{missing:?}");
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: jaeger, namespace: shop}, \
                   spec: {clusterIP: 10.96.0.7, selector: {app: db}, ports: [{port: 9412}]}}\n";
    let port = told(&(collector("service: jaeger") + service));
    assert!(port.len() == 1 && port[0].contains("has no TCP port 9411"), "{port:?}");
    assert!(told(&(collector("service: jaeger, port: 9412") + service)).is_empty());
}

#[test]
fn a_policy_says_what_it_says_and_is_in_force_where_its_pods_are() {
    let text = policy("shop", "p", "accessLogs: {fields: [method, header.x-a]}, tap: Enabled");
    let world = world(&format!("{BASE}{}{text}", pod("web", "10.1.0.1", "")));
    let (snapshot, _) = compile(&world);
    let name = ObjectName::new("shop", "p");
    let says = &snapshot.telemetry[&name];
    assert_eq!((says.metrics, says.tap, says.tracing.is_some()), (Switch::On, Switch::On, false));
    let fields = vec![Field::Method, Field::RequestHeader("x-a".into())];
    assert_eq!(says.logs.as_ref().map(|log| &log.format), Some(&LogFormat::Json(fields)));
    let bound = bound_nodes(&world.objects, &snapshot, &world.settings);
    assert_eq!(bound[&Key { kind: Kind::TelemetryPolicy, name }], ["a".into()].into());
}
