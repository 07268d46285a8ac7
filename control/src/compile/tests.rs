//! States what a World compiles to: by example, manifests in and facts out; and that no order of anything matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Endpoint, Membership, ObjectName, Protocol, Snapshot, service::Readiness};
use proptest::prelude::*;

use super::{compile, reuse};
use crate::{
    source::{Sourced, manifest, shelf::Shelf},
    world::{Listener, Settings, World},
};

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
    let Sourced { objects, places: _, diagnostics } = source(text);
    assert_eq!(diagnostics, [], "the manifests of a test are good");
    World { settings: settings(), objects, listening: BTreeMap::new() }
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

mod workloads {
    use super::{BASE, Listener, Membership, ObjectName, Snapshot, compile, name, notes, pod, snapshot, world};

    #[test]
    fn a_pod_has_its_own_identity_zone_and_addresses() {
        let text = format!("{BASE}{}", pod("web", "10.0.0.1}, {ip: \"fd00::1\"", ", serviceAccountName: front"));
        let workload = snapshot(&text).workloads[&name("web")].clone();
        assert_eq!(workload.identity.to_string(), "spiffe://td/ns/shop/sa/front");
        assert_eq!(workload.zone.as_deref(), Some("z1"));
        assert_eq!(workload.addresses.len(), 2);
        assert_eq!(workload.membership, Membership::Pending);
    }

    #[test]
    fn the_pods_label_counts_before_its_namespaces_and_its_nodes_network_before_both() {
        let labelled = |wish: &str, host: &str| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, labels: {{millrace.dev/mesh: {wish}}}}}, spec: {{nodeName: a, hostNetwork: {host}}}}}\n"
            )
        };
        let membership = |text: String| snapshot(&text).workloads[&name("p")].membership;
        assert_eq!(membership(format!("{BASE}{}", labelled("disabled", "false"))), Membership::Outside);
        assert_eq!(membership(labelled("enabled", "false")), Membership::Pending);
        assert_eq!(membership(format!("{BASE}{}", labelled("enabled", "true"))), Membership::Outside);
        assert_eq!(membership(pod("p", "10.0.0.1", "")), Membership::Outside, "no label at all");
    }

    #[test]
    fn a_pod_is_enrolled_while_its_own_node_listens_for_this_very_pod() {
        let mut world = world(&format!("{BASE}{}", pod("web", "10.0.0.1", "")));
        let membership = |world: &_| compile(world).0.workloads[&name("web")].membership;
        let listener = |uid: &str| Listener { name: name("web"), uid: uid.into() };
        world.listening.insert("b".into(), [listener("u-web")].into());
        assert_eq!(membership(&world), Membership::Pending, "another node's word");
        world.listening.insert("a".into(), [listener("older")].into());
        assert_eq!(membership(&world), Membership::Pending, "a pod of the same name before it");
        world.listening.insert("a".into(), [listener("u-web")].into());
        assert_eq!(membership(&world), Membership::Enrolled);
    }

    #[test]
    fn a_pod_without_a_node_or_at_its_end_is_no_workload() {
        let text = format!(
            "{BASE}\n---\n{{apiVersion: v1, kind: Pod, metadata: {{name: waits, namespace: shop}}, spec: {{}}}}\n---\n\
             {{apiVersion: v1, kind: Pod, metadata: {{name: done, namespace: shop}}, spec: {{nodeName: a}}, status: {{phase: Succeeded, podIPs: [{{ip: 10.0.0.1}}]}}}}\n{}",
            pod("lives", "10.0.0.1", "")
        );
        let names = |s: &Snapshot| s.workloads.keys().cloned().collect::<Vec<ObjectName>>();
        assert_eq!(names(&snapshot(&text)), [name("lives")]);
        assert_eq!(notes(&text), [] as [String; 0], "an address given on is no fault");
    }

    /// A pod made again under its name is another; one whose readiness changed is not.
    #[test]
    fn a_pod_without_a_uid_has_one_of_what_a_successor_would_not_share() {
        let uid = |netns: &str, address: &str, ready: &str| {
            let text = format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p, annotations: {{millrace.dev/netns: {netns}}}}}, \
                 spec: {{nodeName: a}}, status: {{podIPs: [{{ip: {address}}}], conditions: [{{type: Ready, status: \"{ready}\"}}]}}}}"
            );
            snapshot(&text).workloads[&ObjectName::new("default", "p")].uid.clone()
        };
        let first = uid("/run/netns/p", "10.0.0.1", "True");
        assert_eq!(first, uid("/run/netns/p", "10.0.0.1", "False"));
        assert_ne!(first, uid("/run/netns/q", "10.0.0.1", "True"));
        assert_ne!(first, uid("/run/netns/p", "10.0.0.2", "True"));
    }

    #[test]
    fn of_two_pods_with_one_address_the_living_has_it_then_the_first() {
        let two = format!("{BASE}{}{}", pod("a-web", "10.0.0.1", ""), pod("b-web", "10.0.0.1", ""));
        let seen = snapshot(&two);
        assert_eq!(seen.workloads[&name("a-web")].addresses.len(), 1);
        assert_eq!(seen.workloads[&name("b-web")].addresses.len(), 0);
        assert_eq!(notes(&two).len(), 1);
        assert!(notes(&two)[0].contains("Pod shop/b-web: status.podIPs: 10.0.0.1 is an address of pod shop/a-web too"));

        let dying = two.replace("name: a-web,", "name: a-web, deletionTimestamp: \"2026-01-01T00:00:00Z\",");
        let seen = snapshot(&dying);
        assert_eq!(seen.workloads[&name("a-web")].addresses.len(), 0);
        assert_eq!(seen.workloads[&name("b-web")].addresses.len(), 1);
        assert_eq!(notes(&dying), [] as [String; 0]);
    }

    #[test]
    fn pods_in_their_nodes_network_share_its_address() {
        let host = ", hostNetwork: true";
        let text = format!("{BASE}{}{}", pod("x", "172.30.0.2", host), pod("y", "172.30.0.2", host));
        assert_eq!(notes(&text), [] as [String; 0]);
        assert_eq!(snapshot(&text).workloads[&name("y")].addresses.len(), 1);
    }

    #[test]
    fn a_node_that_is_not_there_is_told() {
        let text = pod("web", "10.0.0.1", "");
        assert!(notes(&text)[0].contains("Pod shop/web: spec.nodeName: there is no Node a"), "{:?}", notes(&text));
    }
}

mod services {
    use super::{
        Arc, BASE, Endpoint, Listener, ObjectName, Protocol, Readiness, Snapshot, compile, endpoints, name, notes, pod,
        snapshot, world,
    };

    fn service(more: &str) -> String {
        format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIPs: [10.96.0.1], {more}}}}}\n")
    }

    const SELECTS: &str = "selector: {app: web}, ports: [{port: 80, targetPort: 8080}]";

    /// Pods outside the mesh are given connections as they are: readiness alone is seen here.
    fn plain(more: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: a}}}}\n---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, labels: {{app: web}}{more}\n"
        )
    }

    fn readiness(text: &str) -> Readiness {
        endpoints(&snapshot(text), "web")[0].readiness
    }

    #[test]
    fn endpoints_are_the_pods_that_the_selector_finds_in_its_namespace() {
        let elsewhere = pod("web", "10.0.0.9", "").replace("namespace: shop", "namespace: other");
        let text = format!("{BASE}{}{}{}{elsewhere}", service(SELECTS), pod("web", "10.0.0.1", ""), pod("db", "10.0.0.2", ""));
        let found = endpoints(&snapshot(&text), "web");
        assert_eq!(found.len(), 1);
        let Endpoint { address, workload, ports, weight, readiness } = &found[0];
        assert_eq!(address.to_string(), "10.0.0.1");
        assert_eq!(*workload, Some(name("web")));
        assert_eq!(ports.iter().collect::<Vec<_>>(), [(&(80, Protocol::Tcp), &8080)]);
        assert_eq!((*weight, *readiness), (1, Readiness::Unready), "a workload not yet enrolled is given nothing");
        let both = text.replace("selector: {app: web}", "selector: {tier: all}");
        assert_eq!(endpoints(&snapshot(&both), "web").len(), 2);
        let none = text.replace("selector: {app: web}", "selector: {app: web, tier: none}");
        assert_eq!(endpoints(&snapshot(&none), "web").len(), 0);
    }

    #[test]
    fn an_endpoint_is_ready_once_its_workload_is_enrolled() {
        let mut world = world(&format!("{BASE}{}{}", service(SELECTS), pod("web", "10.0.0.1", "")));
        world.listening.insert("a".into(), [Listener { name: name("web"), uid: "u-web".into() }].into());
        assert_eq!(endpoints(&compile(&world).0, "web")[0].readiness, Readiness::Ready);
    }

    #[test]
    fn readiness_is_what_the_pod_says_of_itself() {
        let at = "}, spec: {nodeName: a}, status: {podIPs: [{ip: 10.0.0.1}]";
        for (more, wanted) in [
            (format!("{at}}}}}"), Readiness::Ready),
            (format!("{at}, conditions: [{{type: Ready, status: \"True\"}}]}}}}"), Readiness::Ready),
            (format!("{at}, conditions: [{{type: Ready, status: \"False\"}}]}}}}"), Readiness::Unready),
            (format!("{at}, conditions: [{{type: PodScheduled, status: \"True\"}}]}}}}"), Readiness::Unready),
            (format!(", deletionTimestamp: \"2026-01-01T00:00:00Z\"{at}, conditions: [{{type: Ready, status: \"True\"}}]}}}}"), Readiness::Unready),
        ] {
            let text = format!("{}{}", plain(&more), service(SELECTS));
            assert_eq!(readiness(&text), wanted, "{more}");
            let asked = text.replace("selector: {app", "publishNotReadyAddresses: true, selector: {app");
            assert_eq!(readiness(&asked), Readiness::Ready, "a service may ask for all: {more}");
        }
    }

    #[test]
    fn a_named_target_port_is_each_pods_own() {
        let port = |number: u16| format!(", containers: [{{name: c, ports: [{{name: http, containerPort: {number}}}]}}]");
        let text = format!(
            "{BASE}{}{}{}{}",
            service("selector: {tier: all}, ports: [{port: 80, targetPort: http}]"),
            pod("new", "10.0.0.1", &port(9090)),
            pod("old", "10.0.0.2", &port(8080)),
            pod("without", "10.0.0.3", ""),
        );
        let seen = snapshot(&text);
        let targets: Vec<Option<u16>> =
            endpoints(&seen, "web").iter().map(|e| e.ports.get(&(80, Protocol::Tcp)).copied()).collect();
        assert_eq!(targets, [Some(9090), Some(8080), None]);
        let notes = notes(&text);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("Service shop/web: spec.ports.targetPort: pod shop/without has no port named \"http\""));
    }

    #[test]
    fn weight_is_the_pods_annotation() {
        let more = ", annotations: {millrace.dev/weight: \"19\"}}, spec: {nodeName: a}, status: {podIPs: [{ip: 10.0.0.1}]}}";
        let text = format!("{}{}", plain(more), service(SELECTS));
        assert_eq!(endpoints(&snapshot(&text), "web")[0].weight, 19);
    }

    fn slice(name: &str, endpoints: &str, ports: &str) -> String {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, \
             addressType: IPv4, endpoints: [{endpoints}], ports: [{ports}]}}\n"
        )
    }

    #[test]
    fn slices_count_where_there_are_any() {
        let text = format!(
            "{BASE}{}{}{}",
            service(SELECTS),
            pod("web", "10.0.0.1", ""),
            slice("web-1", "{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}", "{port: 8081}")
        );
        let found = endpoints(&snapshot(&text), "web");
        let seen: Vec<(String, Readiness, u16)> =
            found.iter().map(|e| (e.address.to_string(), e.readiness, e.ports[&(80, Protocol::Tcp)])).collect();
        assert_eq!(
            seen,
            [
                ("192.0.2.1".to_owned(), Readiness::Ready, 8081),
                ("192.0.2.2".to_owned(), Readiness::Unready, 8081)
            ]
        );
        assert!(found.iter().all(|e| e.workload.is_none()));
    }

    /// Kubernetes splits a service's endpoints over slices, one for each set of ports.
    #[test]
    fn slices_of_one_service_are_joined() {
        let text = format!(
            "{BASE}{}{}{}{}",
            service("ports: [{name: http, port: 80}, {name: admin, port: 81}]"),
            slice("web-1", "{addresses: [192.0.2.1]}", "{name: http, port: 8080}"),
            slice("web-2", "{addresses: [192.0.2.1]}, {addresses: [192.0.2.2]}", "{name: admin, port: 9090}"),
            slice("web-3", "{addresses: [192.0.2.2], conditions: {ready: true, terminating: true}}", "{name: http, port: 8080}"),
        );
        let found = endpoints(&snapshot(&text), "web");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].ports.values().copied().collect::<Vec<_>>(), [8080, 9090]);
        assert_eq!(found[0].readiness, Readiness::Ready);
        assert_eq!(found[1].readiness, Readiness::Unready);
    }

    #[test]
    fn whose_address_an_endpoint_has_is_who_it_is() {
        let text = format!(
            "{BASE}{}{}{}",
            service(SELECTS),
            pod("web", "10.0.0.1", ""),
            slice("web-1", "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: somebody-else}}", "{port: 8080}")
        );
        let found = endpoints(&snapshot(&text), "web");
        assert_eq!(found[0].workload, Some(name("web")));
        assert_eq!(found[0].readiness, Readiness::Unready, "it is not enrolled");
    }

    #[test]
    fn a_slice_of_no_service_is_told() {
        let text = slice("web-1", "{addresses: [192.0.2.1]}", "{port: 8080}");
        let notes = notes(&text);
        assert!(notes[0].contains("EndpointSlice shop/web-1: metadata.labels.kubernetes.io/service-name: there is no Service shop/web"), "{notes:?}");
    }

    #[test]
    fn headless_and_external_services_are_what_they_are() {
        let text = format!(
            "{BASE}{}---\n{{apiVersion: v1, kind: Service, metadata: {{name: ext, namespace: shop}}, spec: {{type: ExternalName, externalName: example.com}}}}",
            service(SELECTS).replace("clusterIPs: [10.96.0.1]", "clusterIP: None")
        );
        let seen = snapshot(&text);
        assert_eq!(seen.services.keys().cloned().collect::<Vec<ObjectName>>(), [name("web")]);
        assert_eq!(seen.services[&name("web")].addresses.len(), 0);
    }

    #[test]
    fn two_services_with_one_virtual_address_are_told() {
        let text = format!("{BASE}{}{}", service(SELECTS), service(SELECTS).replace("name: web", "name: xeb"));
        let notes = notes(&text);
        assert!(notes[0].contains("Service shop/xeb: spec.clusterIPs: 10.96.0.1 port 80 is Service shop/web's"), "{notes:?}");
    }

    #[test]
    fn what_did_not_change_is_the_same_arc() {
        let text = format!("{BASE}{}{}", service(SELECTS), pod("web", "10.0.0.1", ""));
        let before = snapshot(&text);
        let after: Snapshot = super::reuse(&before, snapshot(&format!("{text}{}", pod("db", "10.0.0.2", ""))));
        assert!(Arc::ptr_eq(&before.workloads[&name("web")], &after.workloads[&name("web")]));
        assert!(Arc::ptr_eq(&before.services[&name("web")], &after.services[&name("web")]));
        assert!(Arc::ptr_eq(&before.endpoints[&name("web")], &after.endpoints[&name("web")]));
        assert_eq!(after.workloads.len(), 2);
    }
}

mod policies {
    use millrace_model::EncryptionMode;

    use super::{BASE, BTreeSet, ObjectName, name, notes, pod, snapshot};

    fn access(namespace: &str, name: &str, spec: &str) -> String {
        format!(
            "---\n{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
        )
    }

    fn encryption(namespace: &str, name: &str, spec: &str) -> String {
        access(namespace, name, spec).replace("AccessPolicy", "EncryptionPolicy")
    }

    fn bound(policies: &str) -> Vec<String> {
        let text = format!("{BASE}{}{policies}", pod("web", "10.0.0.1", ", serviceAccountName: front"));
        let policies: &BTreeSet<ObjectName> = &snapshot(&text).workloads[&name("web")].policies;
        policies.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_policy_binds_its_own_namespace_and_the_roots_binds_all() {
        let all = ["shop", "other", "root"].map(|ns| access(ns, "p", "rules: [{}]")).concat();
        assert_eq!(bound(&all), ["root/p", "shop/p"]);
    }

    #[test]
    fn a_selector_binds_pods_with_all_its_labels_and_an_empty_one_all_pods() {
        let policies = [
            access("shop", "both", "selector: {matchLabels: {app: web, tier: all}}"),
            access("shop", "half", "selector: {matchLabels: {app: web, tier: other}}"),
            access("shop", "empty", "selector: {matchLabels: {}}"),
            access("shop", "bare", "selector: {}"),
            access("shop", "front", "targetRefs: [{kind: ServiceAccount, name: front}]"),
            access("shop", "back", "targetRefs: [{kind: ServiceAccount, name: back}]"),
            access("root", "chosen", "selector: {matchLabels: {app: web}}"),
        ];
        assert_eq!(bound(&policies.concat()), ["root/chosen", "shop/bare", "shop/both", "shop/empty", "shop/front"]);
    }

    #[test]
    fn rules_say_what_they_said_with_names_in_the_meshs_trust_domain() {
        let text = access(
            "shop",
            "p",
            "action: Deny, rules: [{from: [{identities: [shop/web, spiffe://td/ns/x/sa/y]}, {namespaces: [shop]}, {ipBlocks: [10.0.0.0/8]}], to: [{ports: [80]}, {ports: [443, 80]}]}, {}]",
        );
        let policy = snapshot(&text).policies[&name("p")].clone();
        let shown = format!("{:?} {:?}", policy.action, policy.rules);
        for part in ["Deny", "\"web\"", "\"td\"", "\"y\"", "Namespace(\"shop\")", "10.0.0.0/8", "ports: {80, 443}"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        assert_eq!(policy.rules.len(), 2);
        assert!(policy.rules[1].from.is_empty() && policy.rules[1].ports.is_empty(), "an empty rule means every call");
    }

    fn mode(policies: &str, port: u16) -> EncryptionMode {
        let text = format!("{BASE}{}{policies}", pod("web", "10.0.0.1", ""));
        snapshot(&text).workloads[&name("web")].encryption.mode(port)
    }

    #[test]
    fn without_a_policy_plain_text_is_taken() {
        assert_eq!(mode("", 80), EncryptionMode::Permissive);
    }

    /// Each beats all above it.
    #[test]
    fn the_nearest_encryption_policy_decides_whole() {
        let web = "selector: {matchLabels: {app: web}}, ";
        let levels = [
            encryption("root", "all", "mode: Strict"),
            encryption("root", "chosen", &format!("{web}mode: Permissive")),
            encryption("shop", "all", "mode: Strict"),
            encryption("shop", "chosen", &format!("{web}mode: Permissive, ports: [{{port: 443, mode: Strict}}]")),
        ];
        for n in 1..=levels.len() {
            let wanted = if n % 2 == 1 { EncryptionMode::Strict } else { EncryptionMode::Permissive };
            assert_eq!(mode(&levels[..n].concat(), 80), wanted, "{n} levels");
        }
        assert_eq!(mode(&levels.concat(), 443), EncryptionMode::Strict, "its own ports");
        let foreign = encryption("other", "all", "mode: Strict");
        assert_eq!(mode(&foreign, 80), EncryptionMode::Permissive, "another namespace's");
    }

    #[test]
    fn of_two_equally_near_the_older_decides_then_the_first_and_the_other_is_told() {
        let (a, b) = (encryption("shop", "a", "mode: Strict"), encryption("shop", "b", "mode: Permissive"));
        let dated = |policy: &str, when: &str| policy.replace("metadata: {", &format!("metadata: {{creationTimestamp: \"{when}\", "));
        assert_eq!(mode(&[a.clone(), b.clone()].concat(), 80), EncryptionMode::Strict, "the first by name");
        let older = dated(&b, "2025-01-01T00:00:00Z");
        assert_eq!(mode(&[dated(&a, "2026-01-01T00:00:00Z"), older.clone()].concat(), 80), EncryptionMode::Permissive);
        assert_eq!(mode(&[a.clone(), older].concat(), 80), EncryptionMode::Permissive, "one with a date is older than one without");
        let text = format!("{BASE}{}{}", pod("web", "10.0.0.1", ""), [a.clone(), b].concat());
        let told = notes(&text);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("EncryptionPolicy shop/b: spec.selector: shop/a selects the same pods, such as shop/web"), "{told:?}");
        let same = format!("{BASE}{}{}{}", pod("web", "10.0.0.1", ""), a, a.replace("name: a", "name: c"));
        assert_eq!(notes(&same), [] as [String; 0], "two that say the same do not quarrel");
    }

    #[test]
    fn policies_that_do_not_do_what_they_seem_to_are_told() {
        let outside = pod("db", "10.0.0.2", "").replace("tier: all", "tier: all, millrace.dev/mesh: disabled");
        for (policy, wanted) in [
            (access("shop", "p", "selector: {matchLabels: {app: wbe}}"), "spec.selector.matchLabels: it selects no pod there is"),
            (access("shop", "p", "targetRefs: [{kind: ServiceAccount, name: x}]"), "spec.targetRefs: it selects no pod there is"),
            (encryption("shop", "p", "selector: {matchLabels: {app: wbe}}, mode: Strict"), "it selects no pod there is"),
            (access("shop", "p", "selector: {matchLabels: {app: db}}"), "it selects pod shop/db, which is not in the mesh"),
            (access("shop", "p", "rules: [{}, {from: [{identities: [shop/nobody]}]}]"), "spec.rules[1].from: there is no ServiceAccount shop/nobody"),
            (access("shop", "p", "rules: [{from: [{namespaces: [shpo]}]}]"), "spec.rules[0].from: there is no Namespace shpo"),
        ] {
            let text = format!("{BASE}{}{outside}{policy}", pod("web", "10.0.0.1", ""));
            let told = notes(&text);
            assert!(told.len() == 1 && told[0].contains(wanted), "{wanted} should be all of {told:?}");
        }
        let fine = access("shop", "p", "rules: [{from: [{identities: [shop/default]}, {namespaces: [shop]}, {ipBlocks: [192.0.2.0/24]}]}]");
        assert_eq!(notes(&format!("{BASE}{}{fine}", pod("web", "10.0.0.1", ""))), [] as [String; 0]);
    }
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
    for n in 1..4 {
        pool.push(format!("{{apiVersion: v1, kind: Service, metadata: {{name: s{n}, namespace: shop}}, spec: {{clusterIPs: [10.96.0.{}], selector: {{tier: all}}, ports: [{{port: 80}}]}}}}", n % 2 + 1));
        pool.push(format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: l{n}, namespace: shop, labels: {{kubernetes.io/service-name: s1}}}}, addressType: IPv4, endpoints: [{{addresses: [10.0.0.{}], conditions: {{ready: {}}}}}], ports: [{{port: 808{n}}}]}}", n % 2 + 1, n != 3));
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: EncryptionPolicy, metadata: {{name: e{n}, namespace: {}}}, spec: {{mode: {}}}}}", if n == 3 { "root" } else { "shop" }, if n == 1 { "Strict" } else { "Permissive" }));
        pool.push(format!("{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: p{n}, namespace: {}}}, spec: {{rules: [{{from: [{{identities: [shop/sa{n}]}}]}}]}}}}", if n == 3 { "root" } else { "shop" }));
    }
    pool
}

fn compiled(documents: &[String], listening: &[(String, String)]) -> (Snapshot, Vec<String>) {
    let mut world = world(&documents.join("\n---\n"));
    for (node, pod) in listening {
        let listener = Listener { name: name(pod), uid: format!("u-{pod}").into() };
        world.listening.entry(node.as_str().into()).or_insert_with(BTreeSet::new).insert(listener);
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

    /// Reusing Arcs never changes what a Snapshot says.
    #[test]
    fn a_reused_snapshot_is_an_equal_one(
        before in prop::sample::subsequence(pool(), 0..=pool().len()),
        after in prop::sample::subsequence(pool(), 0..=pool().len()),
    ) {
        let (before, after) = (compiled(&before, &[]).0, compiled(&after, &[]).0);
        prop_assert_eq!(reuse(&before, after.clone()), after);
    }
}
