//! Reads the files that git keeps, or would keep: what is ignored is nobody's concern.

use std::{collections::BTreeMap, process::Command};

use anyhow::Result;

use crate::{config::Config, console};

/// The repository's text files by path. Files that are not UTF-8 are there by name, with no text.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Path from the repository's root, and text.
    pub(crate) files: BTreeMap<String, String>,
}

impl Tree {
    /// The files as they are in the work tree.
    pub(crate) fn read(config: &Config) -> Result<Self> {
        let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let said = console::read(Command::new("git").current_dir(&config.root).args(list))?;
        let mut files = BTreeMap::new();
        for path in said.lines() {
            // A file that was deleted and not yet committed is still listed.
            if let Ok(bytes) = std::fs::read(config.root.join(path)) {
                files.insert(path.to_owned(), String::from_utf8(bytes).unwrap_or_default());
            }
        }
        Ok(Self { files })
    }

    /// The files whose name ends so.
    pub(crate) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files.iter().filter(move |(path, _)| path.ends_with(end)).map(|(path, text)| (&**path, &**text))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Tree {
    fn from(files: [(&str, &str); N]) -> Self {
        Self { files: files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect() }
    }
}
