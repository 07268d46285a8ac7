//! Starts the agent of one node, or does one of its small tasks.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use millrace_agent::{
    check,
    config::{Args, Config, Files, Task},
    kernel::features::Lacking,
    run,
};

/// How long a file that is being written may still take.
const LAST_WRITES: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let files = Files::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let task = match Config::from_args(args, &files) {
        Ok(task) => task,
        Err(invalid) => unusable(&invalid),
    };
    let result = match task {
        Task::Run(config) => runtime.block_on(Box::pin(run::run(*config))),
        Task::Check(format, forced) => check::check(format, &forced),
        Task::Leave(config) => run::leave(&config),
    };
    // A path that hangs must not keep the process.
    runtime.shutdown_timeout(LAST_WRITES);
    if let Err(why) = &result
        && let Some(lacking) = why.downcast_ref::<Lacking>()
    {
        unusable(lacking);
    }
    result
}

/// Ends with the code of a wrong command line: whoever keeps this process running need not try again.
fn unusable(why: &dyn std::fmt::Display) -> ! {
    Args::command().error(ErrorKind::ValueValidation, why).exit()
}
