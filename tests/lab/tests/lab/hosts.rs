//! Pods that share their node's network: they call the mesh's pods of their node as themselves, and are never the node.

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    manifests::{Rule, access_policy, encryption_policy},
};

use crate::scene::{self, CALL};

const ALLOWED: &str = "shop/collector";
const DENIED: &str = "other/logger";
const OUTSIDE: &str = "other/exporter";

fn plan() -> Plan {
    let hosts = [Pod::new(ALLOWED), Pod::new(DENIED), Pod::new(OUTSIDE).outside()].map(Pod::host_network);
    Plan::new("hosts")
        .node("a", [Pod::new("shop/bob")].into_iter().chain(hosts))
        .node("b", [Pod::new("shop/far")])
        .service("shop/bob", &[(80, 8080)])
}

fn decided(lab: &Lab, reason: &str) -> Result<f64> {
    Ok(lab.admin(Part::Agent("a")).metrics()?.sum("millrace_kernel_decisions_total", &[("reason", reason)]))
}

#[test]
fn a_pod_in_its_nodes_network_is_authorized_by_its_service_account_and_never_the_node() {
    scene::mesh(&plan(), |lab| {
        let (bob, far) = (lab.pod("shop/bob")?, lab.pod("shop/far")?);
        let _serving = [bob.serves("[::]:8080", &[])?, far.serves("[::]:8080", &[])?];
        lab.apply(&encryption_policy("shop/strict", "Strict", "bob")?)?;
        lab.apply(&access_policy("shop/guard", "Allow", "bob", &[Rule::identity(ALLOWED)])?)?;
        let (allowed, denied, outside) = (lab.pod(ALLOWED)?, lab.pod(DENIED)?, lab.pod(OUTSIDE)?);
        clock::until(CALL, "the policy is in force", || denied.is_refused(bob.at(8080)))?;
        for ip in bob.addresses().both() {
            let to = std::net::SocketAddr::new(ip, 8080);
            let greeting = allowed.connects(to)?.greeting;
            ensure!(greeting.is_some_and(|g| g.name == "shop/bob"), "bob greets the one that he admits");
            denied.is_refused(to)?;
            // Outside the mesh it is nobody, and bob is strict.
            outside.is_refused(to)?;
        }
        let service = lab.topology().service("shop/bob")?.addresses.v4;
        let called = allowed.connects(std::net::SocketAddr::new(service.into(), 80))?;
        ensure!(
            called.peer.is_some_and(|peer| peer.ip() == service),
            "it sees the service that it asked for: {called:?}"
        );
        let flows = lab.admin(Part::Agent("a")).follow("/flows")?;
        let names = |line: &str| line.contains("\"denied\"") && line.contains(DENIED) && line.contains("shop/guard");
        clock::until(CALL, "a flow names caller and policy", || flows.find(names).context("none does"))?;
        // To another node it is plain text, from nobody: as far as that pod takes that.
        allowed.connects(far.at(8080))?;
        clock::until(CALL, "which is counted", || {
            ensure!(decided(lab, "host_remote")? > 0.0, "host_remote stands at 0");
            Ok(())
        })?;
        lab.apply(&encryption_policy("shop/strict-too", "Strict", "far")?)?;
        clock::until(CALL, "far is strict", || allowed.is_refused(far.at(8080)))?;
        // A policy that turns closes what it has open.
        let until = lab.directory().join("never").display().to_string();
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let target = bob.at(8080).to_string();
        let mut crowd = allowed.start("crowd", &[&program, "crowd", &target, "--count", "20", "--until", &until])?;
        crowd.says("open", CALL)?;
        lab.apply(&access_policy("shop/guard", "Allow", "bob", &[])?)?;
        crowd.wait(CALL)?;
        ensure!(crowd.output().contains("\"closed\":20"), "{}", crowd.output());
        let status = lab.admin(Part::Agent("a")).json("/status")?.to_string();
        for pod in [ALLOWED, DENIED] {
            ensure!(status.contains(pod), "{pod} is on status: {status}");
        }
        Ok(())
    });
}
