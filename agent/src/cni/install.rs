//! Puts the plugin into a node's chain of plugins, and takes it out. Each file is replaced in one step: a runtime reads it at any moment.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::TYPE;

/// Where a node has its plugins.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Folders {
    /// Where plugins' programs are.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// Where chains are written down; a runtime takes the first by name.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
}

/// Copies this program, and puts it last into the chain that the runtime takes. Done again it changes nothing.
pub fn install(folders: &Folders, own: &Path, (run_dir, exclude): (&Path, &[String])) -> Result<PathBuf> {
    let path = first(&folders.conf_dir)?;
    let before: Value = serde_json::from_str(&fs::read_to_string(&path)?)
        .with_context(|| format!("{} can't be read as JSON", path.display()))?;
    let entry = json!({"type": TYPE, "runDir": run_dir, "exclude": exclude});
    let after = with(before.clone(), Some(&entry)).with_context(|| path.display().to_string())?;
    // The program first: a chain that names what is not there makes no pod.
    replace(&folders.bin_dir.join(TYPE), &fs::read(own)?, 0o755)?;
    if after != before {
        replace(&path, format!("{after:#}\n").as_bytes(), 0o644)?;
    }
    Ok(path)
}

/// Takes the plugin out of every chain, and then removes its program.
pub fn remove(folders: &Folders) -> Result<()> {
    for path in chains(&folders.conf_dir)? {
        let Ok(before) = serde_json::from_str::<Value>(&fs::read_to_string(&path)?) else { continue };
        let Ok(after) = with(before.clone(), None) else { continue };
        if after != before {
            replace(&path, format!("{after:#}\n").as_bytes(), 0o644)?;
        }
    }
    match fs::remove_file(folders.bin_dir.join(TYPE)) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The chain with this entry last, or without any of ours.
fn with(mut chain: Value, entry: Option<&Value>) -> Result<Value> {
    let plugins = chain.get_mut("plugins").and_then(Value::as_array_mut).context("it has no list of plugins")?;
    plugins.retain(|plugin| plugin.get("type").and_then(Value::as_str) != Some(TYPE));
    plugins.extend(entry.cloned());
    Ok(chain)
}

/// The chain that a runtime takes.
fn first(folder: &Path) -> Result<PathBuf> {
    match chains(folder)?.into_iter().next() {
        Some(path) => Ok(path),
        None => bail!("{} has no chain (*.conflist) yet: install the cluster's network first", folder.display()),
    }
}

fn chains(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|ext| ext == "conflist"));
    found.sort();
    Ok(found)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    // Not a name that a runtime would take for a chain.
    let new = path.with_extension("millrace-new");
    fs::write(&new, bytes).with_context(|| new.display().to_string())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, path).with_context(|| path.display().to_string())
}
