//! The shared proxy of a node: see the library.

use clap::Parser as _;
use millrace_l7_proxy::{Args, Config, run};
use millrace_node::telemetry;

fn main() -> anyhow::Result<()> {
    let config = Config::from_args(Args::parse());
    run(&config, telemetry::init("millrace-proxy"))
}
