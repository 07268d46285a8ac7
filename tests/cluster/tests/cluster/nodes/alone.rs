//! A cluster without kube-proxy: what pods of the mesh call by a service's address is carried by the mesh alone.

use std::collections::BTreeSet;

use super::{Cluster, Services, Start};

#[test]
#[ignore = "long: builds all of Kubernetes, and starts two nodes"]
fn on_a_cluster_without_kube_proxy_pods_call_services_by_the_mesh_alone() {
    let cluster = Cluster::with_a_shop(Services::Nobody, Start::Freely);
    let url = cluster.url();
    let mut answered = BTreeSet::new();
    cluster.until("pods of both nodes answer at the service's address", || {
        let text = cluster.get("client-1", &url).ok()?;
        answered.insert(text.split_whitespace().next()?.to_owned());
        (answered.len() == 2).then_some(())
    });
    // The API server's: its endpoint is no pod. That nobody vouches for its certificate here tells that it was reached.
    let api = cluster.object(&["service", "kubernetes", "-n", "default"]);
    let api = format!("https://{}/", api["spec"]["clusterIP"].as_str().unwrap());
    let said = cluster.get("client-1", &api).unwrap_err();
    assert!(said.contains("x509"), "the API server by its service: {said}");
    // Under load from both nodes, a connection for each call.
    let load = ["client-1", "web-2"].map(|pod| (pod, cluster.load(pod, 10)));
    for (pod, load) in load {
        let text = String::from_utf8_lossy(&load.wait_with_output().unwrap().stdout).into_owned();
        println!("{pod}: {text}");
        assert!(text.contains(" failed=0") && !text.contains("answered=0 "), "{pod}: {text}");
    }
    // Whoever is not in the mesh has nobody: without it there is no service on these nodes.
    cluster.kubectl(&["label", "pod", "-n", "shop", "stranger-1", "millrace.dev/mesh=disabled"]);
    cluster.until("a pod that left the mesh reaches no service", || cluster.get("stranger-1", &url).err());
}
