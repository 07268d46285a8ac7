//! Says what can be asked of xtask.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The project's commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// One command.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Finds or installs what the kernel programs and the tests need, saying what and why
    Setup,
    /// Builds the kernel programs
    Ebpf,
    /// Shows the mesh at work: two nodes and a shop of five services in network namespaces
    Demo(Demo),
    /// A real Kubernetes of processes on this host: up, down, status
    Cluster {
        #[command(subcommand)]
        task: crate::cluster::Task,
    },
    /// Runs every test: unit, property, kernel, lab, and the fuzz targets for a bounded time
    Test(Test),
    /// Measures the mesh against no mesh and against other proxies; fails unless every figure is what it must be
    Bench(Bench),
    /// Runs the fuzz targets, guided by coverage, from the committed seeds
    Fuzz {
        /// How long each target runs, in seconds
        #[arg(long, default_value_t = crate::fuzz::SECONDS)]
        seconds: u64,
        /// Only this target, by its name in tests/fuzz/seeds
        target: Option<String>,
    },
    /// Formatting and clippy: what is denied fails, warnings are counted
    Lint,
    /// Checks what no compiler does: who depends on whom, sizes, links, generated files
    Tidy,
    /// Formatting, lints, tidy, test and demo: what must pass before a change lands
    Ci,
}

/// Which tests are run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Test {
    /// Runs the tests that are ignored as long, instead: minutes of load each, one at a time, with their figures shown
    #[arg(long)]
    pub(crate) long: bool,
    /// Only the tests whose name holds this; the fuzz targets are then left out
    pub(crate) filter: Option<String>,
}

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bench {
    /// Only the figures of this name, or whose name begins so
    #[arg(long, num_args = 1.., value_name = "NAME-OR-PREFIX")]
    pub(crate) only: Vec<String>,
    /// Writes the figures there too, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Rounds of each figure, to try something out; by default 7 between nodes, 21 within one
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// TCP's congestion control for everybody alike; by default cubic, the kernel's own default, and `system` for what the machine is set to
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion_control: Option<String>,
    /// Leaves our proxies their line for each connection, which they write unless told otherwise; the others write none
    #[arg(long)]
    pub(crate) connection_lines: bool,
}

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Demo {
    /// Leaves the nodes and workloads up at the end, and says how to reach them and how to remove them
    #[arg(long)]
    pub(crate) keep: bool,
    /// Runs through without waiting for anyone, and ends with a summary and an exit code
    #[arg(long)]
    pub(crate) once: bool,
}
