//! Machines and services outside Kubernetes: who selects them, who is called, and what is told.

use millrace_model::{
    Membership, Mesh, Protocol, Snapshot,
    resolve::{Hop, resolve_by},
};

use super::{Arc, BASE, Last, compile, endpoints, name, notes, pod, snapshot, world};

fn ours(kind: &str, name: &str, labels: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: millrace.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, spec: {{{spec}}}}}\n"
    )
}

fn machine(more: &str) -> String {
    ours(
        "ExternalWorkload",
        "vm",
        "tier: all",
        &format!("addresses: [192.0.2.7], ports: [{{name: http, port: 9000}}]{more}"),
    )
}

const SERVICE: &str = "
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIPs: [10.96.0.1], selector: {tier: all}, ports: [{port: 80, targetPort: http}]}}
";

/// As Kubernetes' own controller writes them: it knows nothing of the machine.
const SLICE: &str = "
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}], ports: [{port: 8080}]}
";

fn web() -> String {
    pod("web", "10.0.0.1", ", containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]")
}

fn behind(snapshot: &Snapshot) -> Vec<(String, u16)> {
    let port = |ports: &std::collections::BTreeMap<(u16, Protocol), u16>| ports[&(80, Protocol::Tcp)];
    endpoints(snapshot, "s").iter().map(|one| (one.address.to_string(), port(&one.ports))).collect()
}

#[test]
fn a_service_selects_a_machine_beside_pods_whether_it_has_slices_or_not() {
    let both = [("10.0.0.1".to_owned(), 8080), ("192.0.2.7".to_owned(), 9000)];
    for slices in ["", SLICE] {
        let text = [BASE, &web(), &machine(", zone: z1, weight: 3"), SERVICE, slices].concat();
        let snapshot = snapshot(&text);
        assert_eq!(behind(&snapshot), both, "{slices}");
        let found = &endpoints(&snapshot, "s")[1];
        assert_eq!((found.weight, found.workload.as_ref()), (3, Some(&name("externalworkload:vm"))));
        assert_eq!(notes(&text), [""; 0]);
    }
    // The namespace is in the mesh, the machine is not.
    let of = |more: &str| snapshot(&[BASE, &machine(more)].concat()).workloads[&name("externalworkload:vm")].clone();
    assert_eq!(of("").membership, Membership::Outside);
    assert_eq!(of(", zone: z1").zone.as_deref(), Some("z1"));
    let tunnelled = of(", tunnel: Enabled, serviceAccount: vm");
    assert_eq!((tunnelled.membership, &*tunnelled.identity.service_account), (Membership::Enrolled, "vm"));
}

#[test]
fn a_machine_that_comes_or_goes_is_compiled_again_as_the_whole_is() {
    let text = |more: &str| [BASE, &web(), SERVICE, SLICE, more].concat();
    let turns = ["", &machine(""), &machine(", weight: 2"), &machine(", tunnel: Enabled"), ""];
    let mut last = Last::whole(world(&text("")), &Snapshot::default());
    for more in turns {
        let now = world(&text(more));
        last = last.again(&now).unwrap();
        assert_eq!(last.snapshot(), &compile(&now).0, "{more}");
    }
}

#[test]
fn a_machine_is_called_by_tunnel_only_where_it_says_so() {
    let hop = |more: &str| {
        let mesh = Mesh::new(Arc::new(snapshot(&[BASE, &web(), &machine(more)].concat())));
        millrace_model::resolve::hop(&mesh, "a", "192.0.2.7:9000".parse().unwrap())
    };
    assert_eq!(hop(""), Hop::Plain);
    assert!(
        matches!(hop(", tunnel: Enabled"), Hop::Tunnel(peer) if peer.identity.to_string() == "spiffe://td/ns/shop/sa/default")
    );
}

const OUTSIDE: &str = "addresses: [192.0.2.100], ports: [{port: 443, targetPort: 8443}], endpoints: [{address: 198.51.100.1, zone: z1}, {address: 198.51.100.2, zone: z2}]";

#[test]
fn an_external_service_is_spread_over_its_endpoints() {
    let text = [BASE, &web(), &ours("ExternalService", "api", "", OUTSIDE)].concat();
    let mesh = Mesh::new(Arc::new(snapshot(&text)));
    let to = ("192.0.2.100:443".parse().unwrap(), Protocol::Tcp);
    let found = resolve_by(&mesh, "a", to, &Default::default());
    let millrace_model::Destination::Service { name: called, backends } = found else { panic!("{found:?}") };
    assert_eq!(called, name("externalservice:api"));
    // The caller's zone first.
    assert_eq!(backends.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["198.51.100.1:8443"]);
    assert_eq!(notes(&text), [""; 0]);
}

#[test]
fn what_is_told_of_it_names_what_was_written() {
    let text = [BASE, &pod("web", "192.0.2.100", ""), &ours("ExternalService", "api", "", OUTSIDE)].concat();
    let told = notes(&text);
    assert!(told.len() == 1 && told[0].contains("ExternalService shop/api: spec.clusterIPs"), "{told:?}");
    let bound = super::super::bound_nodes(&world(&text).objects, &snapshot(&text), &super::settings());
    let kinds: Vec<String> = bound.keys().map(ToString::to_string).collect();
    assert_eq!(kinds, ["ExternalService shop/api"]);
    assert_eq!(bound.values().next().unwrap().iter().map(|node| &**node).collect::<Vec<_>>(), ["a"]);
}
