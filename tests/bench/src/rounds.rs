//! Measures round by round: in each, every contender once, each time another of them first, so that a machine which
//! drifts drifts for all of them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::{
    console,
    load::{Load, Measured},
    machine::{BUSY, others},
    stage::{Route, Stage},
    stats::median,
};

/// One load against one port, by several routes.
#[derive(Clone, Copy, Debug)]
pub struct Contest<'a> {
    /// What is said while it runs.
    pub what: &'a str,
    /// The server's port.
    pub port: u16,
    /// The load.
    pub load: Load,
    /// Load before anything is counted, and how long is counted.
    pub times: [Duration; 2],
    /// How many rounds.
    pub n_rounds: usize,
}

/// How the machine was while it was measured on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Surroundings {
    /// Rounds in all.
    pub rounds: usize,
    /// Rounds before which others used more than [`BUSY`] of the machine.
    pub busy_rounds: usize,
    /// The most that others used before a round.
    pub most_used_by_others: f64,
    /// The most of the machine that was stolen in a measurement.
    pub most_stolen: f64,
    /// The share that was stolen, in the mean.
    pub mean_stolen: f64,
    n_measured: usize,
}

impl Surroundings {
    pub(crate) fn before_round(&mut self) -> Result<()> {
        let others = others()?;
        self.rounds += 1;
        self.busy_rounds += usize::from(others > BUSY);
        self.most_used_by_others = self.most_used_by_others.max(others);
        Ok(())
    }

    fn measured(&mut self, measured: &Measured) {
        let stolen = measured.cpu.stolen();
        self.mean_stolen = (self.mean_stolen * self.n_measured as f64 + stolen) / (self.n_measured + 1) as f64;
        self.n_measured += 1;
        self.most_stolen = self.most_stolen.max(stolen);
    }

    /// Whether a reader should be warned.
    pub fn is_busy(&self) -> bool {
        self.busy_rounds > 0
    }
}

/// What every route did in every round.
#[derive(Debug, Default)]
pub struct Rounds {
    by_route: BTreeMap<String, Vec<Measured>>,
    given_up: Vec<Route>,
}

/// An Envoy did not answer as often as it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Behind(Route);

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} fell behind", self.0.name())
    }
}

impl Contest<'_> {
    /// Runs all rounds.
    pub fn run(&self, stage: &Stage, routes: &[Route], surroundings: &mut Surroundings) -> Result<Rounds> {
        let mut rounds = Rounds::default();
        for round in 0..self.n_rounds {
            console::progress(&format!("{}: round {} of {}", self.what, round + 1, self.n_rounds));
            surroundings.before_round()?;
            for place in 0..routes.len() {
                let Some(route) = routes.get((round + place) % routes.len()) else { continue };
                if rounds.given_up.contains(route) {
                    continue;
                }
                let measured = match stage.run(*route, self.port, self.load, self.times) {
                    // A further row that can't be had must not cost the figure.
                    Err(error) if matches!(route, Route::Haproxy | Route::NearHaproxy) => {
                        console::progress(&format!("{}: left out: {error:#}", route.name()));
                        rounds.given_up.push(*route);
                        continue;
                    }
                    Err(error) if route.is_envoy() && matches!(self.load, Load::Open { .. }) => {
                        return Err(error.context(Behind(*route)));
                    }
                    measured => measured?,
                };
                surroundings.measured(&measured);
                rounds.by_route.entry(route.name()).or_default().push(measured);
            }
        }
        Ok(rounds)
    }
}

impl Rounds {
    /// One value of each round of a route; none of one that was given up.
    pub fn of(&self, route: Route, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
        if self.given_up.contains(&route) {
            return Vec::new();
        }
        self.by_route.get(&route.name()).into_iter().flatten().map(value).collect()
    }

    /// What a unit of work cost the whole machine beyond what the same work cost `base` in the same round.
    pub fn cost_beyond(&self, route: Route, base: Route, cost: impl Fn(&Measured) -> f64 + Copy) -> Vec<f64> {
        self.of(route, cost).iter().zip(self.of(base, cost)).map(|(cost, base)| cost - base).collect()
    }
}

/// Of several, the one whose median is best.
pub fn best<'a, T>(all: &'a [(T, Vec<f64>)], is_better: impl Fn(f64, f64) -> bool) -> Option<&'a (T, Vec<f64>)> {
    let better = |a: &'a (T, Vec<f64>), b: &'a (T, Vec<f64>)| if is_better(median(&b.1), median(&a.1)) { b } else { a };
    all.iter().reduce(better)
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_best_of_a_cost_is_the_least_by_its_median() {
        let all = [("one", vec![3.0, 3.0, 0.1]), ("two", vec![2.0, 2.0, 9.0])];
        assert_eq!(best(&all, |a, b| a < b).map(|found| found.0), Some("two"));
        assert_eq!(best(&all, |a, b| a > b).map(|found| found.0), Some("one"));
    }
}
