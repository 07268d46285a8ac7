//! How a service's connections are spread: affinity, near endpoints, and those that leave.

use std::time::Duration;

use millrace_model::{Affinity, Outliers, Place, Reach};

use super::{Arc, BASE, Readiness, compile, endpoints, name, notes, pod, snapshot, world};

fn service(more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIPs: [10.96.0.1], ports: [{{port: 80, targetPort: 8080}}], {more}}}}}\n"
    )
}

fn slice(endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, \
         addressType: IPv4, endpoints: [{endpoints}], ports: [{{port: 8080}}]}}\n"
    )
}

fn affinity(more: &str) -> Affinity {
    snapshot(&service(more)).services[&name("web")].traffic.affinity
}

fn near(nodes: &[&str], zones: &[&str]) -> Place {
    let set = |names: &[&str]| names.iter().map(|n| Arc::from(*n)).collect();
    Place { node: Some("a".into()), for_nodes: set(nodes), for_zones: set(zones) }
}

#[test]
fn affinity_lasts_three_hours_unless_the_service_says_otherwise() {
    let lasts = |seconds| Affinity::ClientIp { timeout: Duration::from_secs(seconds) };
    assert_eq!(affinity("sessionAffinity: None"), Affinity::None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), lasts(10_800));
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}";
    assert_eq!(affinity(config), lasts(5));
}

#[test]
fn a_local_service_says_so() {
    let reach = |more| snapshot(&service(more)).services[&name("web")].traffic.reach;
    assert_eq!(reach("internalTrafficPolicy: Cluster"), Reach::Cluster);
    assert_eq!(reach("internalTrafficPolicy: Local"), Reach::Local);
}

/// Without slices the compiler writes the hints that Kubernetes' controller would.
#[test]
fn a_preference_becomes_hints_where_no_slice_has_any() {
    let place = |more: &str| {
        let service = service(&format!("selector: {{app: web}}{more}"));
        endpoints(&snapshot(&format!("{BASE}{service}{}", pod("web", "10.0.0.1", ""))), "web")[0].place.clone()
    };
    assert_eq!(place(""), near(&[], &[]));
    assert_eq!(place(", trafficDistribution: PreferClose"), near(&[], &["z1"]));
    assert_eq!(place(", trafficDistribution: PreferSameZone"), near(&[], &["z1"]));
    assert_eq!(place(", trafficDistribution: PreferSameNode"), near(&["a"], &["z1"]));
}

#[test]
fn a_slices_own_hints_count_before_the_services_preference() {
    let with = |endpoints_of: &str, more: &str| {
        let text = format!("{BASE}{}{}", service(more), slice(endpoints_of));
        endpoints(&snapshot(&text), "web").into_iter().map(|e| e.place).collect::<Vec<_>>()
    };
    let same_node = "trafficDistribution: PreferSameNode";
    let plain = "{addresses: [192.0.2.1], nodeName: a}";
    assert_eq!(with(plain, same_node), [near(&["a"], &["z1"])]);
    let hinted =
        "{addresses: [192.0.2.1], nodeName: a, hints: {forZones: [{name: z9}]}}, {addresses: [192.0.2.2], nodeName: a}";
    assert_eq!(with(hinted, same_node), [near(&[], &["z9"]), near(&[], &[])]);
    let by_node = "{addresses: [192.0.2.1], nodeName: a, hints: {forNodes: [{name: b}], forZones: [{name: z9}]}}";
    assert_eq!(with(by_node, ""), [near(&["b"], &["z9"])]);
    let zoned = "{addresses: [192.0.2.1], zone: z7}";
    let zoned = with(zoned, same_node).remove(0);
    assert_eq!((zoned.node, zoned.for_zones.len()), (None, 1), "a slice may say the zone of what has no node here");
}

#[test]
fn conditions_mean_what_kubernetes_says() {
    let readiness = |conditions: &str| {
        let slice = slice(&format!("{{addresses: [192.0.2.1], conditions: {{{conditions}}}}}"));
        endpoints(&snapshot(&format!("{BASE}{}{slice}", service(""))), "web")[0].readiness
    };
    for (conditions, wanted) in [
        ("", Readiness::Ready),
        ("ready: true, serving: true", Readiness::Ready),
        ("ready: false", Readiness::Unready),
        ("ready: false, serving: false, terminating: true", Readiness::Unready),
        ("ready: false, serving: true, terminating: true", Readiness::Leaving),
        ("ready: false, serving: true", Readiness::Unready),
        // Only `publishNotReadyAddresses` makes this.
        ("ready: true, serving: true, terminating: true", Readiness::Ready),
    ] {
        assert_eq!(readiness(conditions), wanted, "{conditions}");
    }
}

fn policy(name: &str, more: &str, target: &str) -> String {
    format!(
        "---\n{{apiVersion: millrace.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: {name}, namespace: shop{more}}}, \
         spec: {{targetRefs: [{{kind: Service, name: {target}}}], outlierEjection: {{consecutiveFailures: {}}}}}}}\n",
        name.len()
    )
}

/// The policies of these tests eject after as many failures as their names have letters.
fn failures(text: &str) -> u32 {
    match snapshot(text).services[&name("web")].traffic.outliers {
        Outliers::Ejected(bounds) => bounds.failures,
        Outliers::Kept => 0,
    }
}

#[test]
fn failing_endpoints_are_left_out_unless_a_policy_says_otherwise() {
    let service = service("sessionAffinity: None");
    assert_eq!(failures(&service), 5);
    assert_eq!(failures(&format!("{service}{}", policy("two", "", "web"))), 3);
    let off = policy("two", "", "web").replace("consecutiveFailures: 3", "mode: Disabled");
    assert_eq!(failures(&format!("{service}{off}")), 0);
    let elsewhere = policy("two", "", "web").replace("namespace: shop", "namespace: other");
    assert_eq!(failures(&format!("{service}{elsewhere}")), 5, "of another namespace");
}

#[test]
fn of_two_policies_for_a_service_the_older_decides_and_the_other_is_told() {
    let made = |day: u8| format!(", creationTimestamp: \"2026-01-0{day}T00:00:00Z\"");
    let service = service("sessionAffinity: None");
    let text =
        |ab: u8, abcd: u8| format!("{service}{}{}", policy("ab", &made(ab), "web"), policy("abcd", &made(abcd), "web"));
    assert_eq!([failures(&text(1, 2)), failures(&text(2, 1)), failures(&text(1, 1))], [2, 4, 2]);
    let told = notes(&text(1, 2));
    assert!(
        told.len() == 1 && told[0].contains("TrafficPolicy shop/abcd: spec.targetRefs: shop/ab names Service"),
        "{told:?}"
    );
    let told = notes(&format!("{service}{}", policy("ab", "", "wep")));
    assert!(told.len() == 1 && told[0].contains("there is no Service shop/wep"), "{told:?}");
}

/// The pod's deletionTimestamp is there before its slice says anything of it.
#[test]
fn a_pod_that_was_told_to_go_leaves_before_its_slice_says_so() {
    let going = |conditions: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: other, uid: u, deletionTimestamp: \"2026-01-01T00:00:00Z\"}}, \
             spec: {{nodeName: a}}, status: {{podIPs: [{{ip: 10.0.0.1}}], conditions: [{conditions}]}}}}\n"
        )
    };
    let readiness = |conditions: &str, more: &str| {
        let text = format!("{BASE}{}{}{}", service(more), slice("{addresses: [10.0.0.1]}"), going(conditions));
        endpoints(&compile(&world(&text)).0, "web")[0].readiness
    };
    assert_eq!(readiness("{type: Ready, status: \"True\"}", ""), Readiness::Leaving);
    assert_eq!(readiness("{type: Ready, status: \"False\"}", ""), Readiness::Unready);
    let all = "publishNotReadyAddresses: true";
    assert_eq!(readiness("{type: Ready, status: \"False\"}", all), Readiness::Ready, "the service asks for all");
}
