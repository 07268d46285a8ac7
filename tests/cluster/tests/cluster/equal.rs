//! One world, read from a directory and from an API server, is one Snapshot.

use std::fs;

use millrace_control::config::Source;
use millrace_model::Snapshot;
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, kubernetes},
    server::{Writer, server},
    world::{access, account, encryption, pod, service, slice},
};

/// Enough that every kind, every node and every policy meets another.
const APPS: u32 = 12;
const PODS: u32 = 4;
const NODES: u32 = 3;

/// The objects of a world, in the order in which they are made: names in order of age.
fn generated(shop: &str) -> Vec<Value> {
    let mut objects = Vec::new();
    for app in 0..APPS {
        let name = format!("app-{app:02}");
        objects.push(account(shop, &name));
        let mut pods = Vec::new();
        for pod_number in 0..PODS {
            let (pod_name, address) = (format!("{name}-{pod_number}"), format!("10.7.{app}.{}", pod_number + 1));
            let node = format!("equal-{}", (app + pod_number) % NODES);
            let mut one = pod(shop, &pod_name, &name, (&node, &address));
            match pod_number {
                1 => one["metadata"]["annotations"] = json!({"millrace.dev/weight": "5"}),
                2 => one["status"]["conditions"][0]["status"] = "False".into(),
                3 if app % 2 == 0 => one["spec"]["hostNetwork"] = true.into(),
                3 => one["metadata"]["annotations"] = json!({"millrace.dev/netns": format!("/run/netns/{name}")}),
                _ => {}
            }
            pods.push((pod_name, address));
            objects.push(one);
        }
        objects.push(service(shop, &name, Some(&format!("10.96.77.{}", app + 1))));
        objects.push(slice(shop, &name, &pods));
        objects.push(access(shop, &format!("{name}-allow"), &name, "Allow"));
        if app % 4 == 0 {
            objects.push(json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "TrafficPolicy",
                "metadata": {"name": name, "namespace": shop},
                "spec": {"targetRefs": [{"kind": "Service", "name": name}], "outlierEjection": {"interval": "9s"}},
            }));
        }
        if app % 5 == 0 {
            let own = |kind: &str, spec: Value| {
                let meta = json!({"name": name, "namespace": shop, "labels": {"app": name}});
                json!({"apiVersion": "millrace.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec})
            };
            let machine = json!({"addresses": [format!("192.0.2.{}", app + 1)], "zone": "z", "weight": 3});
            objects.push(own("ExternalWorkload", machine));
            let ports = json!([{"port": 443}]);
            let endpoints = json!([{"address": format!("198.51.100.{}", app + 1)}]);
            let outside =
                json!({"addresses": [format!("192.0.2.{}", app + 101)], "ports": ports, "endpoints": endpoints});
            objects.push(own("ExternalService", outside));
        }
        if app % 6 == 0 {
            objects.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": shop},
                "spec": {
                    "podSelector": {"matchLabels": {"app": name}},
                    "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8080, "endPort": 8090}]}],
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.7.0.0/16", "except": ["10.7.3.0/24"]}}]}],
                },
            }));
        }
        if app % 6 == 1 {
            // Which ways it binds the API server fills in, and nobody does in a file.
            let no_egress = json!({"podSelector": {"matchLabels": {"app": name}}, "ingress": [{}], "egress": []});
            objects.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": shop},
                "spec": no_egress,
            }));
        }
        if app % 7 == 0 {
            objects.extend(requests(shop, &name));
        }
        if app % 3 == 0 {
            objects.push(access(shop, &format!("{name}-deny"), &name, "Deny"));
            objects.push(encryption(shop, &format!("{name}-a"), &name, "Strict"));
        }
    }
    objects
}

/// How requests to a service are routed, sent again and kept. What is left out of it the API server fills in, and nobody does in a file.
fn requests(shop: &str, name: &str) -> [Value; 2] {
    let backends = json!([{"name": name, "port": 80}]);
    let kept = json!({"sessionName": "x-kept", "type": "Header", "absoluteTimeout": "5m"});
    let policy = json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name, "namespace": shop},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": name}],
            "retryConstraint": {"budget": {"percent": 7}}, "sessionPersistence": {"absoluteTimeout": "1h"},
        },
    });
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": shop},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name}],
            "rules": [
                {"name": "kept", "matches": [{"path": {"value": "/kept"}}], "backendRefs": backends, "sessionPersistence": kept},
                {"backendRefs": backends, "retry": {"codes": [503, 500]}},
            ],
        },
    });
    [policy, route]
}

fn without_generation(mut snapshot: Snapshot) -> String {
    snapshot.generation = 0;
    serde_json::to_string_pretty(&snapshot).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_is_the_same_snapshot_from_a_directory_and_from_an_api_server() {
    let server = server();
    let shop = server.namespace("equal");
    let writer = Writer { client: server.client().await };
    let folder = tempfile::tempdir().unwrap();
    for (number, manifest) in generated(&shop).into_iter().enumerate() {
        writer.create(&manifest).await;
        fs::write(folder.path().join(format!("{number:04}.yaml")), serde_yaml_ng::to_string(&manifest).unwrap())
            .unwrap();
    }
    let n_pods = usize::try_from(APPS * PODS).unwrap() + 3; // And a machine outside for each fifth app.
    let mut watched = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let by_server = watched.until("all pods are read", |snapshot| snapshot.workloads.len() == n_pods).await;
    let mut read = Mesh::over(Source::Directory(folder.path().to_owned())).await;
    let by_directory = read.until("all pods are read", |snapshot| snapshot.workloads.len() == n_pods).await;
    assert!(by_server.services.len() == 12 + 3 && by_server.policies.len() == 20, "{by_server:#?}");
    let (by_server, by_directory) = (without_generation(by_server), without_generation(by_directory));
    let differs = by_server.lines().zip(by_directory.lines()).find(|(a, b)| a != b);
    assert!(by_server == by_directory, "the first difference: {differs:?}");
}
