//! The figures between two nodes: ours against two Envoys, with two haproxys and no mesh as further rows.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    console,
    figure::{Better, Figure, Goal},
    load::{Load, Measured},
    peer::envoy::Way,
    rounds::{Behind, Contest, Rounds, Surroundings, best},
    serve::{ECHO, HTTP, SINK},
    stage::{Route, Stage},
    stats::median,
};

/// What is measured, and how long.
#[derive(Debug)]
pub struct Session<'s> {
    /// The labs.
    pub stage: &'s Stage,
    /// How many rounds, where it is not the figure's own number.
    pub n_rounds: Option<usize>,
    /// How the machine was.
    pub surroundings: Surroundings,
}

/// Rounds of a figure between nodes.
pub const ROUNDS: usize = 7;

/// Connections of an HTTP load.
pub(crate) const CONNECTIONS: usize = 64;

/// Load before anything is counted: windows and buffers have grown, tunnels stand.
pub(crate) const WARM: Duration = Duration::from_millis(400);

/// A window for a rate.
pub(crate) const WINDOW: Duration = Duration::from_millis(1500);

/// A window at 1,000 requests a second: 3,500 samples, 35 above their p99.
const SLOW: Duration = Duration::from_millis(3500);

/// From the end of the loads until memory is looked at.
pub(crate) const REST: Duration = Duration::from_secs(12);

/// Of one core, what must be idle at the rate at which latency is compared.
const IDLE: f64 = 1.0 / 3.0;

/// So much above the rate of the rounds is what an Envoy must hold when that is looked for.
const MARGIN: f64 = 1.15;

/// How often what is left to look through is halved: to a sixteenth of what was asked for.
const HALVINGS: usize = 4;

/// Of the rate, what is left when an Envoy has fallen behind in a round all the same.
const LOWER: f64 = 0.8;

/// How often that may be: an Envoy that holds less than a third of what it held before is not what is to be measured.
const LOWERED: usize = 5;

/// A figure's samples of one route.
pub(crate) type Samples = (Route, Vec<f64>);

impl Session<'_> {
    pub(crate) fn rounds(&mut self, contest: &Contest<'_>, routes: &[Route]) -> Result<Rounds> {
        contest.run(self.stage, routes, &mut self.surroundings)
    }

    pub(crate) fn n_rounds(&self) -> usize {
        self.n_rounds.unwrap_or(ROUNDS)
    }

    fn envoys(&self, way: Way) -> Vec<Route> {
        self.stage.envoys().into_iter().map(|n_workers| Route::Envoy(n_workers, way)).collect()
    }

    /// Ours, the Envoys, the haproxys and none.
    fn everybody(&self, way: Way) -> Vec<Route> {
        let mut routes = vec![Route::Direct, Route::Mesh];
        routes.extend(self.envoys(way));
        routes.extend(self.stage.has_haproxy().then_some(Route::Haproxy));
        routes
    }

    /// `cross-node.throughput` and `cross-node.cpu-per-gb`: the same runs.
    pub fn bulk(&mut self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (streams, case) in [(1, "1 stream"), (4, "4 streams")] {
            let what = format!("cross-node.throughput, {case}");
            let load = Load::Bulk { streams };
            let contest = Contest { what: &what, port: SINK, load, times: [WARM, WINDOW], n_rounds: self.n_rounds() };
            let routes = self.everybody(Way::Tcp);
            let rounds = self.rounds(&contest, &routes)?;
            let rate = |m: &Measured| m.bytes * 8.0 / m.seconds / 1e9;
            let cost = |m: &Measured| m.cpu.busy / (m.bytes / 1e9);
            let rates = |route: &Route| (*route, rounds.of(*route, rate));
            let costs = |route: &Route| (*route, rounds.cost_beyond(*route, Route::Direct, cost));
            let all: Vec<Samples> = routes.iter().map(rates).collect();
            figures.extend(against_all("cross-node.throughput", "Gbit/s", Goal::at_least(1.2, 1.6), &all, case)?);
            let all: Vec<Samples> = routes.iter().filter(|route| **route != Route::Direct).map(costs).collect();
            figures.extend(against_all("cross-node.cpu-per-gb", "CPU-s/GB", Goal::at_most(0.8, 0.6), &all, case)?);
        }
        Ok(figures)
    }

    /// `cross-node.rtt64-added-p50`.
    pub fn round_trips(&mut self) -> Result<Vec<Figure>> {
        let contest = Contest {
            what: "cross-node.rtt64-added-p50",
            port: ECHO,
            load: Load::Ping,
            times: [WARM, WINDOW],
            n_rounds: self.n_rounds(),
        };
        let routes = self.everybody(Way::Tcp);
        let rounds = self.rounds(&contest, &routes)?;
        let p50 = |m: &Measured| m.p50_us;
        let added = |route: &Route| (*route, rounds.cost_beyond(*route, Route::Direct, p50));
        let all: Vec<Samples> = routes.iter().filter(|route| **route != Route::Direct).map(added).collect();
        let direct = median(&rounds.of(Route::Direct, p50));
        let mut figures = against_all("cross-node.rtt64-added-p50", "us", Goal::at_most(0.9, 0.7), &all, "")?;
        for figure in figures.iter_mut().take(1) {
            *figure = figure.clone().note(&format!("beyond the {direct:.0} us of no mesh"));
        }
        Ok(figures)
    }

    /// `cross-node.short`.
    pub fn short(&mut self) -> Result<Vec<Figure>> {
        let contest = Contest {
            what: "cross-node.short",
            port: ECHO,
            load: Load::Short { at_once: 16 },
            times: [WARM, WINDOW],
            n_rounds: self.n_rounds(),
        };
        let routes = self.everybody(Way::Tcp);
        let rounds = self.rounds(&contest, &routes)?;
        let all: Vec<Samples> = routes.iter().map(|route| (*route, rounds.of(*route, per_second))).collect();
        against_all("cross-node.short", "connections/s", Goal::at_least(3.5, 6.0), &all, "")
    }

    /// `cross-node.http-cpu`.
    pub fn http_cpu(&mut self) -> Result<Vec<Figure>> {
        let contest = Contest {
            what: "cross-node.http-cpu",
            port: HTTP,
            load: Load::Http { connections: CONNECTIONS },
            times: [WARM, WINDOW],
            n_rounds: self.n_rounds(),
        };
        let mut routes = self.everybody(Way::Http);
        routes.extend(self.envoys(Way::Tcp));
        let rounds = self.rounds(&contest, &routes)?;
        let cost = |m: &Measured| m.cpu.busy / m.operations * 1e6;
        let of = |routes: &[Route]| -> Vec<Samples> {
            let beyond = |route: &Route| (*route, rounds.cost_beyond(*route, Route::Direct, cost));
            routes.iter().filter(|route| **route != Route::Direct).map(beyond).collect()
        };
        let mut figures = against_all(
            "cross-node.http-cpu",
            "us/request",
            Goal::at_most(0.2, 0.1),
            &of(&self.everybody(Way::Http)),
            "",
        )?;
        // Like beside like: Envoys that parse as little as we do.
        let ours = rounds.cost_beyond(Route::Mesh, Route::Direct, cost);
        for route in self.envoys(Way::Tcp) {
            let theirs = rounds.cost_beyond(route, Route::Direct, cost);
            figures.push(further(("cross-node.http-cpu", "us/request", Better::Lower), (&ours, &theirs), route, ""));
        }
        Ok(figures)
    }

    /// `cross-node.latency-1k` and `-5k`.
    pub fn latency(&mut self, asked: u32) -> Result<Vec<Figure>> {
        let name = format!("cross-node.latency-{}k", asked / 1000);
        let mut routes = vec![Route::Direct, Route::Mesh];
        routes.extend(self.envoys(Way::Http));
        self.latency_of((&name, Goal::at_most(0.7, 0.5)), asked, &routes)
    }

    /// p50 and p99 at a fixed rate by these routes. Where an Envoy falls behind in a round, all begins again at a lower rate.
    pub(crate) fn latency_of(
        &mut self,
        (name, goal): (&str, Goal),
        asked: u32,
        routes: &[Route],
    ) -> Result<Vec<Figure>> {
        let (mut rate, held) = self.rate_held(asked, routes)?;
        let window = if asked <= 1000 { SLOW } else { WINDOW };
        // One that falls behind has no latency but its queue's.
        let routes: Vec<Route> =
            routes.iter().copied().filter(|route| !route.is_envoy() || held.contains(route)).collect();
        let mut n_lowered = 0;
        let rounds = loop {
            let contest = Contest {
                what: &format!("{name}, {rate}/s"),
                port: HTTP,
                load: Load::Open { connections: CONNECTIONS, rate },
                times: [WARM, window],
                n_rounds: self.n_rounds(),
            };
            match self.rounds(&contest, &routes) {
                Err(error) if error.is::<Behind>() && n_lowered < LOWERED => {
                    console::progress(&format!("{name}: {error:#}"));
                    (rate, n_lowered) = (scaled(rate, LOWER), n_lowered + 1);
                }
                rounds => break rounds?,
            }
        };
        let mut figures = Vec::new();
        for (case, value) in [("p50", (|m| m.p50_us) as fn(&Measured) -> f64), ("p99", |m| m.p99_us)] {
            let all: Vec<Samples> = routes.iter().map(|route| (*route, rounds.of(*route, value))).collect();
            let mut found = against_all(name, "us", goal, &all, case)?;
            if rate != asked {
                let why = format!("at {rate}/s: no Envoy holds {asked}/s with a third of a core idle");
                found = found.into_iter().map(|figure| figure.note(&why)).collect();
            }
            figures.extend(found);
        }
        Ok(figures)
    }

    /// The rate asked for, or about the highest below it that the better Envoys hold with a third of a core idle, and which of them do. It is
    /// looked for at a higher one, by [`MARGIN`]: what is held once is not held in every round.
    fn rate_held(&self, asked: u32, routes: &[Route]) -> Result<(u32, Vec<Route>)> {
        let envoys: Vec<Route> = routes.iter().copied().filter(|route| route.is_envoy()).collect();
        let holding = |rate: u32| -> Vec<Route> {
            console::progress(&format!("who holds {rate}/s?"));
            let load = Load::Open { connections: CONNECTIONS, rate: scaled(rate, MARGIN) };
            let holds = |route: &Route| {
                let measured = self.stage.run(*route, HTTP, load, [WARM, WINDOW]);
                measured.is_ok_and(|measured| measured.cpu.idle / measured.seconds >= IDLE)
            };
            envoys.iter().copied().filter(holds).collect()
        };
        let held = holding(asked);
        if !held.is_empty() {
            return Ok((asked, held));
        }
        // The lower end is known to be held, the upper one not to be.
        let (mut low, mut high, mut found) = (asked / 10, asked, Vec::new());
        for _ in 0..HALVINGS {
            let middle = low.midpoint(high);
            let held = holding(middle);
            if held.is_empty() {
                high = middle;
            } else {
                (low, found) = (middle, held);
            }
        }
        if found.is_empty() {
            found = holding(low);
        }
        ensure!(
            !found.is_empty(),
            "the Envoys hold not even {low}/s with a third of a core idle: others may be using the machine"
        );
        Ok((low, found))
    }

    /// `cross-node.memory`: idle, as they started, and after a run of every load.
    pub fn memory(&mut self) -> Result<Vec<Figure>> {
        // Idle is who has begun and been left alone for as long as after a load.
        std::thread::sleep(REST);
        let mut figures = self.memory_now("idle")?;
        let loads = [
            (SINK, Load::Bulk { streams: 4 }, Way::Tcp),
            (ECHO, Load::Short { at_once: 16 }, Way::Tcp),
            (HTTP, Load::Http { connections: CONNECTIONS }, Way::Http),
        ];
        for (port, load, way) in loads {
            for route in self.envoys(way).into_iter().chain([Route::Mesh]) {
                self.stage.run(route, port, load, [WARM, WINDOW])?;
            }
        }
        // Both sides give freed memory back a few seconds after a load.
        std::thread::sleep(REST);
        figures.extend(self.memory_now("after the run")?);
        Ok(figures)
    }

    fn memory_now(&self, case: &str) -> Result<Vec<Figure>> {
        let parts = self.stage.memory()?;
        let resident: f64 = parts.iter().map(|(_, memory)| memory.resident).sum();
        let proportional: f64 = parts.iter().map(|(_, memory)| memory.proportional).sum();
        let each: Vec<String> = parts.iter().map(|(name, memory)| format!("{name} {:.1}", memory.resident)).collect();
        let envoys = self.stage.envoys_memory()?;
        let (n_workers, least) = envoys
            .iter()
            .min_by(|a, b| a.1.resident.total_cmp(&b.1.resident))
            .context("no Envoy runs: set up with `cargo xtask bench`")?;
        let (goal, name) = (Goal::at_most(0.5, 0.25), "cross-node.memory");
        let whom = Route::Envoy(*n_workers, Way::Tcp).name();
        let whom = whom.trim_end_matches(" (TCP)");
        let figure = Figure::compared(name, "MiB", goal, &[resident], &[least.resident]).case(case).against(whom);
        let further = Figure::compared(name, "MiB", Goal::none(Better::Lower), &[proportional], &[least.proportional]);
        let further = further.case(case).against(&format!("{whom}, shared pages by their share"));
        Ok(vec![figure.note(&format!("both nodes: {}", each.join(", "))), further])
    }
}

fn scaled(rate: u32, by: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of some thousands")]
    let scaled = (f64::from(rate) * by) as u32;
    scaled
}

fn per_second(measured: &Measured) -> f64 {
    measured.operations / measured.seconds
}

/// The figure, ours against the better Envoys, and further rows against everybody else.
pub(crate) fn against_all(name: &str, unit: &str, goal: Goal, all: &[Samples], case: &str) -> Result<Vec<Figure>> {
    let (envoys, others): (Vec<&Samples>, Vec<&Samples>) = all.iter().partition(|(route, _)| route.is_envoy());
    let ours = others.iter().find(|(route, _)| route.is_ours()).context("ours is measured")?;
    let envoys: Vec<Samples> = envoys.into_iter().cloned().collect();
    let is_better = |a, b| match goal.better {
        Better::Higher => a > b,
        Better::Lower => a < b,
    };
    let (peer, theirs) = best(&envoys, is_better).context("no Envoy runs: set up with `cargo xtask bench`")?;
    let mut figures = vec![Figure::compared(name, unit, goal, &ours.1, theirs).case(case).against(&peer.name())];
    for (route, samples) in
        all.iter().filter(|(route, samples)| route != peer && !route.is_ours() && !samples.is_empty())
    {
        figures.push(further((name, unit, goal.better), (&ours.1, samples), *route, case));
    }
    Ok(figures)
}

/// A further row: nothing is required of it.
fn further(
    (name, unit, better): (&str, &str, Better),
    (ours, theirs): (&[f64], &[f64]),
    route: Route,
    case: &str,
) -> Figure {
    Figure::compared(name, unit, Goal::none(better), ours, theirs).case(case).against(&route.name())
}
