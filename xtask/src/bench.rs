//! Builds as it is shipped, fetches what it is compared with, and runs the benchmark.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{command::Bench, config::Config, console, demo, setup};

/// Sets up, builds and measures.
pub(crate) fn run(config: &Config, options: &Bench) -> Result<()> {
    setup::quietly(config)?;
    let peers = setup::peers::ready(config)?;
    console::begin("build");
    console::run(Command::new(&config.cargo).current_dir(&config.root).args([
        "build",
        "--release",
        "--workspace",
        "--bins",
    ]))?;
    console::begin("bench");
    let mut command = demo::as_root(config, config.target.join("release/millrace-bench").as_os_str())?;
    command.current_dir(&config.root).arg("run");
    let paths: [(&str, Option<&PathBuf>); 3] =
        [("--envoy", Some(&peers.envoy)), ("--haproxy", peers.haproxy.as_ref()), ("--json", options.json.as_ref())];
    for (flag, path) in paths {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    for name in &options.only {
        command.args(["--only", name]);
    }
    if let Some(name) = &options.congestion_control {
        command.args(["--congestion-control", name]);
    }
    if options.connection_lines {
        command.arg("--connection-lines");
    }
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if !command.status()?.success() {
        bail!("not every figure is what it must be");
    }
    Ok(())
}
