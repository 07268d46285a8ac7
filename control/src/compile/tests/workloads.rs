//! Whose address, who is in the mesh, what a pod is.

use super::{
    Arc, BASE, Listener, Membership, ObjectName, Snapshot, compile, instance_of, name, notes, pod, snapshot, world,
};

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
fn the_ports_of_its_probes_are_the_hosts_to_reach() {
    let containers = ", containers: [{name: c, ports: [{name: health, containerPort: 8081}], \
        livenessProbe: {httpGet: {port: health, path: /}}, readinessProbe: {tcpSocket: {port: 8082}}, \
        startupProbe: {grpc: {port: 8083}}}, \
        {name: d, livenessProbe: {httpGet: {port: 9, host: example.com}}, readinessProbe: {exec: {command: [x]}}, \
        startupProbe: {tcpSocket: {port: nowhere}}}, {name: e, livenessProbe: {tcpSocket: {port: 15008}}}], \
        initContainers: [{name: i, restartPolicy: Always, startupProbe: {tcpSocket: {port: \"8084\"}}, \
        livenessProbe: {tcpSocket: {port: 8085}}}]";
    let workload = snapshot(&format!("{BASE}{}", pod("web", "10.0.0.1", containers))).workloads[&name("web")].clone();
    assert_eq!(workload.probe_ports, [8081, 8082, 8083, 8085].into());
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
    assert_eq!(membership(format!("{BASE}{}", labelled("enabled", "true"))), Membership::Host);
    assert_eq!(membership(format!("{BASE}{}", labelled("disabled", "true"))), Membership::Outside);
    assert_eq!(membership(pod("p", "10.0.0.1", "")), Membership::Outside, "no label at all");
}

#[test]
fn a_pod_is_enrolled_while_its_own_node_listens_for_this_very_pod() {
    let mut world = world(&format!("{BASE}{}", pod("web", "10.0.0.1", "")));
    let membership = |world: &_| compile(world).0.workloads[&name("web")].membership;
    let own = instance_of(&world, &name("web"));
    let listener = |instance: &str| Listener { name: name("web"), instance: instance.into() };
    world.listening.insert("b".into(), Arc::new([listener(&own)].into()));
    assert_eq!(membership(&world), Membership::Pending, "another node's word");
    world.listening.insert("a".into(), Arc::new([listener("older")].into()));
    assert_eq!(membership(&world), Membership::Pending, "a pod of the same name before it");
    world.listening.insert("a".into(), Arc::new([listener(&own)].into()));
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

/// A pod made again under its name is another by what it does not share, and whoever tells of it: neither uid nor time of birth
/// tell, which an API server gives and a file does not.
#[test]
fn a_pod_made_again_is_another_by_its_place_and_not_by_its_uid_or_birth() {
    let instance = |birth: &str, place: &str, account: &str, status: &str| {
        let text = format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p, {birth} annotations: {{{place}}}}}, \
             spec: {{nodeName: a, serviceAccountName: {account}}}, status: {{{status}}}}}"
        );
        snapshot(&text).workloads[&ObjectName::new("default", "p")].instance.clone()
    };
    let (netns, status) = ("millrace.dev/netns: /run/netns/p", "podIPs: [{ip: 10.0.0.1}]");
    let first = instance("", netns, "web", status);
    let later = "uid: uid-7, resourceVersion: \"4\", creationTimestamp: \"2026-01-01T00:00:00Z\",";
    assert_eq!(first, instance(later, netns, "web", status));
    assert_eq!(
        first,
        instance("", netns, "web", "podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: \"False\"}]")
    );
    assert_eq!(first, instance("", netns, "web", ""), "its address came after its namespace");
    assert_ne!(first, instance("", "millrace.dev/netns: /run/netns/q", "web", status));
    assert_ne!(first, instance("", netns, "db", status));
    let unplaced = instance("", "", "web", status);
    assert_ne!(unplaced, instance("", "", "web", "podIPs: [{ip: 10.0.0.2}]"));
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

/// A name that comes first must not take an address from who had it.
#[test]
fn of_two_living_pods_with_one_address_the_older_has_it() {
    let made = |text: String, name: &str, year: u16| {
        text.replace(
            &format!("name: {name},"),
            &format!("name: {name}, creationTimestamp: \"{year}-01-01T00:00:00Z\","),
        )
    };
    let two = || format!("{BASE}{}{}", pod("a-thief", "10.0.0.1", ""), pod("web", "10.0.0.1", ""));
    let owners = |text: &str| {
        let seen = snapshot(text);
        ["a-thief", "web"].map(|pod| seen.workloads[&name(pod)].addresses.len())
    };
    assert_eq!(owners(&made(made(two(), "web", 2020), "a-thief", 2021)), [0, 1]);
    assert_eq!(owners(&made(two(), "web", 2020)), [0, 1], "one that does not say comes after");
    assert_eq!(owners(&made(made(two(), "web", 2021), "a-thief", 2020)), [1, 0]);
}

#[test]
fn a_namespace_that_is_gone_is_told_of_while_it_has_pods() {
    let pods = format!("{}{}", pod("web", "10.0.0.1", ""), pod("api", "10.0.0.2", ""));
    assert_eq!(notes(&format!("{BASE}{pods}")), [] as [String; 0]);
    let without = BASE.replace("kind: Namespace, metadata: {name: shop,", "kind: Namespace, metadata: {name: other,");
    let told = notes(&format!("{without}{pods}"));
    assert!(
        told.len() == 1
            && told[0].contains(
                "Namespace shop: metadata.name: there is no such object, which leaves pods in it (2) outside"
            ),
        "{told:?}"
    );
    let labelled = pods.replace("labels: {", "labels: {millrace.dev/mesh: disabled, ");
    assert_eq!(notes(&format!("{without}{labelled}")), [] as [String; 0], "its pods say so themselves");
}

#[test]
fn pods_in_their_nodes_network_share_its_address() {
    let host = ", hostNetwork: true";
    let text = format!("{BASE}{}{}", pod("x", "172.30.0.2", host), pod("y", "172.30.0.2", host));
    assert_eq!(notes(&text), [] as [String; 0]);
    assert_eq!(snapshot(&text).workloads[&name("y")].addresses.len(), 1);
}

#[test]
fn no_pod_takes_its_nodes_address() {
    let text =
        format!("{BASE}{}{}", pod("a-thief", "172.30.0.2", ""), pod("host", "172.30.0.2", ", hostNetwork: true"));
    assert_eq!(snapshot(&text).workloads[&name("a-thief")].addresses.len(), 0);
    let told = notes(&text);
    assert!(
        told.len() == 1 && told[0].contains("Pod shop/a-thief: status.podIPs: 172.30.0.2 is the address of a node"),
        "{told:?}"
    );
}

#[test]
fn a_node_that_is_not_there_is_told() {
    let text = format!("{BASE}{}", pod("web", "10.0.0.1", "").replace("nodeName: a", "nodeName: b"));
    assert!(notes(&text)[0].contains("Pod shop/web: spec.nodeName: there is no Node b"), "{:?}", notes(&text));
}
