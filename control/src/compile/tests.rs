//! States what a World compiles to: by example, manifests in and facts out; and that no order of anything matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Endpoint, Membership, ObjectName, Protocol, Snapshot, service::Readiness};
use proptest::prelude::*;

use super::{Last, compile};
use crate::{
    source::{Sourced, manifest, shelf::Shelf},
    world::{Listener, Settings, World},
};

mod again;
mod backends;
mod external;
mod network;
mod policies;
mod profiles;
mod routes;
mod services;
mod telemetry;
mod traffic;
mod workloads;

fn settings() -> Settings {
    Settings { trust_domain: "td".into(), root_namespace: "root".into() }
}

fn source(text: &str) -> Sourced {
    let file: Arc<str> = "test.yaml".into();
    let reading = manifest::read(&file, text.as_bytes(), &settings());
    Shelf::default().settle(&BTreeMap::from([(file, Arc::new(reading))])).1
}

/// The world of these manifests, which must be good.
fn world(text: &str) -> World {
    let Sourced { objects, places: _, diagnostics, revisions: _, uids: _, asked: _ } = source(text);
    assert_eq!(diagnostics, [], "the manifests of a test are good");
    World { settings: settings(), objects, listening: BTreeMap::new(), revoked: BTreeSet::new() }
}

fn snapshot(text: &str) -> Snapshot {
    compile(&world(text)).0
}

fn notes(text: &str) -> Vec<String> {
    compile(&world(text)).1.iter().map(ToString::to_string).collect()
}

/// A pod of namespace shop on node a, and what else it has.
fn pod(name: &str, address: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: {name}, tier: all}}}}, \
         spec: {{nodeName: a{more}}}, status: {{podIPs: [{{ip: {address}}}]}}}}\n"
    )
}

const BASE: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {millrace.dev/mesh: enabled}}}
---
{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z1}}}
";

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn endpoints(snapshot: &Snapshot, service: &str) -> Vec<Endpoint> {
    snapshot.endpoints[&name(service)].endpoints.clone()
}

/// Documents that quarrel over addresses, pods and precedence in every way there is.
fn pool() -> Vec<String> {
    let mut pool = vec![
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {millrace.dev/mesh: enabled}}}".to_owned(),
        "{apiVersion: v1, kind: Node, metadata: {name: a}}".to_owned(),
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop}}".to_owned(),
    ];
    for (n, address) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
        pool.push(pod(&format!("web-{n}"), &format!("10.0.0.{address}"), "").trim_start_matches("---\n").to_owned());
    }
    for n in 1..3 {
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: NodeProfile, metadata: {{name: n{n}}}, spec: {{proxy: {{workers: {n}}}}}}}"));
    }
    for n in 1..3 {
        pool.push(format!("{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: b{n}, namespace: shop}}, spec: {{targetRefs: [{{group: '', kind: Service, name: s{n}}}, {{group: '', kind: Service, name: s3}}], retryConstraint: {{budget: {{percent: {n}}}}}}}}}"));
    }
    for n in 1..4 {
        pool.push(format!("{{apiVersion: v1, kind: Service, metadata: {{name: s{n}, namespace: shop}}, spec: {{clusterIPs: [10.96.0.{}], selector: {{tier: all}}, ports: [{{port: 80}}]}}}}", n % 2 + 1));
        pool.push(format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: l{n}, namespace: shop, labels: {{kubernetes.io/service-name: s1}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.{}], conditions: {{ready: {}}}}}], ports: [{{port: 808{n}}}]}}", n % 2 + 1, n != 3));
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: EncryptionPolicy, metadata: {{name: e{n}, namespace: {}}}, spec: {{mode: {}}}}}", if n == 3 { "root" } else { "shop" }, if n == 1 { "Strict" } else { "Permissive" }));
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: p{n}, namespace: {}}}, spec: {{rules: [{{from: [{{identities: [shop/sa{n}]}}]}}]}}}}", if n == 3 { "root" } else { "shop" }));
    }
    for n in 1..4 {
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: t{n}, namespace: shop}}, spec: {{targetRefs: [{{kind: Service, name: s{}}}], outlierEjection: {{consecutiveFailures: {n}}}}}}}", n % 2 + 1));
    }
    for n in 1..4 {
        pool.push(format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: h{n}, namespace: shop, creationTimestamp: \"2026-01-0{}T00:00:00Z\"}}, spec: {{parentRefs: [{{group: \"\", kind: Service, name: s{}, port: 80}}], rules: [{{backendRefs: [{{name: s{n}, port: 80}}]}}]}}}}", n % 2 + 1, n % 2 + 1));
    }
    for n in 1..3 {
        pool.push(format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: n{n}, namespace: shop}}, spec: {{podSelector: {{matchLabels: {{app: web-{n}}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: web-3}}}}}}], ports: [{{port: http}}]}}], egress: [{{to: [{{ipBlock: {{cidr: 10.0.0.{n}/32}}}}]}}]}}}}"));
    }
    pool.push("{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: h1, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}, spec: {parentRefs: [{group: \"\", kind: Service, name: s1, port: 80}], rules: [{backendRefs: [{name: s2, port: 80}]}]}}".to_owned());
    pool
}

/// The instance of this pod, or one that is no pod's.
fn instance_of(world: &World, pod: &ObjectName) -> Arc<str> {
    world.objects.pods.get(pod).map_or("nobody".into(), |pod| pod.instance.clone())
}

fn compiled(documents: &[String], listening: &[(String, String)]) -> (Snapshot, Vec<String>) {
    let mut world = world(&documents.join("\n---\n"));
    for (node, pod) in listening {
        let instance = instance_of(&world, &name(pod));
        let listener = Listener { name: name(pod), instance };
        Arc::make_mut(world.listening.entry(node.as_str().into()).or_default()).insert(listener);
    }
    let (snapshot, notes) = compile(&world);
    (snapshot, notes.iter().map(ToString::to_string).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_objects_does_not_matter(
        (documents, shuffled) in prop::sample::subsequence(pool(), 0..=pool().len())
            .prop_flat_map(|some| (Just(some.clone()), Just(some).prop_shuffle())),
        reports in prop::collection::vec((prop::sample::select(vec!["a", "b"]), 1..5usize), 0..6),
    ) {
        let reports: Vec<_> = reports.into_iter().map(|(node, n)| (node.to_owned(), format!("web-{n}"))).collect();
        let backwards: Vec<_> = reports.iter().rev().cloned().collect();
        prop_assert_eq!(compiled(&documents, &reports), compiled(&shuffled, &backwards));
    }

    /// What a Snapshot is compiled beside never changes what it says.
    #[test]
    fn a_snapshot_compiled_beside_another_is_an_equal_one(
        before in prop::sample::subsequence(pool(), 0..=pool().len()),
        after in prop::sample::subsequence(pool(), 0..=pool().len()),
    ) {
        let (before, alone) = (compiled(&before, &[]).0, compiled(&after, &[]).0);
        let beside = Last::whole(world(&after.join("\n---\n")), &before);
        prop_assert_eq!(beside.snapshot(), &alone);
    }
}
