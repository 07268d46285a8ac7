//! Starts the agent of one node, or does one of its small tasks.

use clap::Parser as _;
use millrace_agent::{
    check,
    config::{Args, Config, Files, Task},
    hold, run,
};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let files = Files::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Config::from_args(args, &files)? {
        Task::Run(config) => runtime.block_on(Box::pin(run::run(config))),
        Task::Check(format) => check::check(format),
        Task::Leave(config) => run::leave(&config),
        Task::Hold(config) => runtime.block_on(hold::hold(&config)),
    }
}
