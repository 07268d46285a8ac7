//! Builds what the demo needs and runs it, with the rights it needs.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    command::Demo,
    config::{Config, User},
    console, setup,
};

/// Sets up, builds and runs the demo.
pub(crate) fn run(config: &Config, options: Demo) -> Result<()> {
    setup::quietly(config)?;
    console::begin("build");
    // The dev profile: it compiles in a third of the time of a release, and what is slow without optimisation, TLS and
    // HTTP/2, is in dependencies, which the workspace's profile optimises all the same.
    console::run(Command::new(&config.cargo).current_dir(&config.root).args(["build", "--workspace", "--bins"]))?;
    show(config, options)
}

/// Runs a demo that is built already.
pub(crate) fn show(config: &Config, options: Demo) -> Result<()> {
    let demo = config.target.join("debug/millrace-demo");
    let mut command = as_root(config, demo.as_os_str())?;
    command.current_dir(&config.root);
    command.args(options.keep.then_some("--keep")).args(options.once.then_some("--once"));
    console::run(&mut command)
}

/// A command that runs `program` as root: as it is, or by sudo.
pub(crate) fn as_root(config: &Config, program: &std::ffi::OsStr) -> Result<Command> {
    match (config.user, config.program("sudo")) {
        (User::Root, _) => Ok(Command::new(program)),
        (User::Other, Some(sudo)) => {
            let mut command = Command::new(sudo);
            command.arg("--preserve-env").arg(program);
            Ok(command)
        }
        (User::Other, None) => bail!(
            "this loads kernel programs and makes network namespaces, which takes root: run it as root, or install sudo"
        ),
    }
}
