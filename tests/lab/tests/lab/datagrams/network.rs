//! NetworkPolicies tell UDP from TCP, within a node and between nodes.

use anyhow::ensure;
use millrace_lab::{
    clock,
    manifests::{Rule, access_policy, network_policy},
};
use serde_json::json;

use super::{SERVERS, answered, ask, in_force, plan, pod, serve};
use crate::scene::{self, CALL};

#[test]
fn a_port_of_udp_is_no_port_of_tcp() {
    scene::mesh(&plan("udp-network"), |lab| {
        let _serving = serve(lab)?;
        let _tcp = lab.pod("shop/one-a")?.serves(&format!("[::]:{SERVERS}"), &[])?;
        let (near, far) = (pod(lab, "shop/one-a")?, pod(lab, "shop/one-b")?);
        let tcp = lab.pod("shop/one-a")?.at(SERVERS);
        let policy = |protocol: &str| {
            let from = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
            let ports = json!([{"protocol": protocol, "port": SERVERS}]);
            let ingress = json!([{"from": from, "ports": ports}]);
            network_policy("shop/one", &json!({"podSelector": {"matchLabels": {"app": "one"}}, "ingress": ingress}))
        };
        in_force("both are answered", || answered(lab, "shop/client", &[near.clone(), far.clone()].concat()))?;

        lab.apply(&policy("UDP")?)?;
        let (client, caller) = (lab.pod("shop/client")?, lab.pod("shop/caller")?);
        clock::until(CALL, "TCP is refused", || client.is_refused(tcp))?;
        clock::until(CALL, "TCP of another node is refused", || caller.is_refused(tcp))?;
        in_force("UDP is answered still, by both nodes", || {
            answered(lab, "shop/client", &[near.clone(), far.clone()].concat())
        })?;
        let asked = ask(lab, "shop/other", &near, &["--count", "4"])?;
        ensure!(asked.errors.get("ConnectionRefused") == Some(&4), "another pod of the node is refused: {asked:?}");
        let asked = ask(lab, "shop/other", &far, &["--count", "4"])?;
        ensure!(asked.errors.get("ConnectionRefused") == Some(&4), "and by the other node: {asked:?}");

        lab.apply(&policy("TCP")?)?;
        clock::until(CALL, "TCP is let through", || client.connects(tcp))?;
        let asked = ask(lab, "shop/client", &near, &["--count", "4"])?;
        ensure!(asked.errors.get("ConnectionRefused") == Some(&4), "UDP is refused: {asked:?}");
        // The other tier is asked as well.
        lab.apply(&access_policy("shop/guard", "Allow", "one", &[Rule::identity("shop/caller")])?)?;
        clock::until(CALL, "what access policy denies is denied", || client.is_refused(tcp))?;
        Ok(())
    });
}
