//! An ordinary roll-out: ten new pods, ten gone, one after the other, under 500 calls a second that are never tried again.
//!
//! The server does what servers do on SIGTERM: accepts what its queue holds, closes its listener at once, finishes what is in
//! flight. It gets the signal at the very moment that its pod is told to go: nobody has heard of it yet.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod, clock,
    comings::Stands,
    peer::{
        app::Served,
        load::{Failure, Load},
    },
    process::Process,
};
use rustix::process::Signal;

use super::{FEW, MANY, load::Callers};
use crate::scene::{self, CALL};

/// How many are new, and how many go.
const PODS: usize = 10;

/// Short calls a second of each of the two callers.
const RATE: u32 = 250;

/// How long an answer takes, in milliseconds: at SIGTERM some are in flight.
const TAKES: &str = "20";

/// How long before and after its close a listener may have reset who was in its queue, in microseconds, as its caller sees it.
const AT_CLOSE: std::ops::Range<u64> = 2_000..50_000;

/// Between two that go where there is no mesh: with it, the next one is made meanwhile.
const BETWEEN: Duration = Duration::from_millis(250);

fn pause(time: Duration) -> Result<()> {
    let until = clock::now() + time;
    clock::until(time * 10, "the load goes on", || {
        ensure!(clock::now() >= until);
        Ok(())
    })?;
    Ok(())
}

/// How near to its close a listener may refuse a connect that was drawn to it while it was open, in microseconds: the kernel looks a
/// backend up some 30 us before its SYN arrives there.
const INSTANT: u64 = 2_000;

/// Two generations of ten servers, each half on one node and half on the other; the second is not there yet.
fn plan() -> Plan {
    let half = |node: &str, caller: &str| {
        let server = |generation: &str, n: usize| Pod::new(&format!("shop/{generation}-{node}{n}")).app("web");
        let older = (0..PODS / 2).map(|n| server("older", n));
        let newer = (0..PODS / 2).map(|n| server("newer", n).later());
        older.chain(newer).chain([Pod::new(caller)]).collect::<Vec<_>>()
    };
    Plan::new("roll-out")
        .node("a", half("a", "shop/client"))
        .node("b", half("b", "shop/caller"))
        .service("shop/web", &[(80, 8080)])
}

/// The servers of a generation, from one node and the other in turn.
fn servers(generation: &str) -> Vec<String> {
    (0..PODS).map(|n| format!("shop/{generation}-{}{}", if n % 2 == 0 { "a" } else { "b" }, n / 2)).collect()
}

fn serve(lab: &Lab, pod: &str) -> Result<Process> {
    let program = lab.binaries().path("probe-peer")?.display().to_string();
    let mut process = lab.pod(pod)?.start("app", &[&program, "app", "[::]:8080", "--takes-ms", TAKES])?;
    process.says("listening", CALL)?;
    Ok(process)
}

/// Tells a server to end and waits until it has; what it did.
fn end(mut server: Process) -> Result<Served> {
    server.signal(Signal::TERM)?;
    ensure!(server.wait(CALL)?.success(), "a server ends in order: {}", server.errors());
    let said = server.output();
    Ok(serde_json::from_str(said.lines().last().context("it says what it did")?)?)
}

/// What became of the calls of one or more roll-outs.
#[derive(Debug, Default)]
struct Found {
    calls: u64,
    closes: usize,
    accepted_late: u64,
    /// Reset by the kernel in a queue that was being closed: no server accepted them, and it sent as many resets at that moment.
    in_queue: Vec<Failure>,
    /// Refused in the instant of a close.
    at_close: Vec<Failure>,
    others: Vec<Failure>,
    /// What failed beyond those that callers tell one by one.
    untold: u64,
    slowest_us: u64,
}

fn is_instant(one: &Served, us: u64) -> bool {
    (one.closing_us.saturating_sub(INSTANT)..one.closed_us + INSTANT).contains(&us)
}

impl Found {
    /// Tells what the kernel reset in a queue from what failed otherwise.
    fn of(load: Load, served: &[Served]) -> Self {
        let mut resets: Vec<u64> = served.iter().map(|one| one.resets).collect();
        let mut found = Self {
            calls: load.calls,
            closes: served.len(),
            accepted_late: served.iter().map(|one| one.accepted_late).sum(),
            slowest_us: load.slowest_us,
            untold: load.n_failed.saturating_sub(load.failed.len() as u64),
            ..Self::default()
        };
        for failure in load.failed {
            let at = |one: &Served| {
                (one.closing_us.saturating_sub(AT_CLOSE.start)..one.closed_us + AT_CLOSE.end)
                    .contains(&failure.ended_us)
            };
            let is_reset = failure.what.ends_with("ConnectionReset") || failure.what.ends_with("BrokenPipe");
            // An address of its own says that the connection was there; not to have been accepted, that it waited in the queue.
            let waited = |one: &Served| failure.local.is_some_and(|local| !one.callers.contains(&local));
            let reset =
                served.iter().zip(&mut resets).find(|(one, left)| is_reset && **left > 0 && at(one) && waited(one));
            if let Some((_, left)) = reset {
                *left -= 1;
                found.in_queue.push(failure);
            } else if failure.what == "connect: ConnectionRefused"
                && served.iter().any(|one| is_instant(one, failure.ended_us))
            {
                found.at_close.push(failure);
            } else {
                found.others.push(failure);
            }
        }
        found
    }

    /// How many failed in no way that a closing listener explains.
    fn n_failed(&self) -> u64 {
        self.others.len() as u64 + self.untold
    }

    fn and(mut self, other: Self) -> Self {
        let Self { calls, closes, accepted_late, in_queue, at_close, others, untold, slowest_us } = other;
        self.calls += calls;
        self.closes += closes;
        self.accepted_late += accepted_late;
        self.in_queue.extend(in_queue);
        self.at_close.extend(at_close);
        self.others.extend(others);
        self.untold += untold;
        self.slowest_us = self.slowest_us.max(slowest_us);
        self
    }

    fn line(&self, what: &str) -> String {
        format!(
            "| {what} | {} | {} | {} | {} | {} | {} | {} ms |",
            self.closes,
            self.calls,
            self.n_failed(),
            self.in_queue.len(),
            self.at_close.len(),
            self.accepted_late,
            self.slowest_us / 1000
        )
    }
}

const HEAD: &str = "| roll-outs | listeners closed | calls answered | failed | reset by the kernel in a closing queue | refused in the instant of a close | accepted after SIGTERM | slowest |\n|---|---|---|---|---|---|---|---|";

/// A call that failed, the close that was nearest to it, and what the mesh's processes wrote of it.
fn told(lab: &Lab, failure: &Failure, served: &[Served]) -> String {
    /// Lines of each log.
    const LINES: usize = 6;
    let near = served.iter().min_by_key(|one| one.closed_us.abs_diff(failure.ended_us));
    let near = near.map(|one| {
        let Served { closing_us, closed_us, resets, accepted, accepted_late, answered, broken, .. } = one;
        let after = i128::from(failure.ended_us) - i128::from(*closed_us);
        format!("{after} us after a close of {} us that sent {resets} resets; {accepted} were accepted there, {accepted_late} late, {answered} answered, {broken} broken", closed_us - closing_us)
    });
    let port = failure.local.map_or_else(|| "no port".to_owned(), |local| format!(":{}", local.port()));
    let logs = std::fs::read_dir(lab.directory().join("logs")).into_iter().flatten().flatten();
    let lines: Vec<String> = logs
        .flat_map(|log| {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let name = log.file_name().display().to_string();
            let found = text.lines().filter(|line| line.contains(&port)).rev().take(LINES);
            found.map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
        })
        .collect();
    format!("{failure:?}, {}\n{}", near.unwrap_or_default(), lines.join("\n"))
}

/// One roll-out after the other, each generation after the other.
fn with_mesh(rounds: usize) -> Result<Found> {
    let mut found = Found::default();
    let mut outcome = Ok(());
    scene::mesh(&plan(), |lab| {
        let mut names = (servers("older"), servers("newer"));
        let mut running: Vec<(String, Process, u32)> =
            names.0.iter().map(|name| Ok((name.clone(), serve(lab, name)?, 0))).collect::<Result<_>>()?;
        let callers = Callers::start(lab, &["web:80".to_owned()], RATE, 0)?;
        let mut served = Vec::new();
        for round in 1..=u32::try_from(rounds)? {
            let mut newer = Vec::new();
            for (name, (older, process, life)) in names.1.iter().zip(running) {
                lab.create_pod(name, round)?;
                newer.push((name.clone(), serve(lab, name)?, round));
                lab.tell_pod(name, round, Stands::Ready)?;
                lab.settle()?; // A roll-out waits until the new one is available.
                lab.tell_pod(&older, life, Stands::Going)?;
                served.push(end(process)?);
                lab.delete_pod(&older, life)?;
            }
            running = newer;
            names = (names.1, names.0);
        }
        let load = callers.end()?;
        for (_, process, _) in running {
            end(process)?;
        }
        found = Found::of(load, &served);
        if found.n_failed() > 0 {
            let told: Vec<String> = found.others.iter().take(8).map(|one| told(lab, one, &served)).collect();
            outcome = Err(anyhow::anyhow!("no call fails, but:\n{}", told.join("\n")));
        }
        Ok(())
    });
    println!("{HEAD}\n{}", found.line("with Millrace"));
    outcome.map(|()| found)
}

/// The same servers, told to end the same way, called by their own addresses: the mesh is not there, and nobody is told to go.
fn without_mesh(rounds: usize) -> Result<Found> {
    let mut found = Found::default();
    for _ in 0..rounds {
        scene::plain(&plan(), |lab| {
            let names = servers("older");
            let targets: Vec<String> =
                names.iter().map(|name| Ok(lab.pod(name)?.at(8080).to_string())).collect::<Result<_>>()?;
            let running: Vec<Process> = names.iter().map(|name| serve(lab, name)).collect::<Result<_>>()?;
            let callers = Callers::start(lab, &targets, RATE, 0)?;
            let mut served = Vec::new();
            for process in running {
                pause(BETWEEN)?;
                served.push(end(process)?);
            }
            found = std::mem::take(&mut found).and(Found::of(callers.end()?, &served));
            Ok(())
        });
    }
    println!("{HEAD}\n{}", found.line("without a mesh"));
    Ok(found)
}

fn roll_outs(rounds: usize) {
    let bare = without_mesh(rounds).unwrap();
    let found = with_mesh(rounds).unwrap();
    assert!(found.calls > 0 && bare.calls > 0, "there were calls");
    assert!(found.at_close.len() <= found.closes / 10, "refused in the instant of a close: {:?}", found.at_close);
    // A queue that is closed with somebody in it is the server's own doing: the mesh must not make it more than a little likelier.
    let (ours, theirs) = (found.in_queue.len(), bare.in_queue.len());
    assert!(ours <= theirs + found.closes / 2, "{ours} were reset in closing queues, {theirs} without a mesh");
}

#[test]
fn a_roll_out_fails_no_call() {
    roll_outs(FEW);
}

#[test]
#[ignore = "long: twenty roll-outs, four minutes"]
fn twenty_roll_outs_fail_no_call() {
    roll_outs(MANY);
}
