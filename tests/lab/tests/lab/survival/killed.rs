//! Crashes: SIGKILL for each process alone and in pairs. No new connection fails; only a killed proxy's own are cut.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab, Part,
    peer::{crowd::unix_us, load::Failure},
    process::Process,
};
use rustix::process::Signal;

use super::{
    FEW, MANY,
    load::{Outcome, Traffic, none, table},
};
use crate::scene;

/// How long what was killed stays away: whoever supervises it notices, waits half a second, and starts it.
const AWAY: Duration = Duration::from_millis(500);

/// Kills these at once, and starts them again after a while. When the last of them was gone.
fn kill(lab: &mut Lab, parts: &[Part<'_>]) -> Result<Option<u64>> {
    let killed: Vec<Process> = parts.iter().map(|part| lab.take(*part)).collect::<Result<_>>()?;
    for process in &killed {
        process.signal(Signal::KILL)?;
    }
    for process in killed {
        process.kill()?; // Waits for its end.
    }
    let gone = unix_us()?;
    std::thread::sleep(AWAY);
    for part in parts {
        lab.start(*part)?;
    }
    for part in parts {
        lab.wait_ready(*part)?;
    }
    lab.settle()?;
    Ok(Some(gone))
}

fn what(parts: &[Part<'_>]) -> String {
    let names: Vec<&str> = parts
        .iter()
        .map(|part| match part {
            Part::Control => "control",
            Part::Agent(_) => "agent",
            Part::Proxy(_) => "proxy",
            Part::Holder(_) => "holder",
        })
        .collect();
    names.join(" and ") + " killed"
}

fn kills(name: &str, rounds: usize) {
    scene::mesh(&super::plan(name), |lab| {
        for node in ["a", "b"] {
            lab.start(Part::Holder(node))?; // As `millrace run` has one: for agent and proxy killed together.
        }
        let mut traffic = Traffic::start(lab)?;
        for round in 0..rounds {
            let node = if round % 2 == 0 { "a" } else { "b" };
            let (agent, proxy, control) = (Part::Agent(node), Part::Proxy(node), Part::Control);
            let each: [&[Part<'_>]; 6] =
                [&[agent], &[proxy], &[control], &[agent, proxy], &[agent, control], &[proxy, control]];
            for parts in each {
                traffic.during(&what(parts), || kill(lab, parts))?;
            }
        }
        let (outcomes, load) = traffic.end()?;
        println!("{}", table(&outcomes, &load));
        none("no new connection fails", &outcomes, |outcome| &outcome.failed)?;
        let (of_proxies, others): (Vec<Outcome>, Vec<Outcome>) =
            outcomes.into_iter().partition(|outcome| outcome.what.contains("proxy"));
        none("no call is cut short", &others, |outcome| &outcome.cut_short)?;
        none("no long connection is cut", &others, |outcome| &outcome.cut)?;
        ensure!(
            of_proxies.iter().all(|outcome| !outcome.cut.is_empty()),
            "the proxies that were killed carried something"
        );
        // A connection within a node has no proxy to lose.
        let within = |failure: &Failure| {
            let at = failure.local.map(|local| local.ip());
            [("shop/client", "shop/near"), ("shop/caller", "shop/far")].iter().any(|(from, to)| {
                let (Ok(from), Ok(to)) = (lab.pod(from), lab.pod(to)) else { return false };
                at == Some(from.addresses().v4.into()) && failure.target == to.at(8080).to_string()
            })
        };
        let lost = of_proxies.iter().flat_map(|outcome| &outcome.cut).find(|failure| within(failure));
        ensure!(lost.is_none(), "a connection within a node was cut: {lost:?}");
        Ok(())
    });
}

#[test]
fn crashes_fail_no_new_connection_and_cut_only_what_a_killed_proxy_carried() {
    kills("crashes", FEW);
}

#[test]
#[ignore = "long: twenty rounds of crashes, five minutes"]
fn twenty_crashes_of_each_process_and_pair_fail_no_new_connection() {
    kills("crashes", MANY);
}
