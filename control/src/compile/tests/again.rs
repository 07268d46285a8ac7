//! What is compiled again after a change is what is compiled of the whole: the same Snapshot, the same notes, whatever came before.

use std::{collections::BTreeSet, sync::Arc};

use millrace_model::{Map, ObjectName, Snapshot};
use proptest::{collection::vec, prelude::*};

use super::{World, compile, instance_of, name, world};
use crate::{compile::Last, world::Listener};

/// Things that are there in one of several ways.
#[expect(clippy::too_many_lines, reason = "a list")]
fn slots() -> Vec<Vec<String>> {
    let namespace = |name: &str, label: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{label}}}}}}}")
    };
    let pod = |name: &str, labels: &str, spec: &str, status: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, spec: {{{spec}}}, status: {{{status}}}}}"
        )
    };
    let ready = "phase: Running, conditions: [{type: Ready, status: \"True\"}]";
    let at = |n: u8| format!("podIPs: [{{ip: 10.0.0.{n}}}], {ready}");
    let service = |name: &str, spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}")
    };
    let slice = |name: &str, service: &str, n: u8| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.{n}], conditions: {{ready: true}}}}], ports: [{{name: http, port: 8080}}]}}"
        )
    };
    let ours = |kind: &str, namespace: &str, name: &str, spec: &str| {
        format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
        )
    };
    let network = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}"
        )
    };
    let route = |kind: &str, name: &str, parent: &str, backend: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\"}}, spec: {{parentRefs: [{{group: \"\", kind: Service, name: {parent}, port: 80}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}}}"
        )
    };
    let ports = "ports: [{name: http, port: 80, targetPort: 8080}]";
    let mut slots = vec![
        vec![
            namespace("shop", "millrace.dev/mesh: enabled"),
            namespace("shop", "millrace.dev/mesh: disabled"),
            namespace("shop", "team: far"),
        ],
        vec!["{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z1}}}".to_owned()],
        vec!["{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa1, namespace: shop}}".to_owned()],
        vec!["{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa2, namespace: far}}".to_owned()],
        vec![namespace("far", "")],
        vec![
            service("s1", &format!("clusterIPs: [10.96.0.1], selector: {{tier: all}}, {ports}")),
            service("s1", &format!("clusterIPs: [10.96.0.2], selector: {{app: web-1}}, {ports}")),
            service(
                "s1",
                "clusterIPs: [10.0.0.1], selector: {tier: all}, ports: [{name: http, port: 80, targetPort: http}]",
            ),
        ],
        vec![
            service("s2", &format!("clusterIPs: [10.96.0.2], selector: {{app: web-2}}, {ports}")),
            service(
                "s2",
                &format!("clusterIPs: [10.96.0.1], publishNotReadyAddresses: true, selector: {{tier: none}}, {ports}"),
            ),
            service("s2", "clusterIP: None, selector: {tier: all}, ports: [{name: http, port: 81}]"),
        ],
        vec![slice("l1", "s1", 1), slice("l1", "s2", 1), slice("l1", "s1", 9), slice("l1", "gone", 1)],
        vec![slice("l2", "s1", 2), slice("l2", "s1", 1)],
        vec![
            ours("AccessPolicy", "shop", "p1", "rules: [{from: [{identities: [shop/sa1]}]}]"),
            ours(
                "AccessPolicy",
                "shop",
                "p1",
                "selector: {matchLabels: {app: web-1}}, rules: [{from: [{identities: [far/sa2]}]}]",
            ),
            ours(
                "AccessPolicy",
                "shop",
                "p1",
                "selector: {matchLabels: {tier: all}}, rules: [{from: [{namespaces: [far]}]}]",
            ),
        ],
        vec![
            ours("AccessPolicy", "root", "p2", "selector: {matchLabels: {app: web-2}}, rules: [{}]"),
            ours("AccessPolicy", "root", "p2", "action: Deny, rules: [{from: [{namespaces: [shop]}]}]"),
        ],
        vec![
            network(
                "n1",
                "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: far}}}], ports: [{port: http}]}]",
            ),
            network(
                "n1",
                "podSelector: {matchLabels: {app: web-1}}, egress: [{to: [{podSelector: {matchLabels: {app: web-2}}}]}]",
            ),
        ],
        vec![
            ours("EncryptionPolicy", "shop", "e1", "mode: Strict"),
            ours("EncryptionPolicy", "shop", "e1", "mode: Permissive, selector: {matchLabels: {app: web-3}}"),
            ours("EncryptionPolicy", "shop", "e1", "mode: Strict, selector: {matchLabels: {tier: all}}"),
        ],
        vec![
            ours("EncryptionPolicy", "shop", "e2", "mode: Permissive, selector: {matchLabels: {tier: all}}"),
            ours("EncryptionPolicy", "shop", "e2", "mode: Permissive"),
        ],
        vec![
            ours("EncryptionPolicy", "root", "e3", "mode: Permissive, selector: {matchLabels: {app: web-1}}"),
            ours("EncryptionPolicy", "root", "e3", "mode: Strict, selector: {matchLabels: {app: nobody}}"),
        ],
        vec![
            ours("TelemetryPolicy", "shop", "t1", "selector: {matchLabels: {app: web-1}}"),
            ours("TelemetryPolicy", "shop", "t1", ""),
        ],
        vec![ours(
            "TrafficPolicy",
            "shop",
            "t1",
            "targetRefs: [{kind: Service, name: s1}], outlierEjection: {consecutiveFailures: 3}",
        )],
        vec![
            "{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {name: b1, namespace: shop}, \
             spec: {targetRefs: [{group: '', kind: Service, name: s1}], retryConstraint: {budget: {percent: 5}}}}"
                .to_owned(),
        ],
        vec![
            "{apiVersion: millrace.dev/v1alpha1, kind: NodeProfile, metadata: {name: n1}, spec: {proxy: {workers: 1}}}"
                .to_owned(),
        ],
        vec![
            route("HTTPRoute", "h1", "s1", "s2"),
            route("HTTPRoute", "h1", "s2", "s1"),
            route("HTTPRoute", "h1", "gone", "s1"),
        ],
        vec![route("GRPCRoute", "g1", "s1", "s1"), route("GRPCRoute", "g1", "s1", "gone")],
    ];
    for n in 1..5_u8 {
        let (name, labels) = (format!("web-{n}"), format!("app: web-{n}, tier: all"));
        slots.push(vec![
            pod(&name, &labels, "nodeName: a", &at(n)),
            pod(&name, &labels, "nodeName: a", &at(1 + n % 2)),
            pod(&name, "tier: none", "nodeName: b, serviceAccountName: sa1", &at(n)),
            pod(&name, &labels, "nodeName: a", &format!("podIPs: [{{ip: 10.0.0.{n}}}], phase: Succeeded")),
            pod(&name, &labels, "nodeName: a, hostNetwork: true", &at(1)),
            pod(&name, &format!("{labels}, millrace.dev/mesh: disabled"), "nodeName: a", &at(n)),
            pod(&name, &labels, "serviceAccountName: sa1", ""),
        ]);
    }
    slots
}

/// Which way each thing is there, 0 for not at all; and for whom each node says that it listens.
#[derive(Clone, Debug)]
struct Choice {
    ways: Vec<usize>,
    listening: BTreeSet<(bool, usize)>,
}

impl Choice {
    fn world(&self, slots: &[Vec<String>]) -> World {
        let there = slots.iter().zip(&self.ways).filter_map(|(slot, way)| slot.get(way.checked_sub(1)? % slot.len()));
        let mut world = world(&there.cloned().collect::<Vec<_>>().join("\n---\n"));
        for (is_a, n) in &self.listening {
            let pod = name(&format!("web-{n}"));
            let listener = Listener { instance: instance_of(&world, &pod), name: pod };
            let node = if *is_a { "a" } else { "b" };
            Arc::make_mut(world.listening.entry(node.into()).or_default()).insert(listener);
        }
        world
    }
}

/// One thing turns to another way, or one word of a node.
#[derive(Clone, Debug)]
enum Turn {
    Thing(usize, usize),
    Listens(bool, usize),
}

fn turns(n: usize) -> impl Strategy<Value = Vec<Vec<Turn>>> {
    let turn = prop_oneof![
        5 => (0..n, 0..8_usize).prop_map(|(thing, way)| Turn::Thing(thing, way)),
        1 => (any::<bool>(), 1..5_usize).prop_map(|(node, pod)| Turn::Listens(node, pod)),
    ];
    // Most batches are one change, which is what must not need the whole.
    vec(prop_oneof![3 => vec(turn.clone(), 1..2), 1 => vec(turn, 1..4)], 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_it_is_what_the_whole_would_be(
        ways in vec(0..8_usize, slots().len()), batches in turns(slots().len()),
    ) {
        let slots = slots();
        let mut choice = Choice { ways, listening: BTreeSet::new() };
        let mut last = Last::whole(choice.world(&slots), &Snapshot::default());
        for batch in batches {
            for turn in &batch {
                match turn {
                    Turn::Thing(thing, way) => choice.ways[*thing] = *way,
                    Turn::Listens(node, pod) => {
                        if !choice.listening.remove(&(*node, *pod)) {
                            choice.listening.insert((*node, *pod));
                        }
                    }
                }
            }
            let world = choice.world(&slots);
            let before = last.snapshot().clone();
            last = last.again(&world).unwrap_or_else(|| Last::whole(world.clone(), &before));
            let (snapshot, notes) = compile(&world);
            prop_assert_eq!(last.snapshot(), &snapshot, "after {:?}", batch);
            prop_assert_eq!(&**last.diagnostics(), &notes, "after {:?}", batch);
            prop_assert!(shares(&before, last.snapshot()), "what is as it was is the very same");
        }
    }
}

/// Whether equal workloads, services and endpoints of both are the very same.
fn shares(before: &Snapshot, now: &Snapshot) -> bool {
    fn share<T: PartialEq>(before: &Map<ObjectName, Arc<T>>, now: &Map<ObjectName, Arc<T>>) -> bool {
        now.iter().all(|(name, one)| before.get(name).is_none_or(|was| was != one || Arc::ptr_eq(was, one)))
    }
    share(&before.workloads, &now.workloads)
        && share(&before.services, &now.services)
        && share(&before.endpoints, &now.endpoints)
        && share(&before.routes, &now.routes)
}

#[test]
fn pods_slices_services_policies_and_routes_do_not_take_the_whole_to_be_compiled_again() {
    let slots = slots();
    let nothing = Choice { ways: vec![0; slots.len()], listening: BTreeSet::new() };
    let empty = Last::whole(nothing.world(&slots), &Snapshot::default());
    for (thing, slot) in slots.iter().enumerate() {
        let mut choice = nothing.clone();
        choice.ways[thing] = 1;
        let takes_whole = empty.clone().again(&choice.world(&slots)).is_none();
        let is_rare = ["kind: Node,", "NetworkPolicy", "NodeProfile", "TelemetryPolicy", "TrafficPolicy"];
        assert_eq!(takes_whole, is_rare.iter().any(|kind| slot[0].contains(kind)), "{}", slot[0]);
    }
}
