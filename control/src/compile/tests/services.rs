//! Services and what stands behind them.

use super::{
    Arc, BASE, BTreeSet, Endpoint, Last, Listener, ObjectName, Protocol, Readiness, compile, endpoints, instance_of,
    name, notes, pod, snapshot, world,
};

fn service(more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIPs: [10.96.0.1], {more}}}}}\n"
    )
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
    let text =
        format!("{BASE}{}{}{}{elsewhere}", service(SELECTS), pod("web", "10.0.0.1", ""), pod("db", "10.0.0.2", ""));
    let found = endpoints(&snapshot(&text), "web");
    assert_eq!(found.len(), 1);
    let Endpoint { address, workload, ports, weight, readiness, place } = &found[0];
    assert_eq!(address.to_string(), "10.0.0.1");
    assert_eq!(*workload, Some(name("web")));
    assert_eq!(ports.iter().collect::<Vec<_>>(), [(&(80, Protocol::Tcp), &8080)]);
    assert_eq!((*weight, *readiness), (1, Readiness::Unready), "a workload not yet enrolled is given nothing");
    assert_eq!(place.node.as_deref(), Some("a"));
    let both = text.replace("selector: {app: web}", "selector: {tier: all}");
    assert_eq!(endpoints(&snapshot(&both), "web").len(), 2);
    let none = text.replace("selector: {app: web}", "selector: {app: web, tier: none}");
    assert_eq!(endpoints(&snapshot(&none), "web").len(), 0);
}

#[test]
fn an_endpoint_is_ready_once_its_workload_is_enrolled() {
    let mut world = world(&format!("{BASE}{}{}", service(SELECTS), pod("web", "10.0.0.1", "")));
    world.listening.insert(
        "a".into(),
        [Listener { name: name("web"), instance: instance_of(&world, &name("web")) }]
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into(),
    );
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
        (
            format!(
                ", deletionTimestamp: \"2026-01-01T00:00:00Z\"{at}, conditions: [{{type: Ready, status: \"True\"}}]}}}}"
            ),
            Readiness::Leaving,
        ),
        (
            format!(
                ", deletionTimestamp: \"2026-01-01T00:00:00Z\"{at}, conditions: [{{type: Ready, status: \"False\"}}]}}}}"
            ),
            Readiness::Unready,
        ),
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
    let more =
        ", annotations: {millrace.dev/weight: \"19\"}}, spec: {nodeName: a}, status: {podIPs: [{ip: 10.0.0.1}]}}";
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
        slice(
            "web-1",
            "{addresses: [192.0.2.1]}, {addresses: [192.0.2.2], conditions: {ready: false}}",
            "{port: 8081}"
        )
    );
    let found = endpoints(&snapshot(&text), "web");
    let seen: Vec<(String, Readiness, u16)> =
        found.iter().map(|e| (e.address.to_string(), e.readiness, e.ports[&(80, Protocol::Tcp)])).collect();
    assert_eq!(
        seen,
        [("192.0.2.1".to_owned(), Readiness::Ready, 8081), ("192.0.2.2".to_owned(), Readiness::Unready, 8081)]
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
        slice(
            "web-3",
            "{addresses: [192.0.2.2], conditions: {ready: false, serving: false, terminating: true}}",
            "{name: http, port: 8080}"
        ),
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
    assert!(
        notes[0].contains(
            "EndpointSlice shop/web-1: metadata.labels.kubernetes.io/service-name: there is no Service shop/web"
        ),
        "{notes:?}"
    );
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
    assert!(
        notes[0].contains("Service shop/xeb: spec.clusterIPs: 10.96.0.1 port 80 is Service shop/web's"),
        "{notes:?}"
    );
}

#[test]
fn what_did_not_change_is_the_same_arc() {
    let text = format!("{BASE}{}{}", service(SELECTS), pod("web", "10.0.0.1", ""));
    let before = snapshot(&text);
    let after = Last::whole(world(&format!("{text}{}", pod("db", "10.0.0.2", ""))), &before).snapshot().clone();
    assert!(Arc::ptr_eq(&before.workloads[&name("web")], &after.workloads[&name("web")]));
    assert!(Arc::ptr_eq(&before.services[&name("web")], &after.services[&name("web")]));
    assert!(Arc::ptr_eq(&before.endpoints[&name("web")], &after.endpoints[&name("web")]));
    assert_eq!(after.workloads.len(), 2);
}

#[test]
fn a_service_with_a_pods_address_is_told() {
    let text = format!("{BASE}{}{}", service(SELECTS), pod("db", "10.96.0.1", ""));
    let told = notes(&text);
    assert!(
        told.len() == 1 && told[0].contains("Service shop/web: spec.clusterIPs: 10.96.0.1 is pod shop/db's"),
        "{told:?}"
    );
}
