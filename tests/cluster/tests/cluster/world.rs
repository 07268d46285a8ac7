//! Objects as people, controllers and kubelets would write them.

use serde_json::{Value, json};

/// A pod on a node, with an address and ready.
pub(crate) fn pod(namespace: &str, name: &str, app: &str, (node, address): (&str, &str)) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, "millrace.dev/mesh": "enabled"}},
        "spec": {
            "nodeName": node, "serviceAccountName": app,
            "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A service of one port.
pub(crate) fn service(namespace: &str, app: &str, address: Option<&str>) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": app, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    if let Some(address) = address {
        service["spec"]["clusterIP"] = json!(address);
        service["spec"]["clusterIPs"] = json!([address]);
    }
    service
}

/// The slice that the controller would write: pods by name and address.
pub(crate) fn slice(namespace: &str, app: &str, pods: &[(String, String)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, address)| {
            json!({
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": name},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{app}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": app}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// A service account.
pub(crate) fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

/// An access policy over pods of one app.
pub(crate) fn access(namespace: &str, name: &str, app: &str, action: &str) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "action": action,
            "rules": [{"from": [{"namespaces": [namespace]}], "to": [{"ports": [8080]}]}],
        },
    })
}

/// An encryption policy over pods of one app.
pub(crate) fn encryption(namespace: &str, name: &str, app: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "EncryptionPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": app}}, "mode": mode},
    })
}
