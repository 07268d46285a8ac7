//! Connections within a node that should not be there any more are closed within a second, and no others: policy turned, or a
//! pod is gone.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    manifests::{self, Rule, access_policy},
    peer::crowd::{Crowd, unix_us},
};

use crate::{
    held::Held,
    scene::{self, CALL},
};

/// An edit of the directory is in force within this time, for what is open too.
const IN_FORCE: Duration = Duration::from_secs(1);

fn plan(name: &str) -> Plan {
    let pods = ["shop/alice", "shop/dave", "shop/bob", "shop/carol"].map(Pod::new);
    Plan::new(name).node("a", pods)
}

/// Connections of one pod to another, by one family.
pub(crate) fn call(lab: &Lab, from: &str, to: &str, family: usize, count: usize) -> Result<Held> {
    let ip = *lab.pod(to)?.addresses().both().get(family).context("two families")?;
    let target = std::net::SocketAddr::new(ip, 8080).to_string();
    call_at(lab, (from, &format!("{}-{family}", to.replace('/', "-"))), &target, count)
}

fn call_at(lab: &Lab, (from, name): (&str, &str), target: &str, count: usize) -> Result<Held> {
    Held::open(lab, (from, "crowd", name), target, count)
}

/// Checks that all of these were closed in time after `start`.
pub(crate) fn closed(what: &str, calls: Vec<Held>, count: usize, start: u64) -> Result<()> {
    let all: Vec<Crowd> = calls.into_iter().map(Held::end).collect::<Result<_>>()?;
    let n: usize = all.iter().map(|crowd| crowd.closed).sum();
    let first = all.iter().filter_map(|crowd| crowd.ended_us).map(|(first, _)| first).min().unwrap_or_default();
    let last = all.iter().filter_map(|crowd| crowd.ended_us).map(|(_, last)| last).max().unwrap_or_default();
    let [first, last] = [first, last].map(|at| Duration::from_micros(at.saturating_sub(start)));
    println!("{what}: {n} of {count} connections closed, the first after {first:?}, the last after {last:?}");
    ensure!(n == count, "all of {count} are closed: {all:?}");
    ensure!(last < IN_FORCE, "within a second, not {last:?}");
    Ok(())
}

/// Checks that all of these live.
pub(crate) fn alive(what: &str, calls: Vec<Held>, count: usize) -> Result<()> {
    let all: Vec<Crowd> = calls.into_iter().map(Held::look).collect::<Result<_>>()?;
    let n: usize = all.iter().map(|crowd| crowd.alive).sum();
    println!("{what}: {n} of {count} connections live");
    ensure!(n == count, "all of {count} live: {all:?}");
    Ok(())
}

/// Two hundred, of both families; bob has closed his listener by then, so that nothing but what the kernel noted tells who called.
#[test]
fn policy_that_turns_closes_half_of_200_connections_and_leaves_the_others() {
    scene::mesh(&plan("revoked"), |lab| {
        let deaf = lab.directory().join("deaf");
        let mut bob = lab.pod("shop/bob")?.serves("[::]:8080", &["--deaf-when", &deaf.display().to_string()])?;
        let both = |from| (0..2).map(|family| call(lab, from, "shop/bob", family, 50)).collect::<Result<Vec<_>>>();
        let (alice, dave) = (both("shop/alice")?, both("shop/dave")?);
        fs::write(&deaf, "")?;
        bob.says("deaf", CALL)?;
        lab.pod("shop/dave")?.is_refused(lab.pod("shop/bob")?.at(8080))?;
        let start = unix_us()?;
        lab.apply(&access_policy("shop/guard", "Allow", "bob", &[Rule::identity("shop/dave")])?)?;
        closed("policy turned", alice, 100, start)?;
        let revoked = revoked(lab)?;
        alive("policy turned, callers that it allows", dave, 100)?;
        ensure!(revoked == 100.0, "each is counted once: {revoked}");
        Ok(())
    });
}

/// Deleted, though its processes live on, as a directory's pods do: whoever talked to it talks to nobody of the mesh.
#[test]
fn a_pod_that_is_gone_leaves_no_connection_behind() {
    scene::mesh(&plan("gone"), |lab| {
        let _serving =
            [lab.pod("shop/bob")?.serves("[::]:8080", &[])?, lab.pod("shop/carol")?.serves("[::]:8080", &[])?];
        let both = |from, to| (0..2).map(|family| call(lab, from, to, family, 50)).collect::<Result<Vec<_>>>();
        let (gone, stays) = (both("shop/alice", "shop/carol")?, both("shop/alice", "shop/bob")?);
        // As a caller it is gone too.
        let callers = both("shop/carol", "shop/bob")?;
        let carol = manifests::pod(lab.number(), lab.topology(), lab.topology().pod("shop/carol")?);
        let start = unix_us()?;
        lab.remove(&carol)?;
        closed("the callee is gone", gone, 100, start)?;
        closed("the caller is gone", callers, 100, start)?;
        alive("a pod is gone, connections of others", stays, 100)
    });
}

/// Held of the service by its address: alone in having endpoints, bob and carol each have their part.
fn call_service(lab: &Lab, count: usize) -> Result<Held> {
    let target = std::net::SocketAddr::new(lab.topology().service("shop/both")?.addresses.v4.into(), 80).to_string();
    call_at(lab, ("shop/alice", "both"), &target, count)
}

/// A backend that is told to go finishes what it has; once its pod is gone, what it had through the service is closed.
#[test]
fn a_services_backend_keeps_its_connections_while_it_goes_and_has_none_when_it_is_gone() {
    let pods = [Pod::new("shop/alice"), Pod::new("shop/bob").app("both"), Pod::new("shop/carol").app("both")];
    let plan = Plan::new("backend-gone").node("a", pods).service("shop/both", &[(80, 8080)]);
    scene::mesh(&plan, |lab| {
        let _serving =
            [lab.pod("shop/bob")?.serves("[::]:8080", &[])?, lab.pod("shop/carol")?.serves("[::]:8080", &[])?];
        let calls = call_service(lab, 100)?;
        let mut carol = manifests::pod(lab.number(), lab.topology(), lab.topology().pod("shop/carol")?);
        carol["metadata"]["deletionTimestamp"] = serde_json::json!("2026-01-01T00:00:00Z");
        lab.apply(&carol)?;
        clock::until(CALL, "new calls are bob's alone", || {
            let done = lab.pod("shop/alice")?.connects_often("both:80", 30)?;
            ensure!(done.by_name.keys().eq(["shop/bob"]), "by {done:?}");
            Ok(())
        })?;
        ensure!(revoked(lab)? == 0.0, "a backend that is going was cut");
        lab.remove(&carol)?;
        clock::until(IN_FORCE, "what carol had is closed", || {
            let closed = revoked(lab)?;
            // A hundred draws of one in two: fewer than 20 come once in a thousand million runs.
            ensure!((20.0..=80.0).contains(&closed), "{closed} are");
            Ok(())
        })?;
        let (closed, left) = (revoked(lab)?, calls.look()?);
        println!("a backend is gone: {closed} of 100 connections closed, {} live", left.alive);
        ensure!(left.closed as f64 == closed && left.alive + left.closed == 100, "bob's live, and no other: {left:?}");
        Ok(())
    });
}

/// How many connections the agent has closed.
fn revoked(lab: &Lab) -> Result<f64> {
    Ok(lab.admin(Part::Agent("a")).metrics()?.sum("millrace_agent_revoked_total", &[]))
}
