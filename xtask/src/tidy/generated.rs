//! Checks that what is generated and committed is what the code generates now.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{config::Config, console};

use super::Complaint;

/// Where the definitions of Millrace's kinds are committed, and the command that writes them there.
const CRDS: &str = "deploy/crds";
const MEND: &str = "run `cargo run --package millrace-crd --bin millrace-crds -- deploy/crds`";

/// Every check of generated files.
pub(crate) fn check(config: &Config) -> Result<Vec<Complaint>> {
    let printer = ["build", "--quiet", "--workspace", "--bin", "millrace-crds"];
    console::run(Command::new(&config.cargo).current_dir(&config.root).args(printer))?;
    let fresh = config.target.join("xtask/crds");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    console::run(Command::new(config.target.join("debug/millrace-crds")).arg(&fresh))?;
    Ok(compare(&files(&config.root.join(CRDS))?, &files(&fresh)?))
}

fn compare(committed: &BTreeMap<String, String>, fresh: &BTreeMap<String, String>) -> Vec<Complaint> {
    let names = committed.keys().chain(fresh.keys().filter(|name| !committed.contains_key(*name)));
    names
        .filter_map(|name| {
            let what = match (committed.get(name), fresh.get(name)) {
                (Some(old), Some(new)) if old == new => return None,
                (Some(_), Some(_)) => "is not what the types say now",
                (None, _) => "is not there",
                (_, None) => "belongs to no kind: remove it, or",
            };
            Some(Complaint::new(format!("{CRDS}/{name}"), format!("{what}; {MEND}")))
        })
        .collect()
}

fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn a_definition_that_is_old_missing_or_left_over_is_found() {
        let files = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let committed = files(&[("same", "1"), ("old", "1"), ("left", "1")]);
        let fresh = files(&[("same", "1"), ("old", "2"), ("new", "1")]);
        let places: Vec<_> = compare(&committed, &fresh).into_iter().map(|complaint| complaint.place).collect();
        assert_eq!(places, ["deploy/crds/left", "deploy/crds/old", "deploy/crds/new"]);
    }
}
