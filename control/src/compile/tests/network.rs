//! NetworkPolicies: what they make of pods, and who may call whom in the end.

use std::sync::Arc;

use millrace_model::{Facts, Membership, Mesh, Protocol, Snapshot, authorize_by};

use super::{BASE, name, notes, snapshot, source};

const OTHER: &str = "
---
{apiVersion: v1, kind: Namespace, metadata: {name: far, labels: {team: far}}}
";

fn network(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}}}\n"
    )
}

fn pod(namespace: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}, \
         spec: {{nodeName: a{more}}}, status: {{podIPs: [{{ip: {address}}}]}}}}\n"
    )
}

const HTTP: &str = ", containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]";

/// web, db and an odd one in shop, one in another namespace, and a pod that has its node's address.
fn world(policies: &str) -> String {
    [
        BASE,
        OTHER,
        &pod("shop", "web", "10.0.0.1", ""),
        &pod("shop", "db", "10.0.0.2", HTTP),
        &pod("shop", "odd", "10.0.0.3", ", containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]"),
        &pod("far", "web", "10.1.0.1", ""),
        &pod("far", "host", "192.168.0.1", ", hostNetwork: true"),
        policies,
    ]
    .concat()
}

fn lets(snapshot: &Snapshot, from: &str, to: &str, port: u16, protocol: Protocol) -> bool {
    let mesh = Mesh::new(Arc::new(snapshot.clone()));
    let caller = mesh.workload_at(from.parse().unwrap()).filter(|one| one.membership != Membership::Outside);
    let facts = Facts { identity: caller.map(|one| one.identity.clone()), address: from.parse().unwrap(), port };
    authorize_by(&mesh, &mesh.snapshot.workloads[&name(to)], &facts, protocol).allows()
}

/// Who of web, odd, far's web, the node and a stranger may call db's port by TCP.
fn callers(policies: &str, port: u16) -> Vec<&'static str> {
    let snapshot = snapshot(&world(policies));
    ["10.0.0.1", "10.0.0.3", "10.1.0.1", "192.168.0.1", "172.16.0.1"]
        .into_iter()
        .filter(|from| lets(&snapshot, from, "db", port, Protocol::Tcp))
        .collect()
}

const ALL: [&str; 5] = ["10.0.0.1", "10.0.0.3", "10.1.0.1", "192.168.0.1", "172.16.0.1"];
/// A pod's own node is none that a policy speaks of.
const ITS_NODE: &str = "192.168.0.1";

#[test]
fn a_pod_that_no_policy_selects_takes_every_call() {
    assert_eq!(callers("", 80), ALL);
    assert_eq!(callers(&network("p", "podSelector: {matchLabels: {app: web}}"), 80), ALL);
}

#[test]
fn a_selected_pod_takes_what_is_named() {
    assert_eq!(callers(&network("p", "podSelector: {}"), 80), [ITS_NODE]);
    assert_eq!(callers(&network("p", "podSelector: {}, ingress: [{}]"), 80), ALL);
    let from = |peers: &str| network("p", &format!("podSelector: {{}}, ingress: [{{from: [{peers}]}}]"));
    assert_eq!(callers(&from("{podSelector: {}}"), 80), ["10.0.0.1", "10.0.0.3", ITS_NODE]);
    assert_eq!(callers(&from("{podSelector: {matchLabels: {app: web}}}"), 80), ["10.0.0.1", ITS_NODE]);
    assert_eq!(callers(&from("{namespaceSelector: {matchLabels: {team: far}}}"), 80), ["10.1.0.1", ITS_NODE]);
    assert_eq!(
        callers(
            &from(
                "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: far}}, podSelector: {matchLabels: {app: db}}}"
            ),
            80
        ),
        [ITS_NODE]
    );
    assert_eq!(
        callers(&from("{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}"), 80),
        ["10.0.0.3", ITS_NODE]
    );
    assert_eq!(callers(&from("{namespaceSelector: {}}"), 80), ["10.0.0.1", "10.0.0.3", "10.1.0.1", ITS_NODE]);
    assert_eq!(
        callers(&from("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}"), 80),
        ["10.0.0.1", "10.0.0.3", ITS_NODE]
    );
}

#[test]
fn policies_add_up_and_one_that_binds_only_outward_leaves_calls_in_alone() {
    let web = network("w", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]");
    let odd = network("o", "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: odd}}}]}]");
    assert_eq!(callers(&format!("{web}{odd}"), 80), ["10.0.0.1", "10.0.0.3", ITS_NODE]);
    assert_eq!(callers(&network("p", "podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]"), 80), ALL);
}

#[test]
fn ports_are_numbers_ranges_or_names_that_each_pod_gives() {
    let ports = |ports: &str| network("p", &format!("podSelector: {{}}, ingress: [{{ports: [{ports}]}}]"));
    let takes =
        |policy: &str, to: &str, port: u16, protocol| lets(&snapshot(&world(policy)), "10.0.0.1", to, port, protocol);
    let range = ports("{port: 80, endPort: 82}");
    let took: Vec<u16> = (79..84).filter(|port| takes(&range, "db", *port, Protocol::Tcp)).collect();
    assert_eq!(took, [80, 81, 82]);
    assert!(!takes(&range, "db", 80, Protocol::Udp), "TCP is meant where nothing is written");
    let named = ports("{port: http}");
    assert!(takes(&named, "db", 8080, Protocol::Tcp) && !takes(&named, "db", 9090, Protocol::Tcp));
    assert!(takes(&named, "odd", 9090, Protocol::Tcp) && !takes(&named, "odd", 8080, Protocol::Tcp));
    assert!(!takes(&named, "web", 8080, Protocol::Tcp), "it has no port of that name");
    let every = ports("{protocol: UDP}");
    assert!(takes(&every, "db", 9, Protocol::Udp) && !takes(&every, "db", 9, Protocol::Tcp));
}

#[test]
fn whom_a_pod_may_call() {
    let out = |spec: &str| {
        let text = format!("podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress]{spec}");
        snapshot(&world(&network("p", &text)))
    };
    let may = |snapshot: &Snapshot, to: &str, port| lets(snapshot, "10.0.0.1", to, port, Protocol::Tcp);
    let none = out("");
    assert!(!may(&none, "db", 80) && !may(&none, "odd", 80));
    assert!(lets(&none, "10.0.0.3", "db", 80, Protocol::Tcp), "it binds web alone");
    let db = out(", egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]}]");
    assert!(may(&db, "db", 80) && !may(&db, "db", 81) && !may(&db, "odd", 80));
    let block = out(", egress: [{to: [{ipBlock: {cidr: 10.0.0.3/32}}]}]");
    assert!(may(&block, "odd", 80) && !may(&block, "db", 80));
    // What is judged apart has groups apart, and all are asked about.
    let group = |pod: &str| db.workloads[&name(pod)].policy_group();
    assert!(group("db") != group("odd") && group("web") == group("odd") && group("odd") != 0);
}

#[test]
fn a_policy_with_rules_for_calls_out_binds_them_unless_it_says_otherwise() {
    let may = |more: &str| {
        let text = format!("podSelector: {{matchLabels: {{app: web}}}}, egress: []{more}");
        lets(&snapshot(&world(&network("p", &text))), "10.0.0.1", "db", 80, Protocol::Tcp)
    };
    assert!(may("") && may(", policyTypes: [Ingress]") && !may(", policyTypes: [Egress]"));
}

/// What can't be held to is told, and lets nothing through: whom the policy binds stays bound.
#[test]
fn what_is_not_understood_lets_nothing_through() {
    for (gate, field, problem) in [
        ("{ports: [{protocol: SCTP, port: 80}]}", "spec.ingress[0].ports[0].protocol", "carries no SCTP"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0}}]}", "spec.ingress[0].from[0].ipBlock.cidr", "no block"),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "no block",
        ),
        ("{from: [{}]}", "spec.ingress[0].from[0]", "nobody"),
        ("{ports: [{port: 1, endPort: 5000}]}", "spec.ingress[0].ports[0]", "more than 1000 ports"),
        ("{ports: [{port: http, endPort: 90}]}", "spec.ingress[0].ports[0].endPort", "begins with a number"),
        // What narrows a rule in a newer API must not be passed over.
        ("{hours: [9, 17]}", "spec.ingress[0].hours", "no such field"),
        ("{from: [{podSelector: {}, accounts: [web]}]}", "spec.ingress[0].from[0].accounts", "no such field"),
        ("{ports: [{port: 80, path: /}]}", "spec.ingress[0].ports[0].path", "no such field"),
    ] {
        let read = source(&world(&network("p", &format!("podSelector: {{}}, ingress: [{gate}]"))));
        let told: Vec<String> = read.diagnostics.iter().map(ToString::to_string).collect();
        let wanted = format!("NetworkPolicy shop/p: {field}: ");
        assert!(told.iter().any(|one| one.contains(&wanted) && one.contains(problem)), "{gate}: {told:?}");
        let world = super::World {
            settings: super::settings(),
            objects: read.objects,
            listening: Default::default(),
            revoked: Default::default(),
        };
        assert!(!lets(&super::compile(&world).0, "10.0.0.1", "db", 80, Protocol::Tcp), "{gate}");
    }
    let named = network("p", "podSelector: {}, egress: [{ports: [{port: http}]}]");
    let told: Vec<String> = source(&world(&named)).diagnostics.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("spec.egress[0].ports[0].port"), "{told:?}");
}

#[test]
fn without_network_policies_nothing_is_said_of_workloads() {
    assert!(snapshot(&world("")).workloads.values().all(|one| one.network.is_none()));
    assert_eq!(notes(&world("")).len(), 0);
}
