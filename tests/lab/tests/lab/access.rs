//! Who may call whom: by identity, by namespace, by address, by port, on each path; in force within a second, and with a name.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, clock,
    manifests::{Rule, access_policy},
};

use crate::scene;

/// An edit of the directory is in force within this time.
const IN_FORCE: Duration = Duration::from_secs(1);

/// How long is waited to say how late it was.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each caller with the server it calls on its own node, and on the other.
const CALLERS: [&str; 4] = ["shop/client", "other/stranger", "shop/caller", "other/guest"];

const SERVERS: [&str; 2] = ["shop/near", "shop/far"];

/// Waits until each caller stands as expected with both servers, on both families; how long that took.
pub(crate) fn stands(lab: &Lab, port: u16, allowed: &[&str]) -> Result<Duration> {
    let start = clock::now();
    for server in SERVERS {
        for caller in CALLERS {
            for address in lab.pod(server)?.addresses().both() {
                let target = SocketAddr::new(address, port);
                let pod = lab.pod(caller)?;
                if allowed.contains(&caller) {
                    clock::until(PATIENCE, &format!("{caller} may call {server} at {target}"), || {
                        pod.connects(target)
                    })?;
                } else {
                    clock::until(PATIENCE, &format!("{caller} may not call {server} at {target}"), || {
                        pod.is_refused(target)
                    })?;
                }
            }
        }
    }
    Ok(start.elapsed())
}

/// Applies a policy, and checks that it was in force in time.
fn in_force(lab: &Lab, what: &str, edit: impl FnOnce() -> Result<()>, port: u16, allowed: &[&str]) -> Result<()> {
    edit()?;
    let took = stands(lab, port, allowed)?;
    println!("{what}: in force and tried on all 16 paths within {took:?}");
    ensure!(took < IN_FORCE, "{what}: in force on every path within a second, not {took:?}");
    Ok(())
}

#[test]
fn policies_are_in_force_on_every_path_within_a_second() {
    scene::mesh(&scene::two_nodes("access"), |lab| {
        let mut serving = Vec::new();
        for server in SERVERS {
            for listen in ["[::]:8080", "[::]:9090"] {
                serving.push(lab.pod(server)?.serves(listen, &[])?);
            }
        }
        let apply = |action: &str, rules: &[Rule]| -> Result<()> {
            lab.apply(&access_policy("shop/guard", action, "web", rules)?)?;
            Ok(())
        };
        stands(lab, 8080, &CALLERS)?;
        let one = || apply("Allow", &[Rule::identity("shop/client")]);
        in_force(lab, "allow one identity", one, 8080, &["shop/client"])?;
        let namespace = || apply("Allow", &[Rule::namespace("other")]);
        in_force(lab, "allow a namespace", namespace, 8080, &["other/stranger", "other/guest"])?;
        let port = || apply("Allow", &[Rule::namespace("shop").port(8080), Rule::identity("other/guest").port(9090)]);
        in_force(lab, "allow by port", port, 8080, &["shop/client", "shop/caller"])?;
        stands(lab, 9090, &["other/guest"])?;
        let deny = || apply("Deny", &[Rule::identity("shop/client"), Rule::namespace("other").port(8080)]);
        in_force(lab, "deny an identity, and a namespace at a port", deny, 8080, &["shop/caller"])?;
        stands(lab, 9090, &["shop/caller", "other/stranger", "other/guest"])?;
        let block = || apply("Allow", &[Rule::block("10.10.2.0/24"), Rule::block("fd10:2::/64")]);
        in_force(lab, "allow an address block", block, 8080, &["shop/caller", "other/guest"])?;
        let nobody = || apply("Allow", &[]);
        in_force(lab, "an Allow without rules", nobody, 8080, &[])?;
        let gone = || lab.remove(&access_policy("shop/guard", "Allow", "web", &[])?);
        in_force(lab, "the policy removed", gone, 8080, &CALLERS)
    });
}

#[test]
fn a_refusal_names_its_policy_in_the_flow() {
    scene::mesh(&scene::two_nodes("named"), |lab| {
        lab.apply(&access_policy("shop/nobody-but-caller", "Allow", "web", &[Rule::identity("shop/caller")])?)?;
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let flows = ["a", "b"].map(|node| lab.admin(Part::Agent(node)).follow("/flows"));
        for server in SERVERS {
            let (client, target) = (lab.pod("shop/client")?, lab.pod(server)?.at(8080));
            clock::until(PATIENCE, "the client is refused", || client.is_refused(target))?;
            let names = |line: &str| {
                line.contains("shop/nobody-but-caller")
                    && line.contains("denied")
                    && line.contains(&target.ip().to_string())
            };
            let what = format!("a flow names the policy that refused {target}");
            clock::until(PATIENCE, &what, || {
                flows.iter().flatten().find_map(|flows| flows.find(names)).context("none does")
            })?;
        }
        Ok(())
    });
}

/// A connection that a policy no longer allows does not live on.
#[test]
fn a_proxied_connection_is_cut_when_policy_turns() {
    scene::mesh(&scene::two_nodes("revoked"), |lab| {
        let mut serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let target = lab.pod("shop/far")?.at(8080).to_string();
        let until = lab.directory().join("never").display().to_string();
        let _steady = lab.pod("shop/client")?.start("steady", &[&program, "steady", &target, "--until", &until])?;
        serving.says("\"command\":\"bye\"", PATIENCE)?; // The long connection was opened before the first short one.
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::identity("shop/caller")])?)?;
        let start = clock::now();
        let line = serving.says("\"command\":\"echo\"", PATIENCE)?;
        ensure!(start.elapsed() < IN_FORCE, "it is cut within a second, not {:?}: {line}", start.elapsed());
        Ok(())
    });
}
