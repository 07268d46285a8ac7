//! Writes the directory of manifests that the control plane reads: one file per object, each replaced in one step.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::topology::{Pod, Service, Topology};

/// A directory of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// The directory that the control plane watches.
    pub directory: PathBuf,
    aside: PathBuf,
}

impl Manifests {
    /// Makes `directory`, and `aside` on the same file system for files that are not complete yet.
    pub fn new(directory: PathBuf, aside: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        fs::create_dir_all(&aside)?;
        Ok(Self { directory, aside })
    }

    /// Writes an object over the one of its kind and name; the path of its file.
    pub fn apply(&self, object: &Value) -> Result<PathBuf> {
        self.write(&file_name(object)?, &serde_yaml_ng::to_string(object)?)
    }

    /// Writes any text as a file of the directory.
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf> {
        let (target, aside) = (self.directory.join(file), self.aside.join(file));
        fs::write(&aside, text)?;
        fs::rename(&aside, &target).with_context(|| format!("write {}", target.display()))?;
        Ok(target)
    }

    /// Whether there is a pod of this name.
    pub fn has_pod(&self, pod: &Pod) -> bool {
        self.directory.join(format!("pod-{}-{}.yaml", pod.name.namespace, pod.name.name)).exists()
    }

    /// Removes an object's file.
    pub fn remove(&self, object: &Value) -> Result<()> {
        let path = self.directory.join(file_name(object)?);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }
}

fn file_name(object: &Value) -> Result<String> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").context("the object has no kind")?.to_lowercase();
    let name = text("/metadata/name").context("the object has no name")?;
    Ok(match text("/metadata/namespace") {
        Some(namespace) => format!("{kind}-{namespace}-{name}.yaml"),
        None => format!("{kind}-{name}.yaml"),
    })
}

/// Every object of a lab as it is planned.
pub fn objects(number: u32, topology: &Topology) -> Vec<Value> {
    let mut all: Vec<Value> = topology.namespaces().into_iter().map(namespace).collect();
    for node in &topology.nodes {
        all.push(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
            "status": {"addresses": [
                {"type": "InternalIP", "address": node.addresses.v4},
                {"type": "InternalIP", "address": node.addresses.v6},
            ]},
        }));
    }
    for p in &topology.pods {
        all.push(service_account(p));
        if !p.plan.is_later {
            all.push(pod(number, topology, p));
        }
    }
    all.extend(topology.services.iter().map(service));
    all
}

/// A namespace whose pods are in the mesh.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"millrace.dev/mesh": "enabled"}}})
}

fn service_account(pod: &Pod) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": pod.name.namespace, "name": pod.plan.service_account},
    })
}

/// A pod as planned.
pub fn pod(number: u32, topology: &Topology, pod: &Pod) -> Value {
    let node = topology.nodes.iter().find(|node| node.number == pod.node);
    let mut annotations = match (pod.plan.host_network, node, crate::cgroup::of_lab(number)) {
        (true, Some(node), Ok(top)) => json!({"millrace.dev/cgroup": top.join(&node.name).join(pod.path())}),
        _ => json!({"millrace.dev/netns": crate::network::netns(number, &pod.path())}),
    };
    if let (Some(weight), Some(map)) = (pod.plan.weight, annotations.as_object_mut()) {
        map.insert("millrace.dev/weight".to_owned(), json!(weight.to_string()));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": pod.name.namespace, "name": pod.name.name, "uid": format!("{number}-{}", pod.path()),
            "labels": pod.plan.labels, "annotations": annotations,
        },
        "spec": {
            "nodeName": node.map(|node| &node.name), "serviceAccountName": pod.plan.service_account,
            "containers": [{"name": "app"}], "hostNetwork": pod.plan.host_network,
        },
        "status": {
            "phase": "Running", "podIP": pod.addresses.v4,
            "podIPs": pod.addresses.both().map(|ip| json!({"ip": ip})),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A service as planned.
pub fn service(service: &Service) -> Value {
    let port = |(port, target): &(u16, u16)| json!({"name": format!("p{port}"), "port": port, "targetPort": target, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": service.name.namespace, "name": service.name.name},
        "spec": {
            "clusterIP": service.addresses.v4, "clusterIPs": service.addresses.both(), "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": service.name.name},
            "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        },
    })
}

/// Whom an access policy speaks of, and the port they call.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// The callers; None: everybody.
    pub from: Option<Value>,
    /// The application's port; None: every one.
    pub port: Option<u16>,
}

impl Rule {
    /// Callers of one identity, `namespace/service-account`.
    pub fn identity(identity: &str) -> Self {
        Self::identities(&[identity])
    }

    /// Callers of any of these identities.
    pub fn identities(identities: &[&str]) -> Self {
        Self { from: Some(json!({"identities": identities})), port: None }
    }

    /// Callers of one namespace.
    pub fn namespace(namespace: &str) -> Self {
        Self { from: Some(json!({"namespaces": [namespace]})), port: None }
    }

    /// Callers from a block of addresses.
    pub fn block(block: &str) -> Self {
        Self { from: Some(json!({"ipBlocks": [block]})), port: None }
    }

    /// On one port only.
    pub fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }
}

/// An AccessPolicy `namespace/name` with `action` `Allow` or `Deny` on pods with the label `app`.
pub fn access_policy(name: &str, action: &str, app: &str, rules: &[Rule]) -> Result<Value> {
    let (namespace, name) = name.split_once('/').context("a policy has a namespace and a name")?;
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let mut map = serde_json::Map::new();
            if let Some(from) = &rule.from {
                map.insert("from".to_owned(), json!([from]));
            }
            if let Some(port) = rule.port {
                map.insert("to".to_owned(), json!([{"ports": [port]}]));
            }
            Value::Object(map)
        })
        .collect();
    Ok(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"matchLabels": {"app": app}}, "action": action, "rules": rules},
    }))
}

/// A NetworkPolicy `namespace/name` with this spec.
pub fn network_policy(name: &str, spec: &Value) -> Result<Value> {
    let (namespace, name) = name.split_once('/').context("a policy has a namespace and a name")?;
    Ok(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    }))
}

/// An EncryptionPolicy `namespace/name` with `mode` `Strict` or `Permissive` on pods with the label `app`.
pub fn encryption_policy(name: &str, mode: &str, app: &str) -> Result<Value> {
    let (namespace, name) = name.split_once('/').context("a policy has a namespace and a name")?;
    Ok(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "EncryptionPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"matchLabels": {"app": app}}, "mode": mode},
    }))
}

/// The directory below a lab's own.
pub fn directory(lab: &Path) -> PathBuf {
    lab.join("manifests")
}
