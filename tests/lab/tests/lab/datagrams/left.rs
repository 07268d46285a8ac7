//! Endpoints that leave a service by UDP while their pods live: who was connected to them by the service is told within a second,
//! and nobody else.

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock, manifests, peer::crowd::unix_us};
use serde_json::{Value, json};

use super::{IN_FORCE, alive, answered, closed, hold, in_force, plan, pod, serve, services};
use crate::{held::Held, scene};

/// How many sockets one `hold` opens.
const HELD: usize = 50;

fn object(lab: &Lab, name: &str) -> Result<Value> {
    Ok(manifests::pod(lab.number(), lab.topology(), lab.topology().pod(name)?))
}

fn revoked(lab: &Lab) -> Result<f64> {
    Ok(lab.admin(Part::Agent("a")).metrics()?.sum("millrace_agent_revoked_total", &[]))
}

/// Looks at sockets of which those are closed that were given one of two endpoints; says how many.
fn halved(held: Vec<Held>, start: u64) -> Result<usize> {
    let mut n = 0;
    for held in held {
        let crowd = held.look()?;
        // Fifty draws of one in two: none or all come once in 2^49 runs.
        ensure!((1..HELD).contains(&crowd.closed) && crowd.alive + crowd.closed == HELD, "{crowd:?}");
        let (_, last) = crowd.ended_us.context("some have ended")?;
        let last = std::time::Duration::from_micros(last.saturating_sub(start));
        println!("an endpoint left: {} of {HELD} sockets closed, the last after {last:?}", crowd.closed);
        ensure!(last < IN_FORCE, "within a second, not {last:?}");
        n += crowd.closed;
    }
    Ok(n)
}

/// By IPv4 and IPv6: within the node and, by the other endpoint, to another.
#[test]
fn who_was_connected_by_a_service_is_told_when_its_endpoint_leaves_and_nobody_else() {
    scene::mesh(&plan("datagram-left"), |lab| {
        let _serving = serve(lab)?;
        let (one, two) = (services(lab, &["shop/one"])?, services(lab, &["shop/two"])?);
        in_force("the services take datagrams", || {
            answered(lab, "shop/client", &one)?;
            answered(lab, "shop/client", &two)
        })?;
        let each = |to: Vec<_>| to.into_iter().map(|to| hold(lab, "shop/client", to)).collect::<Result<Vec<_>>>();
        let (by_one, by_two) = (each(one.clone())?, each(two)?);
        let (to_pod, to_other) = (each(pod(lab, "shop/one-a")?)?, each(pod(lab, "shop/two-a")?)?);

        // Not ready, and told to go: it may serve again, and finishes what it has.
        let mut going = object(lab, "shop/one-a")?;
        going["status"]["conditions"][0]["status"] = json!("False");
        lab.apply(&going)?;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        lab.apply(&going)?;
        lab.settle()?;
        ensure!(revoked(lab)? == 0.0, "one that is leaving has not left");

        let mut apart = object(lab, "shop/one-a")?;
        apart["metadata"]["labels"]["app"] = json!("apart");
        let start = unix_us()?;
        lab.apply(&apart)?;
        clock::until(IN_FORCE, "some are closed", || {
            ensure!(revoked(lab)? > 0.0);
            Ok(())
        })?;
        let n_closed = halved(by_one, start)?;
        ensure!(revoked(lab)? == n_closed as f64, "each is counted once, and no other is closed");
        // The service is given anew, and its other endpoint answers.
        answered(lab, "shop/client", &one)?;

        let start = unix_us()?;
        lab.remove(&manifests::service(lab.topology().service("shop/two")?))?;
        closed("the service is gone", by_two, start)?;
        let n_closed = n_closed + 2 * HELD;
        ensure!(revoked(lab)? == n_closed as f64, "no other is closed");
        alive("who was connected to the pod that left the service", to_pod)?;
        alive("who was connected to the pod whose service is gone", to_other)?;
        Ok(())
    });
}
