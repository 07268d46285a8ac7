//! What recording costs: the same requests within a node with nothing recorded, with metrics (which is what a mesh does that was told
//! nothing), with an access log of every request besides, and with every request traced besides. What is written and told is
//! done with all the way: lines go to a file, spans to a server that takes them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Part, clock::until};
use serde_json::{Value, json};

use crate::{
    console,
    cross_node::{CONNECTIONS, Session, WARM, WINDOW},
    figure::{Better, Figure, Goal},
    load::{Load, Measured},
    serve::HTTP,
    stage::{Route, Stage},
};

/// The figure, as `--only` takes it.
pub const NAME: &str = "http1.recorded.cpu";

/// How long a policy may take until it is in force.
const READY: Duration = Duration::from_secs(10);

/// What of spans became of how many.
const SPANS: &str = "millrace_proxy_spans_total";

/// What is recorded, each beside what the one before records.
const KINDS: [(&str, &str); 4] = [
    ("recorded-off", "nothing"),
    ("recorded-metrics", "metrics"),
    ("recorded-logs", "metrics, and a JSON line of every field"),
    ("recorded-traces", "metrics, lines, and every request traced"),
];

/// The policy of this name, one of [`KINDS`].
fn policy(name: &str) -> Value {
    let (listener, port) = Stage::LISTENER;
    let metrics = if name == "recorded-off" { "Disabled" } else { "Enabled" };
    let collector = json!({"service": listener, "namespace": "shop", "port": port, "protocol": "OTLPHTTP"});
    let tracing = json!({"sampling": {"percent": 100}, "collector": collector});
    let logs = json!({"format": "JSON"});
    let spec = match name {
        "recorded-traces" => json!({"metrics": metrics, "accessLogs": logs, "tracing": tracing}),
        "recorded-logs" => json!({"metrics": metrics, "accessLogs": logs}),
        _ => json!({"metrics": metrics}),
    };
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TelemetryPolicy",
        "metadata": {"namespace": "shop", "name": name}, "spec": spec,
    })
}

impl Session<'_> {
    /// A row for each kind beside the first.
    pub(crate) fn recorded(&mut self) -> Result<Vec<Figure>> {
        let mut costs: [Vec<f64>; KINDS.len()] = Default::default();
        let mut untold = 0.0;
        for round in 0..self.n_rounds() {
            console::progress(&format!("{NAME}: round {} of {}", round + 1, self.n_rounds()));
            self.surroundings.before_round()?;
            let base = self.one_cost(Route::NearDirect)?;
            for place in 0..KINDS.len() {
                let number = (round + place) % KINDS.len();
                let (Some((name, _)), Some(costs)) = (KINDS.get(number), costs.get_mut(number)) else { continue };
                let before = self.untold()?;
                let policy = policy(name);
                self.stage.mesh().apply(&policy)?;
                self.waits(name, true)?;
                let cost = self.one_cost(Route::NearRouted);
                self.stage.mesh().remove(&policy)?;
                self.waits(name, false)?;
                costs.push(cost? - base);
                untold += self.untold()? - before;
            }
        }
        let [off, others @ ..] = &costs;
        let mut figures = vec![Figure::alone(NAME, "us/request", Goal::none(Better::Lower), off).case(KINDS[0].1)];
        for ((_, case), costs) in KINDS.iter().skip(1).zip(others) {
            let figure = Figure::compared(NAME, "us/request", Goal::none(Better::Lower), costs, off);
            figures.push(figure.case(case).against(KINDS[0].1));
        }
        if let (true, Some(last)) = (untold > 0.0, figures.last_mut()) {
            *last = last.clone().note(&format!("{untold} spans were dropped: more came than its collector took"));
        }
        Ok(figures)
    }

    fn one_cost(&self, route: Route) -> Result<f64> {
        let load = Load::Http { connections: CONNECTIONS };
        let Measured { cpu, operations, .. } = self.stage.run(route, HTTP, load, [WARM, WINDOW])?;
        ensure!(operations > 0.0, "nothing was done over {}", route.name());
        Ok(cpu.busy / operations * 1e6)
    }

    /// Waits until the client's proxy knows of a policy, or no more.
    fn waits(&self, name: &str, is_there: bool) -> Result<()> {
        let admin = self.stage.mesh().admin(Part::Proxy("a"));
        until(READY, &format!("{name} is in force: {is_there}"), || {
            let says = admin.get("/config")?.contains(name);
            ensure!(says == is_there, "the proxy says {says}");
            Ok(())
        })
        .context("a TelemetryPolicy")?;
        Ok(())
    }

    /// Spans that nobody was told of, so far.
    fn untold(&self) -> Result<f64> {
        let metrics = self.stage.mesh().admin(Part::Proxy("a")).metrics()?;
        Ok(metrics.sum(SPANS, &[]) - metrics.sum(SPANS, &[("outcome", "told")]))
    }
}
