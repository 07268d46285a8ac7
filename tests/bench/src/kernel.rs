//! The figures within a node: with the mesh and without, pair by pair; and what each kernel program costs on each path.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cross_node::Session,
    figure::{Better, Figure, Goal},
    load::{Load, Measured},
    rounds::Contest,
    serve::{ECHO, SINK},
    stage::Route,
};

/// Pairs of a figure within a node.
pub const PAIRS: usize = 21;

/// Load before anything is counted.
const WARM: Duration = Duration::from_millis(150);

/// A window: many and short ones say more than few and long ones on a machine that drifts.
const WINDOW: Duration = Duration::from_millis(600);

/// One figure within the node.
struct Kind {
    name: &'static str,
    unit: &'static str,
    goal: Goal,
    port: u16,
    load: Load,
    value: fn(&Measured) -> f64,
}

/// All of them.
const KINDS: [Kind; 3] = [
    Kind {
        name: "kernel.throughput",
        unit: "Gbit/s",
        goal: Goal::at_least(0.97, 1.0).by_interval(),
        port: SINK,
        load: Load::Bulk { streams: 1 },
        value: |m| m.bytes * 8.0 / m.seconds / 1e9,
    },
    Kind {
        name: "kernel.rtt64-p50",
        unit: "us",
        goal: Goal::at_most(1.05, 1.0).by_interval(),
        port: ECHO,
        load: Load::Ping,
        value: |m| m.p50_us,
    },
    Kind {
        name: "kernel.connects",
        unit: "connections/s",
        goal: Goal::at_least(0.85, 0.95).by_interval(),
        port: ECHO,
        load: Load::Short { at_once: 16 },
        value: |m| m.operations / m.seconds,
    },
];

/// The names of the figures here.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

impl Session<'_> {
    /// The figure of this name, and its further row.
    pub fn kernel(&mut self, name: &str) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.name == name) {
            let contest = Contest {
                what: kind.name,
                port: kind.port,
                load: kind.load,
                times: [WARM, WINDOW],
                n_rounds: self.n_rounds.unwrap_or(PAIRS),
            };
            let routes = [Route::NearDirect, Route::NearMesh, Route::NearService];
            let rounds = contest.run(self.stage, &routes, &mut self.surroundings)?;
            let none = rounds.of(Route::NearDirect, kind.value);
            let figure = |goal: Goal, route: Route| {
                Figure::compared(kind.name, kind.unit, goal, &rounds.of(route, kind.value), &none).against("no mesh")
            };
            let (better, by_address) = (kind.goal.better, figure(kind.goal, Route::NearMesh));
            figures.push(by_address.case("by pod address"));
            let by_service: fn(Better) -> Goal = Goal::none;
            figures.push(figure(by_service(better), Route::NearService).case("by service"));
        }
        Ok(figures)
    }
}
