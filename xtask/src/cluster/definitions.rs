//! Gives a cluster the definitions of Gateway API's kinds, from the module that `tests/cluster/go` pins.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Channel, api::kubectl, binary, place::Place};
use crate::{config::Config, console};

/// The module.
const GATEWAY: &str = "sigs.k8s.io/gateway-api";

/// Applies them, once in a cluster's life.
pub(super) fn apply(config: &Config, place: &Place, channel: Channel) -> Result<()> {
    let note = place.folder.join("data/channel");
    match fs::read_to_string(&note) {
        Ok(applied) if applied == channel.folder() => return Ok(()),
        // Gateway API's own admission policy refuses the one over the other.
        Ok(applied) => bail!("this cluster has the {applied} kinds of Gateway API; end it first to get others"),
        Err(_) => {}
    }
    let folder = module(config)?.join("config/crd").join(channel.folder());
    let mut apply = kubectl(place);
    // A folder with a list of its own holds more than definitions: the list.
    let how = if folder.join("kustomization.yaml").exists() { "-k" } else { "-f" };
    apply.args(["apply", "--server-side", how]).arg(&folder);
    console::read(&mut apply).with_context(|| format!("the definitions in {}", folder.display()))?;
    Ok(fs::write(&note, channel.folder())?)
}

/// The module's folder in Go's cache; Go fetches it if it is not there.
fn module(config: &Config) -> Result<PathBuf> {
    let mut download = Command::new(binary::go(config)?);
    download.current_dir(config.root.join("tests/cluster/go")).args(["mod", "download", "-json", GATEWAY]);
    let said: Value = serde_json::from_str(&console::read(&mut download)?)?;
    let folder = said.get("Dir").and_then(Value::as_str).context("Go does not say where the module is")?;
    Ok(PathBuf::from(folder))
}
