//! The load that everything here is done under, and the table of what became of it.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, clock,
    peer::{
        crowd::unix_us,
        load::{Failure, Load},
    },
    process::Process,
};
use rustix::process::Signal;

use crate::scene::CALL;

/// Short calls a second of each caller: 500 together.
const RATE: u32 = 250;

/// Long connections of each caller: 200 together.
const LONG: usize = 100;

/// The callers: one on each node, so that each proxy is at both ends.
const CALLERS: [&str; 2] = ["shop/client", "shop/caller"];

/// The servers, one on each node.
const SERVERS: [&str; 2] = ["shop/near", "shop/far"];

/// How long the load goes on after each act: enough calls that one in a hundred that fails is seen several times.
const AFTER: Duration = Duration::from_secs(1);

/// How long its end may take: calls that wait for a proxy have 15 s.
const END: Duration = Duration::from_secs(30);

/// A load from both nodes.
pub(super) struct Callers {
    processes: Vec<Process>,
    until: PathBuf,
}

impl Callers {
    /// Starts a caller on each node; returns when their long connections are open.
    pub(super) fn start(lab: &Lab, targets: &[String], rate: u32, long: usize) -> Result<Self> {
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("stop-load");
        let path = until.display().to_string();
        let (rate, long) = (rate.to_string(), long.to_string());
        let mut arguments = vec![program.as_str(), "load", "--rate", &rate, "--long", &long, "--until", &path];
        arguments.extend(targets.iter().map(String::as_str));
        let mut processes = Vec::new();
        for caller in CALLERS {
            processes.push(lab.pod(caller)?.start("load", &arguments)?);
        }
        for caller in &mut processes {
            caller.says("open", CALL)?;
        }
        Ok(Self { processes, until })
    }

    /// Ends it: what both saw.
    pub(super) fn end(self) -> Result<Load> {
        std::fs::write(&self.until, "")?;
        let mut all = Load::default();
        for mut caller in self.processes {
            let status = caller.wait(END)?;
            ensure!(status.success(), "a caller ended with {status}: {}", caller.errors());
            let said = caller.output();
            all = all.and(serde_json::from_str(said.lines().last().context("a caller says what it saw")?)?);
        }
        std::fs::remove_file(&self.until)?;
        Ok(all)
    }
}

/// Calls to both nodes by address and by service, from both nodes, short and long.
pub(super) struct Traffic {
    callers: Callers,
    servers: Vec<Process>,
    acts: Vec<Act>,
}

/// Something that was done under the load.
struct Act {
    what: String,
    began_us: u64,
    /// When what was killed was gone: calls that begin from then on must succeed.
    gone_us: u64,
}

/// What became of the load in the time of an act.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) what: String,
    /// Calls that failed and had begun after what was killed was gone.
    pub(super) failed: Vec<Failure>,
    /// Calls that were under way when it was killed, and were cut.
    pub(super) cut_short: Vec<Failure>,
    /// Long connections that were cut.
    pub(super) cut: Vec<Failure>,
}

impl Traffic {
    /// Starts servers and callers; returns when every long connection is open.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let mut servers = Vec::new();
        for server in SERVERS {
            let mut process = lab.pod(server)?.start("app", &[&program, "app", "[::]:8080"])?;
            process.says("listening", CALL)?;
            servers.push(process);
        }
        let by_address = SERVERS.map(|server| Ok(lab.pod(server)?.at(8080).to_string()));
        let targets: Vec<String> = by_address.into_iter().chain([Ok("web:80".to_owned())]).collect::<Result<_>>()?;
        let callers = Callers::start(lab, &targets, RATE, LONG)?;
        Ok(Self { callers, servers, acts: Vec::new() })
    }

    /// Does something under the load, which then goes on for a while. `act` says when what it killed was gone.
    pub(super) fn during(&mut self, what: &str, act: impl FnOnce() -> Result<Option<u64>>) -> Result<()> {
        let began_us = unix_us()?;
        let index = self.acts.len();
        self.acts.push(Act { what: what.to_owned(), began_us, gone_us: began_us });
        let gone = act().with_context(|| what.to_owned())?;
        if let (Some(gone_us), Some(act)) = (gone, self.acts.get_mut(index)) {
            act.gone_us = gone_us;
        }
        for process in self.callers.processes.iter_mut().chain(&mut self.servers) {
            process.still_runs()?;
        }
        let until = clock::now() + AFTER;
        // The load is its own event: what counts is that there was enough of it.
        clock::until(AFTER * 10, "the load goes on", || {
            ensure!(clock::now() >= until);
            Ok(())
        })?;
        Ok(())
    }

    /// Ends it: what became of it, act by act, and how much of it there was.
    pub(super) fn end(self) -> Result<(Vec<Outcome>, Load)> {
        let all = self.callers.end()?;
        for server in self.servers {
            server.signal(Signal::TERM)?;
            server.stop()?;
        }
        let mut outcomes: Vec<Outcome> =
            self.acts.iter().map(|act| Outcome { what: act.what.clone(), ..Outcome::default() }).collect();
        let at = |us: u64| self.acts.iter().rposition(|act| act.began_us <= us).unwrap_or(0);
        for failure in &all.failed {
            let index = at(failure.ended_us);
            let (Some(act), Some(outcome)) = (self.acts.get(index), outcomes.get_mut(index)) else { continue };
            let kind = if failure.began_us < act.gone_us { &mut outcome.cut_short } else { &mut outcome.failed };
            kind.push(failure.clone());
        }
        for failure in &all.cut {
            if let Some(outcome) = outcomes.get_mut(at(failure.ended_us)) {
                outcome.cut.push(failure.clone());
            }
        }
        Ok((outcomes, all))
    }
}

/// The table that a test ends with: a line for each act by what was done, summed over its rounds.
pub(super) fn table(outcomes: &[Outcome], load: &Load) -> String {
    let mut names: Vec<&str> = outcomes.iter().map(|outcome| outcome.what.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut text = String::from(
        "| under load | rounds | failed | calls cut short, per round | long connections cut, per round |\n|---|---|---|---|---|\n",
    );
    for name in names {
        let rounds: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.what == name).collect();
        let failed: usize = rounds.iter().map(|round| round.failed.len()).sum();
        let line = writeln!(
            text,
            "| {name} | {} | {failed} | {} | {} |",
            rounds.len(),
            spread(rounds.iter().map(|round| round.cut_short.len())),
            spread(rounds.iter().map(|round| round.cut.len())),
        );
        line.unwrap();
    }
    text + &format!(
        "{} short calls, {} echoes on long connections; the slowest call that was answered took {} ms\n",
        load.calls,
        load.echoes,
        load.slowest_us / 1000
    )
}

fn spread(counts: impl Iterator<Item = usize>) -> String {
    let counts: Vec<usize> = counts.collect();
    let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    if least == most { format!("{least}") } else { format!("{least} to {most}") }
}

/// Fails with what failed, the first of it, where anything did.
pub(super) fn none(what: &str, outcomes: &[Outcome], which: impl Fn(&Outcome) -> &[Failure]) -> Result<()> {
    /// Enough to see of what kind they are.
    const SHOWN: usize = 8;
    for outcome in outcomes {
        let found = which(outcome);
        let shown = found.get(..SHOWN.min(found.len())).unwrap_or_default();
        ensure!(found.is_empty(), "{}: {what}, but {} did: {shown:#?}", outcome.what, found.len());
    }
    Ok(())
}
