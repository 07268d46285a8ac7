//! The figures of requests that the mesh parses: within a node against one Envoy, between nodes against two, which carry requests
//! alone. Whoever is measured routes every request to one backend.

use anyhow::{Context as _, Result};

use crate::{
    cross_node::{CONNECTIONS, REST, Samples, Session, WARM, WINDOW, against_all},
    figure::{Figure, Goal},
    load::{Load, Measured},
    peer::envoy::Way,
    recorded,
    rounds::Contest,
    serve::{HTTP, HTTP2},
    stage::Route,
};

/// Streams of an HTTP/2 load.
const STREAMS: usize = 100;

/// Those that one measurement yields.
pub const NAMES: [&str; 9] = [
    "http1.two-nodes.memory", // First, while nothing has run yet.
    "http1.one-hop.cpu",
    "http1.one-hop.latency-5k",
    "http1.two-nodes.cpu",
    "http1.two-nodes.latency-1k",
    "http1.two-nodes.latency-5k",
    "http2.two-nodes.cpu",
    "grpc.two-nodes.cpu",
    recorded::NAME,
];

/// CPU of one kind of requests: by which routes, and beyond which.
struct Cost {
    name: &'static str,
    goal: Goal,
    port: u16,
    load: Load,
    base: Route,
    routes: Vec<Route>,
}

/// The floor too, as a further row.
fn with(floor: Route, mut routes: Vec<Route>) -> Vec<Route> {
    routes.push(floor);
    routes
}

impl Session<'_> {
    /// The figure of this name, one of [`NAMES`], and its further rows.
    pub fn requests(&mut self, name: &str) -> Result<Vec<Figure>> {
        let load = Load::Http { connections: CONNECTIONS };
        match name {
            "http1.two-nodes.memory" => self.requests_memory(),
            recorded::NAME => self.recorded(),
            // The aim is 1.2 of haproxy's, whose row stands below.
            "http1.one-hop.cpu" => self.cost(&Cost {
                name: "http1.one-hop.cpu",
                goal: Goal { aim: 0.25, ..Goal::at_most(0.35, 0.35) },
                port: HTTP,
                load,
                base: Route::NearDirect,
                routes: with(Route::NearBare, self.within()),
            }),
            "http1.one-hop.latency-5k" => {
                let routes = self.within();
                self.latency_of(("http1.one-hop.latency-5k", Goal::at_most(0.7, 0.4)), 5000, &routes)
            }
            "http1.two-nodes.cpu" => self.cost(&Cost {
                name: "http1.two-nodes.cpu",
                goal: Goal::at_most(0.25, 0.12),
                port: HTTP,
                load,
                base: Route::Direct,
                routes: with(Route::Bare, self.between(Way::Http)),
            }),
            "http1.two-nodes.latency-1k" => {
                let routes = self.between(Way::Http);
                self.latency_of(("http1.two-nodes.latency-1k", Goal::at_most(0.7, 0.4)), 1000, &routes)
            }
            "http1.two-nodes.latency-5k" => {
                let routes = self.between(Way::Http);
                self.latency_of(("http1.two-nodes.latency-5k", Goal::at_most(0.7, 0.4)), 5000, &routes)
            }
            "http2.two-nodes.cpu" => self.cost(&Cost {
                name: "http2.two-nodes.cpu",
                goal: Goal::at_most(0.4, 0.2),
                port: HTTP2,
                load: Load::Http2 { streams: STREAMS },
                base: Route::Direct,
                routes: with(Route::Bare, self.between(Way::Http2)),
            }),
            _ => self.cost(&Cost {
                name: "grpc.two-nodes.cpu",
                goal: Goal::at_most(0.4, 0.2),
                port: HTTP2,
                load: Load::Grpc { streams: STREAMS },
                base: Route::Direct,
                routes: with(Route::Bare, self.between(Way::Http2)),
            }),
        }
    }

    /// Everybody within a node.
    fn within(&self) -> Vec<Route> {
        let mut routes = vec![Route::NearDirect, Route::NearRouted];
        routes.extend(self.stage.requests_envoys().into_iter().map(Route::NearEnvoy));
        routes.extend(self.stage.has_haproxy().then_some(Route::NearHaproxy));
        routes
    }

    /// Everybody between nodes who parses.
    fn between(&self, way: Way) -> Vec<Route> {
        let mut routes = vec![Route::Direct, Route::Routed];
        routes.extend(self.stage.requests_envoys().into_iter().map(|n_workers| Route::Requests(n_workers, way)));
        routes
    }

    fn cost(&mut self, of: &Cost) -> Result<Vec<Figure>> {
        let contest =
            Contest { what: of.name, port: of.port, load: of.load, times: [WARM, WINDOW], n_rounds: self.n_rounds() };
        let rounds = self.rounds(&contest, &of.routes)?;
        let cost = |m: &Measured| m.cpu.busy / m.operations * 1e6;
        let beyond = |route: &Route| (*route, rounds.cost_beyond(*route, of.base, cost));
        let all: Vec<Samples> = of.routes.iter().filter(|route| **route != of.base).map(beyond).collect();
        against_all(of.name, "us/request", of.goal, &all, "")
    }

    /// `http1.two-nodes.memory`: idle, and after requests of every kind.
    fn requests_memory(&self) -> Result<Vec<Figure>> {
        // Idle is who has begun and been left alone for as long as after a load.
        std::thread::sleep(REST);
        let mut figures = self.requests_memory_now("idle")?;
        let loads = [
            (HTTP, Load::Http { connections: CONNECTIONS }, Way::Http),
            (HTTP2, Load::Http2 { streams: STREAMS }, Way::Http2),
        ];
        for (port, load, way) in loads {
            for route in self.between(way).into_iter().filter(|route| *route != Route::Direct) {
                self.stage.run(route, port, load, [WARM, WINDOW])?;
            }
        }
        // Both sides give freed memory back a few seconds after a load.
        std::thread::sleep(REST);
        figures.extend(self.requests_memory_now("after the run")?);
        Ok(figures)
    }

    fn requests_memory_now(&self, case: &str) -> Result<Vec<Figure>> {
        let parts = self.stage.memory()?;
        let resident: f64 = parts.iter().map(|(_, memory)| memory.resident).sum();
        let each: Vec<String> = parts.iter().map(|(name, memory)| format!("{name} {:.1}", memory.resident)).collect();
        let envoys = self.stage.requests_memory()?;
        let least = envoys.iter().min_by(|a, b| a.1.resident.total_cmp(&b.1.resident));
        let (n_workers, least) = least.context("no Envoy runs: set up with `cargo xtask bench`")?;
        let whom = Route::Requests(*n_workers, Way::Http).name();
        let figure =
            Figure::compared("http1.two-nodes.memory", "MiB", Goal::at_most(0.4, 0.2), &[resident], &[least.resident]);
        Ok(vec![figure.case(case).against(&whom).note(&format!("both nodes: {}", each.join(", ")))])
    }
}
