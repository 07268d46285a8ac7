//! Starts the agent of one node, or does one of its small tasks.

use std::time::Duration;

use clap::Parser as _;
use millrace_agent::{
    check,
    config::{Args, Config, Files, Task},
    run,
};

/// How long a file that is being written may still take.
const LAST_WRITES: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let files = Files::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = match Config::from_args(args, &files)? {
        Task::Run(config) => runtime.block_on(Box::pin(run::run(config))),
        Task::Check(format) => check::check(format),
        Task::Leave(config) => run::leave(&config),
    };
    // A path that hangs must not keep the process.
    runtime.shutdown_timeout(LAST_WRITES);
    result
}
