//! Upgrades: a newer process beside the older one takes its work over, and nobody notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Part, clock, peer::crowd::unix_us, process::Process};
use rustix::process::Signal;

use super::{
    FEW, MANY,
    load::{Traffic, none, table},
};
use crate::scene;

/// How long a hand-over may take on a busy machine; it takes a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a proxy that drains may take to end after its last connection did.
const LAST: Duration = Duration::from_secs(10);

/// A newer proxy takes the listeners, and the older one drains: it is told so, and its peers are by GOAWAY.
pub(super) fn replace_proxy(lab: &mut Lab, node: &str) -> Result<Process> {
    let older = lab.take(Part::Proxy(node))?;
    lab.start(Part::Proxy(node))?;
    lab.wait_ready(Part::Proxy(node))?;
    clock::until(PATIENCE, "the older proxy drains", || {
        ensure!(older.errors().contains("a newer proxy has taken over"), "it was not told yet");
        Ok(())
    })?;
    lab.settle()?;
    Ok(older)
}

/// A newer agent takes over pins, listeners and proxies.
fn replace_agent(lab: &mut Lab, node: &str) -> Result<()> {
    let mut older = lab.take(Part::Agent(node))?;
    lab.start(Part::Agent(node))?;
    clock::until(PATIENCE, "the older agent yields", || {
        older.still_runs()?;
        ensure!(older.errors().contains("a newer agent has taken over"), "it goes on");
        Ok(())
    })?;
    lab.wait_ready(Part::Agent(node))?;
    ensure!(older.stop()?.success(), "it ends in order");
    lab.settle()?;
    Ok(())
}

/// One at a time: the older is stopped, the newer begins with its state.
fn replace_control(lab: &mut Lab) -> Result<()> {
    lab.take(Part::Control)?.stop()?;
    lab.start(Part::Control)?;
    lab.wait_ready(Part::Control)?;
    lab.settle()?;
    Ok(())
}

/// Every process is replaced by a newer one, round by round: nothing fails, nothing is cut.
fn upgrades(name: &str, rounds: usize) {
    scene::mesh(&super::plan(name), |lab| {
        let mut traffic = Traffic::start(lab)?;
        let mut older = Vec::new();
        for _ in 0..rounds {
            for node in ["a", "b"] {
                traffic.during("proxy replaced", || {
                    older.push(replace_proxy(lab, node)?);
                    Ok(None)
                })?;
                traffic.during("agent replaced", || replace_agent(lab, node).map(|()| None))?;
            }
            traffic.during("control replaced", || replace_control(lab).map(|()| None))?;
        }
        let (outcomes, load) = traffic.end()?;
        println!("{}", table(&outcomes, &load));
        none("no call fails", &outcomes, |outcome| &outcome.failed)?;
        none("no long connection is cut", &outcomes, |outcome| &outcome.cut)?;
        // None was ended by anything but its last connection's end.
        for mut proxy in older {
            ensure!(proxy.wait(LAST)?.success(), "a proxy that was replaced ends in order: {}", proxy.errors());
        }
        Ok(())
    });
}

#[test]
fn upgrades_fail_no_call_and_cut_no_connection() {
    upgrades("upgrades", FEW);
}

#[test]
#[ignore = "long: twenty rounds of upgrades, two and a half minutes"]
fn twenty_upgrades_of_each_process_fail_no_call_and_cut_no_connection() {
    upgrades("upgrades", MANY);
}

/// What is given in one of the tests below; the default is 30 s, and what a hand-over gives is 300 s.
const DRAIN: Duration = Duration::from_secs(4);

/// How late the cut may be seen on a busy machine.
const LATE: Duration = Duration::from_secs(3);

/// The older proxy is told to end, by SIGTERM or by nothing but the newer one: its connections have until the deadline.
fn deadline(signal: Option<Signal>, drain: Duration) {
    scene::mesh(&super::plan("deadline"), |lab| {
        // The first proxies of this lab have the default, which is longer: those that drain here are the second.
        lab.proxy_flags(&["--drain", &DRAIN.as_secs().to_string()]);
        for node in ["a", "b"] {
            lab.take(Part::Proxy(node))?.stop()?;
            lab.start(Part::Proxy(node))?;
            lab.wait_ready(Part::Proxy(node))?;
        }
        lab.settle()?;
        let mut traffic = Traffic::start(lab)?;
        let (mut told_us, mut ended_us) = (0, 0);
        traffic.during("proxy replaced, to its deadline", || {
            told_us = unix_us()?;
            let mut older = replace_proxy(lab, "a")?;
            if let Some(signal) = signal {
                told_us = unix_us()?;
                older.signal(signal)?;
            }
            ensure!(older.wait(drain + PATIENCE)?.success(), "it ends in order: {}", older.errors());
            ended_us = unix_us()?;
            Ok(None)
        })?;
        let (outcomes, load) = traffic.end()?;
        println!("{}", table(&outcomes, &load));
        none("no call fails", &outcomes, |outcome| &outcome.failed)?;
        let cut: Vec<Duration> = outcomes
            .iter()
            .flat_map(|outcome| &outcome.cut)
            .map(|failure| Duration::from_micros(failure.ended_us.saturating_sub(told_us)))
            .collect();
        let (first, last) =
            (cut.iter().min().copied().unwrap_or_default(), cut.iter().max().copied().unwrap_or_default());
        println!(
            "{} long connections were cut, {first:?} to {last:?} after it was told, {drain:?} being given",
            cut.len()
        );
        // Between the nodes are 100 by address, and of those by service some.
        ensure!(cut.len() >= 60, "what was left is cut: {}", cut.len());
        ensure!(first >= drain, "none is cut before the deadline, but one was after {first:?}");
        ensure!(last <= drain + LATE, "and all at it, but one {last:?} after");
        Ok(())
    });
}

#[test]
fn what_a_replaced_proxy_carries_has_until_the_deadline_and_no_longer() {
    deadline(Some(Signal::TERM), DRAIN);
}

#[test]
#[ignore = "long: the 300 s that a hand-over gives"]
fn what_a_replaced_proxy_carries_has_five_minutes() {
    deadline(None, Duration::from_secs(300));
}
