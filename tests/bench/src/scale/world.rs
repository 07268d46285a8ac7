//! A large mesh as manifests: namespaces of services of pods, on nodes that are not there, and services whose endpoints are
//! changed one at a time. A value; whoever calls writes the files.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Namespaces; a file each.
    pub namespaces: usize,
    /// Services in each.
    pub services: usize,
    /// Pods of each service.
    pub pods: usize,
    /// Nodes that they are on.
    pub nodes: usize,
}

/// 10,000 services, 50,000 workloads; with the lab's two real ones, 100 nodes.
pub const LARGE: Size = Size { namespaces: 100, services: 100, pods: 5, nodes: 98 };

/// Services whose endpoints change, one file each.
pub const CHANGING: usize = 50;

/// The namespace of those.
const NAMESPACE: &str = "changing";

/// A pod: where it stands for its node's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The path of its network namespace.
    pub netns: String,
    /// Its service account, which is its service's name.
    pub account: String,
    /// The number of its node.
    pub node: usize,
}

/// The name of a node.
pub fn node(number: usize) -> String {
    format!("n{number}")
}

impl Size {
    /// How many pods there are.
    pub fn n_pods(self) -> usize {
        self.namespaces * self.services * self.pods
    }

    /// Every pod.
    pub fn all_pods(self) -> impl Iterator<Item = Pod> {
        (0..self.namespaces).flat_map(move |namespace| self.pods_of(namespace))
    }

    fn pods_of(self, namespace: usize) -> impl Iterator<Item = Pod> {
        let each = self.services * self.pods;
        (0..each).map(move |number| Pod {
            namespace: format!("ns{namespace}"),
            name: format!("p{number}"),
            netns: format!("/run/netns/u-{namespace}-{number}"),
            account: format!("s{}", number / self.pods),
            node: (namespace * each + number) % self.nodes,
        })
    }

    /// Every file: its name, and what is in it.
    pub fn files(self) -> Vec<(String, String)> {
        let namespaces = (0..self.namespaces).map(|n| (format!("scale-ns{n}.yaml"), documents(self.namespace(n))));
        let nodes = (0..self.nodes)
            .map(|n| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node(n)}}))
            .chain([namespace(NAMESPACE)])
            .chain((0..CHANGING).map(changing));
        let mut files: Vec<_> = namespaces.collect();
        files.push(("scale-nodes.yaml".to_owned(), documents(nodes.collect())));
        files.extend((0..CHANGING).map(|number| slice(number, 0)));
        files
    }

    fn namespace(self, number: usize) -> Vec<Value> {
        let name = format!("ns{number}");
        let mut objects = vec![namespace(&name)];
        for service in 0..self.services {
            let account = format!("s{service}");
            objects.push(
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": name, "name": account}}),
            );
            objects.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": name, "name": account},
                "spec": {"clusterIPs": [format!("172.20.{number}.{service}")], "selector": {"app": account},
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
            }));
        }
        for (index, pod) in self.pods_of(number).enumerate() {
            let app = pod.account;
            objects.push(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": name, "name": pod.name, "labels": {"app": app},
                    "annotations": {"millrace.dev/netns": pod.netns}},
                "spec": {"nodeName": node(pod.node), "serviceAccountName": app},
                "status": {"podIPs": [{"ip": format!("10.{}.{}.{}", 100 + number, index / 250, 1 + index % 250)}],
                    "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            }));
        }
        objects
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"millrace.dev/mesh": "enabled"}}})
}

fn changing(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": format!("c{number}")},
        "spec": {"clusterIPs": [format!("172.21.0.{}", number + 1)], "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// The file of one service's endpoint, as change `id` makes it; its address tells the change.
pub fn slice(number: usize, id: u16) -> (String, String) {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": NAMESPACE, "name": format!("c{number}"),
            "labels": {"kubernetes.io/service-name": format!("c{number}")}},
        "endpoints": [{"addresses": [address(number, id)], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    (format!("scale-change-{number}.yaml"), documents(vec![object]))
}

/// The endpoint's address: one that no two services share at a time.
pub fn address(number: usize, id: u16) -> String {
    let [high, low] = id.to_be_bytes();
    format!("198.{}.{high}.{low}", 100 + number)
}

/// The change that an endpoint's address tells; None for any other address.
pub fn change(address: std::net::IpAddr) -> Option<u16> {
    let std::net::IpAddr::V4(v4) = address else { return None };
    match v4.octets() {
        [198, second, high, low] if second >= 100 => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

fn documents(objects: Vec<Value>) -> String {
    objects.into_iter().fold(String::new(), |mut text, object| {
        // Writing to a String can't fail.
        write!(text, "---\n{object}\n").unwrap_or_default();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{LARGE, address, change};

    #[test]
    fn the_large_mesh_is_as_large_as_is_said() {
        assert_eq!((LARGE.namespaces * LARGE.services, LARGE.n_pods()), (10_000, 50_000));
        assert_eq!(LARGE.all_pods().count(), 50_000);
    }

    #[test]
    fn an_address_tells_its_change_and_others_tell_none() {
        assert_eq!(change(address(49, 3_000).parse().unwrap()), Some(3_000));
        assert_eq!(change("10.100.0.1".parse().unwrap()), None);
    }
}
