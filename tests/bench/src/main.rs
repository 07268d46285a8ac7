//! The benchmark: see the library. `cargo xtask bench` builds and runs it.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use millrace_bench::{
    args::{Args, Task},
    catalogue, console, load, serve, stage,
};

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().task {
        Task::Run(options) => {
            let passed = catalogue::run(&options)?;
            return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Task::Serve => serve::run(|| console::say("listening"))?,
        Task::Bare(bare) => bare.run(|| console::say("listening"))?,
        Task::Load { target, warm, window, load } => {
            let [warm, window] = [warm, window].map(Duration::from_secs_f64);
            console::say(&stage::load(load::Task { target, warm, window }, load)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
