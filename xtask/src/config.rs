//! Reads from the environment all that the commands take from it: where things are, and who asks.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::ebpf::toolchain;

/// Where things are and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Cargo's target directory for the outer workspace.
    pub(crate) target: PathBuf,
    /// The cargo that runs this command.
    pub(crate) cargo: OsString,
    /// Where programs are looked for, superuser's folders included: Debian leaves them out of users' `PATH`.
    pub(crate) path: Vec<PathBuf>,
    /// Whose right this runs by.
    pub(crate) user: User,
}

/// Whose right a command runs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// May install packages, load kernel programs, make namespaces.
    Root,
    /// May build and run unit tests.
    Other,
}

impl Config {
    /// What the environment says.
    pub(crate) fn read() -> Result<Self> {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not inside a repository")?.to_owned();
        let own = env::current_exe().context("cannot tell where xtask itself is")?;
        let path = env::var_os("PATH").unwrap_or_default();
        Ok(Self {
            target: toolchain::target_dir(&own).unwrap_or_else(|| root.join("target")),
            root,
            cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            path: env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect(),
            user: if rustix::process::geteuid().is_root() { User::Root } else { User::Other },
        })
    }

    /// The full path of a program, if it is installed.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
    }
}
