//! NetworkPolicies hold for pods of the mesh, on the application's own ports, on each path; what they refuse names them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, clock,
    manifests::{Rule, access_policy, network_policy},
};
use serde_json::{Value, json};

use crate::{
    access::stands,
    scene::{self, CALL},
};

const ALL: [&str; 4] = ["shop/client", "other/stranger", "shop/caller", "other/guest"];

/// What a person is shown within.
const LAG: Duration = Duration::from_secs(10);

fn serve(lab: &Lab) -> Result<Vec<millrace_lab::process::Process>> {
    let mut serving = Vec::new();
    for server in ["shop/near", "shop/far"] {
        for listen in ["[::]:8080", "[::]:9090"] {
            serving.push(lab.pod(server)?.serves(listen, &[])?);
        }
    }
    Ok(serving)
}

fn labels(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

/// Of whom web takes calls.
fn takes(lab: &Lab, ingress: &Value) -> Result<()> {
    lab.apply(&network_policy("shop/guard", &json!({"podSelector": labels("web"), "ingress": ingress}))?)?;
    Ok(())
}

#[test]
fn network_policies_hold_on_every_path() {
    scene::mesh(&scene::two_nodes("netpol"), |lab| {
        let _serving = serve(lab)?;
        stands(lab, 8080, &ALL)?;
        takes(lab, &json!([]))?;
        stands(lab, 8080, &[])?;
        takes(lab, &json!([{"from": [{"podSelector": labels("client")}]}]))?;
        stands(lab, 8080, &["shop/client"])?;
        let other = json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}});
        let rules = json!([
            {"from": [{"namespaceSelector": other}], "ports": [{"port": 8080}]},
            {"from": [{"podSelector": {}}], "ports": [{"port": 9000, "endPort": 9100}]},
        ]);
        takes(lab, &rules)?;
        stands(lab, 8080, &["other/stranger", "other/guest"])?;
        stands(lab, 9090, &["shop/client", "shop/caller"])?;
        let blocks = ["10.10.0.0/16", "fd10::/16"].map(|cidr| {
            let except = if cidr.contains(':') { "fd10:1::/32" } else { "10.10.1.0/24" };
            json!({"ipBlock": {"cidr": cidr, "except": [except]}})
        });
        takes(lab, &json!([{"from": blocks}]))?;
        stands(lab, 8080, &["shop/caller", "other/guest"])?;
        // Both tiers must let a call through.
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::namespace("shop")])?)?;
        stands(lab, 8080, &["shop/caller"])?;
        lab.remove(&network_policy("shop/guard", &json!({}))?)?;
        stands(lab, 8080, &["shop/client", "shop/caller"])?;
        Ok(())
    });
}

#[test]
fn whom_a_pod_may_call_is_held_to_and_named() {
    scene::mesh(&scene::two_nodes("netpol-out"), |lab| {
        let _serving = serve(lab)?;
        stands(lab, 8080, &ALL)?;
        let flows = ["a", "b"].map(|node| lab.admin(Part::Agent(node)).follow("/flows"));
        let out = |egress: Value| {
            let spec = json!({"podSelector": labels("client"), "policyTypes": ["Egress"], "egress": egress});
            lab.apply(&network_policy("shop/out", &spec)?)
        };
        out(json!([]))?;
        stands(lab, 8080, &["shop/caller", "other/stranger", "other/guest"])?;
        for server in ["shop/near", "shop/far"] {
            let target = lab.pod(server)?.at(8080);
            let names = |line: &str| {
                line.contains("shop/networkpolicy:out")
                    && line.contains("denied")
                    && line.contains(&target.ip().to_string())
            };
            clock::until(LAG, &format!("a flow names the policy that refused {target}"), || {
                flows.iter().flatten().find_map(|flows| flows.find(names)).context("none does")
            })?;
        }
        let mut explain = std::process::Command::new(lab.binaries().path("millrace")?);
        explain.arg("--run-dir").arg(lab.run_directory("a")).args(["explain", "shop/client"]);
        explain.arg(lab.pod("shop/far")?.at(8080).to_string());
        let said = millrace_lab::process::run(explain, LAG)?.stdout;
        ensure!(said.contains("NetworkPolicy shop/out binds this call"), "explain names it: {said}");
        out(json!([{"to": [{"podSelector": labels("web")}], "ports": [{"port": 9090}]}]))?;
        stands(lab, 9090, &ALL)?;
        clock::until(CALL, "the other port stays closed", || {
            lab.pod("shop/client")?.is_refused(lab.pod("shop/near")?.at(8080))
        })?;
        Ok(())
    });
}
