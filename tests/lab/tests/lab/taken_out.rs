//! A node that is taken out of the mesh: what it had open is closed, nobody is sent there, and it comes back by a new token only.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock, peer::crowd::unix_us};
use serde_json::json;

use crate::{
    revoked::{alive, call, closed},
    scene,
};

/// The agent tries to join each ten seconds at the latest.
const PATIENCE: Duration = Duration::from_secs(40);

fn revoke(lab: &Lab, node: &str) -> Result<()> {
    let answer = lab.admin(Part::Control).request("POST", "/revoked", &json!({ "revoke": node }).to_string())?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(())
}

#[test]
fn a_revoked_nodes_connections_are_closed_within_a_second_and_a_new_token_readmits_it() {
    scene::mesh(&scene::two_nodes("taken-out"), |lab| {
        let serving = [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let both = |from, to| (0..2).map(|family| call(lab, from, to, family, 20)).collect::<Result<Vec<_>>>();
        let (to, from) = (both("shop/client", "shop/far")?, both("shop/caller", "shop/near")?);
        let stays = both("shop/client", "shop/near")?;
        let agent_before = lab.pid(Part::Agent("b"))?;
        let start = unix_us()?;
        revoke(lab, "b")?;
        closed("the callee's node is revoked", to, 40, start)?;
        closed("the caller's node is revoked", from, 40, start)?;
        alive("a node is revoked, connections within another", stays, 40)?;

        // New ones are refused, in both directions, and the service is left with one endpoint.
        lab.pod("shop/client")?.is_refused(lab.pod("shop/far")?.at(8080))?;
        lab.pod("shop/caller")?.is_refused(lab.pod("shop/near")?.at(8080))?;
        let found = lab.pod("shop/client")?.connects_often("web:80", 50)?;
        ensure!(found.errors.is_empty() && found.by_name.len() == 1, "only the other is left: {found:?}");
        ensure!(found.by_name.contains_key("shop/near"), "{found:?}");
        let refused = |reason: &str| -> Result<f64> {
            Ok(lab.admin(Part::Control).metrics()?.sum("millrace_control_refusals_total", &[("reason", reason)]))
        };
        clock::until(PATIENCE, "control refuses it by name", || {
            ensure!(refused("node_revoked")? > 0.0, "never");
            Ok(())
        })?;
        let of_b = lab.admin(Part::Control).json("/revoked")?;
        ensure!(of_b.pointer("/b/is_out") == Some(&true.into()), "{of_b}");

        // The token that it joined with is spent: it does not help.
        clock::until(PATIENCE, "its old token is refused", || {
            ensure!(refused("token_used")? > 0.0, "never");
            Ok(())
        })?;
        lab.token("b")?;
        clock::until(PATIENCE, "its pods are served again", || {
            let near = lab.pod("shop/near")?.at(8080);
            let called = lab.pod("shop/caller")?.calls(near)?;
            ensure!(called.error.is_none(), "{called:?}");
            lab.pod("shop/client")?.connects(lab.pod("shop/far")?.at(8080)).map(drop)
        })?;
        clock::until(PATIENCE, "the service has both endpoints", || {
            let found = lab.pod("shop/client")?.connects_often("web:80", 50)?;
            ensure!(found.errors.is_empty() && found.by_name.len() == 2, "{found:?}");
            Ok(())
        })?;
        ensure!(lab.pid(Part::Agent("b"))? == agent_before, "the agent that was taken out joined again by itself");
        let of_b = lab.admin(Part::Control).json("/revoked")?;
        let is_out = of_b.pointer("/b/is_out").context("its old certificates are refused still")?;
        ensure!(*is_out == serde_json::Value::Bool(false), "{of_b}");
        drop(serving);
        Ok(())
    });
}
