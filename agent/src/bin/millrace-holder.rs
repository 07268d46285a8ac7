//! Starts the holder of a node's listeners.

use clap::Parser as _;
use millrace_agent::hold::{Args, hold};

fn main() -> anyhow::Result<()> {
    let Args { run_dir } = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hold(&run_dir))
}
