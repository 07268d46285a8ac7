//! Runs the project's commands; `cargo xtask --help` lists them.

mod bench;
mod ci;
mod clock;
mod cluster;
mod command;
mod config;
mod console;
mod demo;
mod ebpf;
mod fuzz;
mod h2spec;
mod lint;
mod setup;
mod steps;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    command::{Args, Task},
    config::Config,
};

fn main() -> ExitCode {
    let done = Config::read().and_then(|config| match Args::parse().task {
        Task::Setup => setup::run(&config),
        Task::Ebpf => ebpf::run(&config),
        Task::Demo(options) => demo::run(&config, options),
        Task::Cluster { task } => cluster::run(&config, &task),
        Task::Test(options) => test::run(&config, &options),
        Task::Bench(options) => bench::run(&config, &options),
        Task::Fuzz { seconds, target } => fuzz::run(&config, seconds, target.as_deref()),
        Task::Lint => lint::run(&config),
        Task::Tidy => tidy::run(&config),
        Task::Ci => ci::run(&config),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
