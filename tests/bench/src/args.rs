//! Says what can be asked of the benchmark.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::{bare::Bare, load::Load};

/// Measures the mesh.
#[derive(Debug, Parser)]
#[command(name = "millrace-bench")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// One thing to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Measures and reports
    Run(Run),
    /// A server in a pod; started by `run`
    #[command(hide = true)]
    Serve,
    /// The least that a proxy can do, in a pod; started by `run`
    #[command(subcommand, hide = true)]
    Bare(Bare),
    /// A client in a pod; started by `run`
    #[command(hide = true)]
    Load {
        /// Where to connect
        target: SocketAddr,
        /// Load before anything is counted, in seconds
        #[arg(long)]
        warm: f64,
        /// How long is counted, in seconds
        #[arg(long)]
        window: f64,
        /// What to do
        #[command(subcommand)]
        load: Load,
    },
}

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Only the figures of this name, or whose name begins so
    #[arg(long, num_args = 1.., value_name = "NAME-OR-PREFIX")]
    pub only: Vec<String>,
    /// Writes the figures there too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds of each figure, to try something out; by default 7 between nodes, 21 within one
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// The Envoy to compare with
    #[arg(long, value_name = "PROGRAM")]
    pub envoy: Option<PathBuf>,
    /// The haproxy to compare with
    #[arg(long, value_name = "PROGRAM")]
    pub haproxy: Option<PathBuf>,
    /// TCP's congestion control for everybody alike, in all namespaces; `system` for what the machine is set to
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    pub congestion_control: String,
    /// Leaves our proxies their line for each connection; the others write none
    #[arg(long)]
    pub connection_lines: bool,
}
