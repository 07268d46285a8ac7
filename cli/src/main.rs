//! Parses the command line, does what it asks, and turns the ending into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use millrace_cli::{config::Args, execute};

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ending = match runtime {
        Ok(runtime) => runtime.block_on(execute(args)),
        Err(why) => Err(millrace_cli::Failure::Failed(format!("the runtime does not start: {why}"))),
    };
    match ending {
        Ok(ending) => ending.into(),
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}
