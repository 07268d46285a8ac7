//! Pods that call as the first thing they do: found before they run, or their first call would be refused.

use serde_json::{Value, json};

use super::{Cluster, Services, Start, application};

/// Pods for each node.
const PODS: usize = 10;

/// A pod that asks once as it starts, and ends as that went.
fn asker(name: &str, node: &str, url: &str) -> Value {
    let mut pod = application(name, node);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["serviceAccountName"] = json!("client");
    pod["spec"]["containers"][0]["args"] = json!(["get", url]);
    pod
}

/// How many first calls failed, of how many.
fn ask(cluster: &Cluster) -> (Vec<String>, usize) {
    // Only as themselves: one that nobody knew yet would be refused.
    let policy = json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "guard", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "action": "Allow", "rules": [{"from": [{"identities": ["shop/client"]}]}]}});
    cluster.server.apply(&policy.to_string());
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Enforced", "accesspolicy/guard", "--timeout=60s"]);
    let names: Vec<(String, String)> =
        (0..2 * PODS).map(|n| (format!("asker-{n}"), format!("node-{}", n % 2 + 1))).collect();
    // One after the other, and at the end all at once.
    let (single, crowd) = names.split_at(PODS);
    let has_ended = |name: &str| {
        let pod = cluster.object(&["pod", name, "-n", "shop"]);
        let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    };
    let mut failed = Vec::new();
    let mut end = |name: &str| {
        let phase = cluster.until("it ended", || has_ended(name));
        let said = cluster.kubectl(&["logs", "-n", "shop", name]);
        if phase != "Succeeded" {
            failed.push(format!("{name}: {said}"));
        }
    };
    for (name, node) in single {
        cluster.server.apply(&asker(name, node, &cluster.url()).to_string());
        end(name);
    }
    for (name, node) in crowd {
        cluster.server.apply(&asker(name, node, &cluster.url()).to_string());
    }
    crowd.iter().for_each(|(name, _)| end(name));
    println!("{} of {} first calls failed", failed.len(), names.len());
    for agent in cluster.agents() {
        let args = ["exec", "-n", "millrace-system", &agent, "-c", "agent", "--", "millrace", "metrics", "agent"];
        let metrics = cluster.kubectl(&args);
        let unknown = |line: &&str| line.starts_with("millrace_kernel_decisions") && line.contains("unknown_namespace");
        metrics.lines().filter(unknown).for_each(|line| println!("{agent}: {line}"));
    }
    (failed, names.len())
}

#[test]
#[ignore = "long: builds all of Kubernetes, and starts two nodes"]
fn on_a_cluster_what_a_pod_calls_first_is_answered() {
    let cluster = Cluster::with_a_shop(Services::KubeProxy, Start::HeldBack);
    let (failed, _) = ask(&cluster);
    assert!(failed.is_empty(), "{failed:#?}");
    // A pod that no agent knows does not start, and says why; one of a namespace that is left out does.
    cluster.kubectl(&["delete", "daemonset", "millrace-agent", "-n", "millrace-system", "--wait=true"]);
    cluster.until("the agents have ended", || cluster.agents().is_empty().then_some(()));
    cluster.server.apply(&application("client-9", "node-1").to_string());
    cluster.until("the pod's events say why it does not start", || {
        let events = cluster.kubectl(&["get", "events", "-n", "shop", "--field-selector=involvedObject.name=client-9"]);
        events.contains("Millrace does not know shop/client-9").then_some(())
    });
}

/// Without the plugin nothing holds a pod back: most are found in time, and none is lost for longer than it takes to find it.
#[test]
#[ignore = "long: builds all of Kubernetes, and starts two nodes"]
fn on_a_cluster_pods_that_nothing_holds_back_are_found_as_they_start() {
    let cluster = Cluster::with_a_shop(Services::KubeProxy, Start::Freely);
    let (failed, all) = ask(&cluster);
    let others: Vec<&String> = failed.iter().filter(|said| !said.contains("operation not permitted")).collect();
    assert!(others.is_empty(), "refused for another reason than that it was not found yet: {others:#?}");
    println!("{} of {all} were too early", failed.len());
}
