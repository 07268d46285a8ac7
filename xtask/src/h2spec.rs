//! Builds the conformance suite of HTTP/2 that lab tests put to the proxy, from Go modules, once for each state of `tests/lab/h2spec`.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{cluster::binary, config::Config, console};

/// The module.
const MODULE: &str = "tests/lab/h2spec";
/// Where lab tests look for the program, below cargo's target directory.
const BUILT: &str = "h2spec/h2spec";
/// What it was built from.
const FROM: &str = "h2spec/from";

/// The program, built if it is not there or is another state's.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    let (module, built, from) = (config.root.join(MODULE), config.target.join(BUILT), config.target.join(FROM));
    let state = binary::fingerprint(&module)?;
    if built.exists() && fs::read_to_string(&from).is_ok_and(|was| was == state) {
        return Ok(());
    }
    let mut command = Command::new(binary::go(config)?);
    command
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .args(["build", "-trimpath", "-o"])
        .arg(&built)
        .arg(".");
    console::run(&mut command)?;
    Ok(fs::write(from, state)?)
}
