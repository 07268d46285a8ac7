//! Finds the mesh's own programs: they lie beside the one that runs, or beside its folder when that is a test.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Those that were built with this program.
    pub fn find() -> Result<Self> {
        let own = env::current_exe()?;
        let directory = own.parent().context("this program lies nowhere")?;
        // Tests lie in target/debug/deps, programs one level up.
        let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
        Ok(Self { directory: directory.to_owned() })
    }

    /// The path of one of them.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        ensure!(path.exists(), "{name} is not built: `cargo build` makes {}", path.display());
        Ok(path)
    }

    /// The directory they are in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
