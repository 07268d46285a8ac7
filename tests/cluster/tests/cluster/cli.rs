//! What a person sees of a cluster by `millrace status` and `millrace check`, with a kubeconfig and nothing else.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tokio::sync::watch;

use crate::{
    follower::Follower,
    mesh::{Mesh, PATIENCE, kubernetes},
    node::Node,
    server::{Writer, program, server},
    world::{access, pod},
};

fn millrace(kubeconfig: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output: Output =
        Command::new(program("millrace")).args(args).arg("--kubeconfig").arg(kubeconfig).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_status_names_its_replicas_its_nodes_and_what_is_amiss() {
    let server = server();
    let shop = server.namespace("seen");
    let writer = Writer { client: server.client().await };
    let name = format!("{shop}-a");
    writer.create(&pod(&shop, "web", "web", (&name, "10.9.0.1"))).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let (_known, addresses) = watch::channel(vec![mesh.control.address]);
    let _follower = Follower::start(&name, Node::named(&mesh, &name).await, addresses);
    let mut wrong = access(&shop, "guard", "web", "Allow");
    wrong["spec"]["rules"] = serde_json::json!([{"from": [{"ipBlocks": ["10.0.0.0/99"]}]}]);
    writer.create(&wrong).await;
    let began = millrace_control::clock::now();
    let amiss = format!("AccessPolicy {shop}/guard: spec.rules[0].from[0].ipBlocks[0]");
    let shown = loop {
        let (code, shown, error) = millrace(&server.kubeconfig(), &["status"]);
        assert_eq!(code, Some(0), "{error}");
        let row = shown.lines().find(|line| line.starts_with(&name)).unwrap_or_default();
        // Its replica's name, and one pod.
        let is_known = row.split_whitespace().nth(2) == Some("1") && !row.contains("none");
        if is_known && shown.contains(&amiss) && shown.contains("  yes") {
            break shown;
        }
        assert!(began.elapsed() < PATIENCE, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    assert!(shown.contains("REPLICA") && shown.contains("Amiss:"), "{shown}");
    let (_, json, _) = millrace(&server.kubeconfig(), &["status", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["nodes"].as_array().unwrap().iter().any(|node| node["name"] == name && node["n_listening"] == 1));
    mesh.stop().await;
}

#[test]
fn a_check_says_what_the_cluster_lacks_and_what_one_may_not_know() {
    let server = server();
    server.apply(include_str!("../../../../deploy/control/rbac.yaml"));
    let (code, shown, error) = millrace(&server.kubeconfig(), &["check"]);
    // No replica may have published the roots yet, and there is no webhook.
    let row = |what: &str| {
        shown.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {shown}{error}"))
    };
    for what in [
        "AccessPolicy in version v1alpha1",
        "namespace millrace-system",
        "right to watch leases",
        "kernel 5.19 on every node",
    ] {
        assert!(row(what).contains(" yes "), "{}", row(what));
    }
    assert!(row("webhook that knows").contains(" no "), "{shown}");
    assert!(matches!(code, Some(0 | 1)), "{error}");
    // One who may do nothing is told so, and no lie.
    let said = server.kubectl(&["create", "token", "millrace-agent", "-n", "millrace-system"], "");
    let token = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let (_, shown, error) = millrace(&server.kubeconfig_of(&token, folder.path()), &["check"]);
    assert!(shown.contains("you may not know") && !shown.contains("  NO  "), "{shown}{error}");
    let (code, _, error) = millrace(&server.kubeconfig_of(&token, folder.path()), &["status"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("you may not read"), "{error}");
}

#[test]
fn an_api_server_that_is_not_there_is_exit_code_3() {
    let server = server();
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = millrace(&server.kubeconfig_by(1, folder.path()), &["status"]);
    assert_eq!(code, Some(3), "{error}");
    let (code, _, error) = millrace(Path::new("/nowhere"), &["status"]);
    assert_eq!(code, Some(2), "{error}");
}
