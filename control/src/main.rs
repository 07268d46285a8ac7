//! Starts the control plane, and stops it when it is told to.

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use millrace_control::{
    config::{Args, Config},
    run::Control,
    telemetry,
};
use millrace_node::memory;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    let config = match Config::from_args(Args::parse()) {
        Ok(config) => config,
        // The code of a wrong command line: whoever keeps this process running need not try again.
        Err(wrong) => Args::command().error(ErrorKind::ValueValidation, wrong).exit(),
    };
    let log = telemetry::start(&config.log)?;
    memory::keep().context("the memory can't be kept from others")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let control = Box::pin(Control::start(config, Some(log), stop)).await?;
        tracing::info!(address = %control.address, "serving");
        control.ended().await
    })
}
