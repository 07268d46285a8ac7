//! Every figure by its name, and which are measured together.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    args::Run,
    console,
    cross_node::Session,
    figure::Figure,
    http, kernel, l7_scale,
    machine::Machine,
    programs,
    report::{self, Report, Table},
    rounds::Surroundings,
    scale,
    stage::{self, Programs, Stage},
};

/// The figures between nodes; those that one measurement yields stand together.
const CROSS_NODE: [&[&str]; 7] = [
    &["cross-node.memory"], // First, while nothing has run yet.
    &["cross-node.throughput", "cross-node.cpu-per-gb"],
    &["cross-node.rtt64-added-p50"],
    &["cross-node.short"],
    &["cross-node.http-cpu"],
    &["cross-node.latency-1k"],
    &["cross-node.latency-5k"],
];

/// Whether one of these names was asked for; all are, where none was named.
fn is_asked(only: &[String], names: &[&str]) -> bool {
    only.is_empty() || names.iter().any(|name| only.iter().any(|prefix| name.starts_with(prefix.as_str())))
}

/// Says each as soon as it is known: the run goes on for minutes.
fn shown(figures: Vec<Figure>) -> Vec<Figure> {
    figures.iter().for_each(|figure| console::progress(report::row(figure).trim_end()));
    figures
}

/// Measures what is asked for, and reports. True when all that has a requirement meets it.
pub fn run(options: &Run) -> Result<bool> {
    let known: Vec<&str> = CROSS_NODE
        .iter()
        .flat_map(|names| names.iter().copied())
        .chain(http::NAMES)
        .chain(kernel::names())
        .chain([programs::NAME])
        .chain(scale::NAMES)
        .chain([l7_scale::NAME])
        .collect();
    for prefix in &options.only {
        ensure!(
            is_asked(std::slice::from_ref(prefix), &known),
            "no figure is called {prefix}; there are: {}",
            known.join(", ")
        );
    }
    let mut report = Report {
        machine: Machine::this(match &*options.congestion_control {
            "system" => stage::congestion_control()?,
            name => name.to_owned(),
        }),
        surroundings: Surroundings::default(),
        figures: Vec::new(),
        tables: Vec::new(),
    };
    let is_small = |name: &&&str| !scale::NAMES.contains(name) && **name != l7_scale::NAME;
    let n_small = known.iter().filter(is_small).filter(|name| is_asked(&options.only, &[name])).count();
    if n_small > 0 {
        let (figures, surroundings, tables) = small(options)?;
        report = Report { figures, surroundings, tables, ..report };
    }
    let mut is_whole = true;
    if is_asked(&options.only, &scale::NAMES) {
        // What was measured before must not be lost with it.
        match scale::run() {
            Ok((figures, tables)) => {
                let asked = figures.into_iter().filter(|figure| is_asked(&options.only, &[&figure.name])).collect();
                report.figures.extend(shown(asked));
                report.tables.extend(tables);
            }
            Err(error) => {
                is_whole = false;
                let title = format!("scale: not measured: {error:#}");
                report.tables.push(Table { title, columns: Vec::new(), rows: Vec::new() });
            }
        }
    }
    if is_asked(&options.only, &[l7_scale::NAME]) {
        match l7_scale::measure(options.envoy.as_deref()) {
            Ok(figures) => report.figures.extend(shown(figures)),
            Err(error) => {
                is_whole = false;
                let title = format!("{}: not measured: {error:#}", l7_scale::NAME);
                report.tables.push(Table { title, columns: Vec::new(), rows: Vec::new() });
            }
        }
    }
    console::clear();
    console::say(&report.text());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(is_whole && report.counts().1 == 0)
}

/// What was found, and how the machine was meanwhile.
type Found = (Vec<Figure>, Surroundings, Vec<Table>);

/// What is measured on two nodes.
fn small(options: &Run) -> Result<Found> {
    let congestion_control = Some(options.congestion_control.clone()).filter(|name| name != "system");
    let programs = Programs {
        envoy: options.envoy.clone(),
        haproxy: options.haproxy.clone(),
        congestion_control,
        connection_lines: options.connection_lines,
    };
    console::progress("bringing up two labs");
    let stage = Stage::up(&programs)?;
    let mut session = Session { stage: &stage, n_rounds: options.rounds, surroundings: Surroundings::default() };
    let mut figures: Vec<Figure> = Vec::new();
    for names in CROSS_NODE.iter().filter(|names| is_asked(&options.only, names)) {
        let found = match names {
            ["cross-node.memory"] => session.memory()?,
            ["cross-node.throughput", ..] => session.bulk()?,
            ["cross-node.rtt64-added-p50"] => session.round_trips()?,
            ["cross-node.short"] => session.short()?,
            ["cross-node.http-cpu"] => session.http_cpu()?,
            ["cross-node.latency-1k"] => session.latency(1000)?,
            _ => session.latency(5000)?,
        };
        figures.extend(shown(found));
    }
    for name in http::NAMES.iter().filter(|name| is_asked(&options.only, &[name])) {
        figures.extend(shown(session.requests(name)?));
    }
    for name in kernel::names().filter(|name| is_asked(&options.only, &[name])) {
        figures.extend(shown(session.kernel(name)?));
    }
    let tables = if is_asked(&options.only, &[programs::NAME]) { vec![programs::table(&stage)?] } else { Vec::new() };
    Ok((figures, session.surroundings, tables))
}

#[cfg(test)]
mod tests {
    use super::is_asked;

    #[test]
    fn a_prefix_asks_for_all_that_begin_so_and_nothing_for_all() {
        assert!(is_asked(&[], &["kernel.connects"]));
        assert!(is_asked(&["kernel".to_owned()], &["kernel.connects"]));
        assert!(!is_asked(&["kernel".to_owned()], &["cross-node.short"]));
        assert!(is_asked(&["cross-node.cpu-per-gb".to_owned()], &["cross-node.throughput", "cross-node.cpu-per-gb"]));
    }
}
