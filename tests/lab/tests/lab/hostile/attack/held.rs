//! A workload that may have so much of processors and no more, and what its neighbours notice when it asks for ten times that.
//!
//! Turns alone can't keep a neighbour's calls short: who takes what nobody wants at the moment takes both cores, and all others then wait
//! at the kernel's scheduler. With a limit its share is what the limit lets through: it is asked for as fast as connections can, by eight of them
//! and by eighty, and at a rate, once what the limit gives and ten times that.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Part, clock, peer::latency::Latency};
use serde_json::{Value, json};

use super::{
    in_lab, neighbour,
    share::{Busily, Load, beside, echo, in_force, median},
};

/// Connections of a workload that takes its share; who takes ten times that has ten times as many.
const SHARE: usize = 8;

/// What a workload may have of its node's proxy, its share: so that two nodes' proxies and its own applications leave some of two cores to
/// others. Eight busy connections have more than half of a core at each end where nothing holds them; the neighbours need half as much.
const LIMIT: &str = "150m";

/// Less than any machine gives 80 busy connections, and more than 25 calls a second of a neighbour need.
const LITTLE: &str = "100m";
const LITTLE_PART: f64 = 0.1;

fn profile(cpu: &str) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "NodeProfile",
        "metadata": {"name": "held"},
        "spec": {"workloadLimits": {"cpu": cpu}},
    })
}

/// Has every workload held to so much; None: to nothing.
fn hold(lab: &Lab, cpu: Option<&str>) -> Result<()> {
    match cpu {
        Some(cpu) => drop(lab.apply(&profile(cpu))?),
        None => lab.remove(&profile(""))?,
    }
    in_force(lab, "spec.workloadLimits.cpu", cpu.unwrap_or("no limit"))
}

/// What workloads have had of their nodes' proxies: processor time, and time that they were held back, in seconds.
#[derive(Clone, Copy, Debug)]
struct Had {
    cpu: f64,
    throttled: f64,
}

/// Of the workload that is busy, at either end, and of its neighbours.
fn had(lab: &Lab) -> Result<[Had; 4]> {
    let (a, b) = (lab.admin(Part::Proxy("a")).metrics()?, lab.admin(Part::Proxy("b")).metrics()?);
    let all = [(&a, "shop/near"), (&b, "shop/far"), (&a, "shop/client"), (&b, "shop/caller")];
    Ok(all.map(|(metrics, workload)| {
        let of = |name| metrics.sum(name, &[("workload", workload)]);
        Had {
            cpu: of("millrace_proxy_workload_cpu_seconds_total"),
            throttled: of("millrace_proxy_workload_throttled_seconds_total"),
        }
    }))
}

/// What they have had since.
fn since(lab: &Lab, before: [Had; 4]) -> Result<[Had; 4]> {
    let mut now = had(lab)?;
    for (now, before) in now.iter_mut().zip(before) {
        *now = Had { cpu: now.cpu - before.cpu, throttled: now.throttled - before.throttled };
    }
    Ok(now)
}

/// By the proxies' own accounts, on a machine of any speed: held to its limit while it is there, at both ends, and not before or after.
#[test]
fn a_crowd_has_what_its_limit_gives_and_its_neighbours_are_not_held_back() {
    in_lab("held", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let pace = Duration::from_millis(40);
        let busy = Busily::begin(lab, Load { count: 10 * SHARE, each: None })?;
        let before = had(lab)?;
        neighbour(lab, 25, pace)?;
        let free = since(lab, before)?;
        println!("without a limit: {free:?}");
        ensure!(free.iter().all(|had| had.throttled == 0.0), "nobody is held back without a limit: {free:?}");
        ensure!(
            free.iter().all(|had| had.cpu > 0.0),
            "what a workload has had is counted without a limit too: {free:?}"
        );

        hold(lab, Some(LITTLE))?;
        let (began, before) = (clock::now(), had(lab)?);
        let called = neighbour(lab, 75, pace)?;
        let held = since(lab, before)?;
        let may = clock::now().saturating_duration_since(began).as_secs_f64() * LITTLE_PART;
        println!("with {LITTLE}: {held:?}, which may have had {may:.3} s each; {called:?}");
        ensure!(called.failed == 0, "a neighbour's calls fail: {called:?}");
        let [near, far, client, caller] = held;
        for (name, had) in [("near", near), ("far", far)] {
            // The bucket was full at first, and each of some workers may have drawn one poll too much.
            ensure!(had.cpu < may + 0.03, "{name} has had {had:?} where {may:.3} s were given");
        }
        // Which of the two ends comes to its limit first is who holds the other back.
        let both = near.throttled + far.throttled;
        ensure!(both > 1.0, "80 busy connections were held back {both:.3} s of three");
        ensure!(client.throttled + caller.throttled < both / 10.0, "the neighbours are held back: {held:?}");

        hold(lab, None)?;
        let before = had(lab)?;
        neighbour(lab, 25, pace)?;
        let free = since(lab, before)?;
        println!("without a limit again: {free:?}");
        // What was held back as the limit went is counted as it is let go.
        ensure!(free.iter().all(|had| had.throttled < 0.3), "somebody is held back without a limit: {free:?}");
        ensure!(busy.end()?.trips > 0, "the crowd was served");
        Ok(())
    });
}

/// A number of a round.
type Of = fn(&(Latency, u64)) -> u64;

/// How a workload is asked to be busy, and what is compared: its share, and ten times that.
struct Form {
    name: &'static str,
    limit: Option<&'static str>,
    loads: [Load; 2],
    /// Of p50 and p99, ten times to once, by rounds.
    ratios: [Vec<f64>; 2],
    seen: [Vec<(Latency, u64)>; 2],
}

impl Form {
    fn new(name: &'static str, limit: Option<&'static str>, each: Option<Duration>) -> Self {
        let loads = [SHARE, 10 * SHARE].map(|count| Load { count, each });
        Self { name, limit, loads, ratios: Default::default(), seen: Default::default() }
    }

    /// A round.
    fn measure(&mut self, lab: &Lab, count: u32, pace: Duration) -> Result<()> {
        let [share, ten] = self.loads;
        let found = [beside(lab, share, count, pace)?, beside(lab, ten, count, pace)?];
        let [(share, _), (ten, _)] = &found;
        println!("{}: {} / {}, {} / {}", self.name, share.p50_us, share.p99_us, ten.p50_us, ten.p99_us);
        for (ratios, (ten, share)) in
            self.ratios.iter_mut().zip([(ten.p50_us, share.p50_us), (ten.p99_us, share.p99_us)])
        {
            ratios.push(ten as f64 / share as f64);
        }
        for (seen, found) in self.seen.iter_mut().zip(found) {
            seen.push(found);
        }
        Ok(())
    }

    /// Its line of the table; the ratio of p99.
    fn told(&self) -> f64 {
        let spread = |seen: &[(Latency, u64)], of: Of| {
            let all = seen.iter().map(of);
            format!("{} to {}", all.clone().min().unwrap_or_default(), all.max().unwrap_or_default())
        };
        let Self { name, ratios, seen: [share, ten], .. } = self;
        let [p50, p99] = ratios.clone().map(median);
        let least = ratios[1].iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios[1].iter().copied().fold(0.0, f64::max);
        println!(
            "| {name} | p50 {} / {} | p99 {} / {} | trips {} / {} | {p50:.2} | {p99:.2} ({least:.2} to {most:.2}) |",
            spread(share, |(called, _)| called.p50_us),
            spread(ten, |(called, _)| called.p50_us),
            spread(share, |(called, _)| called.p99_us),
            spread(ten, |(called, _)| called.p99_us),
            spread(share, |(_, trips)| *trips),
            spread(ten, |(_, trips)| *trips),
        );
        p99
    }
}

/// How often each connection has a message where all of them ask for just what the limit gives.
fn rate_of_limit(lab: &Lab) -> Result<Duration> {
    hold(lab, Some(LIMIT))?;
    let (began, busy) = (clock::now(), Busily::begin(lab, Load { count: SHARE, each: None })?);
    neighbour(lab, 400, Duration::from_millis(5))?;
    let trips = busy.end()?.trips;
    let each = clock::now().saturating_duration_since(began).mul_f64(SHARE as f64 / trips as f64);
    println!("{LIMIT} gives {trips} round trips: one each {each:?} on each of {SHARE} connections");
    Ok(each)
}

#[test]
#[ignore = "long: four minutes of load in seven rounds, for the neighbours' p99; it wants a quiet machine"]
fn a_workload_at_ten_times_its_share_moves_its_neighbours_p99_by_less_than_half() {
    in_lab("shares", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let (count, pace) = (800, Duration::from_millis(5));
        let each = rate_of_limit(lab)?;
        let mut forms = [
            Form::new("held, as fast as they can", Some(LIMIT), None),
            Form::new("held, at a rate", Some(LIMIT), Some(each)),
            Form::new("not held, as fast as they can", None, None),
        ];
        let mut alone = Vec::new();
        for _ in 0..7 {
            alone.push(neighbour(lab, count, pace)?);
            for form in &mut forms {
                hold(lab, form.limit)?;
                form.measure(lab, count, pace)?;
            }
            hold(lab, Some(LIMIT))?;
        }
        let of = |of: fn(&Latency) -> u64| (alone.iter().map(of).min(), alone.iter().map(of).max());
        println!("alone: p50 {:?}, p99 {:?}", of(|called| called.p50_us), of(|called| called.p99_us));
        println!("near, far, client and caller have had {:?}", had(lab)?);
        let moved = forms.each_ref().map(Form::told);
        ensure!(moved[0] < 1.5, "with eighty connections for eight a neighbour's p99 moves by {:.2}", moved[0]);
        ensure!(moved[1] < 1.5, "at ten times the rate a neighbour's p99 moves by {:.2}", moved[1]);
        Ok(())
    });
}
