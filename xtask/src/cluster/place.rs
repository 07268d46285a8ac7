//! Says where a cluster is: its folder by name, its ports, whose it is.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::process::Id;
use crate::config::Config;

/// Clusters' folders, below cargo's target directory.
const FOLDER: &str = "cluster/run";
/// A name is part of paths and of socket names.
const MAX_NAME: usize = 40;
/// The programs that a binary may be called as.
const PROGRAMS: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kubectl",
    "certificates",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "image",
];

/// Where a cluster is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// All of it.
    pub(super) folder: PathBuf,
}

/// What a cluster listens on, on loopback.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) api: u16,
    pub(super) etcd: u16,
    pub(super) etcd_peers: u16,
}

impl Place {
    /// The place of the cluster of this name.
    pub(super) fn new(config: &Config, name: &str) -> Result<Self> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            bail!("{name:?} is no name of a cluster: write at most {MAX_NAME} lower-case letters, digits and '-'");
        }
        Ok(Self { folder: config.target.join(FOLDER).join(name) })
    }

    /// The place with this folder.
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The cluster's name.
    pub(super) fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Makes the folders, and links each program's name to the binary that holds it.
    pub(super) fn make(&self, binary: &Path) -> Result<()> {
        for folder in ["bin", "data", "logs", "processes"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        for name in PROGRAMS {
            let link = self.program(name);
            if fs::read_link(&link).ok().as_deref() != Some(binary) {
                drop(fs::remove_file(&link));
                symlink(binary, &link)?;
            }
        }
        Ok(())
    }

    /// One of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// The administrator's.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.secret("admin.kubeconfig")
    }

    /// A key, a certificate or a kubeconfig.
    pub(super) fn secret(&self, name: &str) -> PathBuf {
        self.folder.join("secrets").join(name)
    }

    /// The ports: chosen once, free at that moment, and kept as long as the cluster lives.
    pub(super) fn ports(&self) -> Result<Ports> {
        let file = self.folder.join("ports.json");
        if !file.exists() {
            // Held open together, or one could be chosen twice.
            let held: Vec<TcpListener> =
                (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
            let chosen: Vec<u16> = held.iter().filter_map(|l| Some(l.local_addr().ok()?.port())).collect();
            fs::write(&file, json!(chosen).to_string())?;
        }
        let kept: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let port = |index: usize| {
            kept.get(index)
                .and_then(Value::as_u64)
                .and_then(|port| u16::try_from(port).ok())
                .with_context(|| format!("{} is not what was written there", file.display()))
        };
        Ok(Ports { api: port(0)?, etcd: port(1)?, etcd_peers: port(2)? })
    }

    /// How many nodes it has: what it was made with, as long as it lives.
    pub(super) fn nodes(&self) -> Result<u8> {
        match fs::read_to_string(self.folder.join("nodes")) {
            Ok(text) => Ok(text.trim().parse()?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes how many nodes it has.
    pub(super) fn keep_nodes(&self, nodes: u8) -> Result<()> {
        let made = self.folder.join("secrets").exists();
        let known = self.nodes()?;
        if made && known != nodes {
            bail!("cluster {} has {known} nodes: end it first to get another number", self.name());
        }
        Ok(fs::write(self.folder.join("nodes"), nodes.to_string())?)
    }

    /// Notes whose the cluster is.
    pub(super) fn keep_owner(&self, owner: Option<&Id>) -> Result<()> {
        match owner {
            Some(owner) => fs::write(self.folder.join("owner"), owner.text())?,
            None => drop(fs::remove_file(self.folder.join("owner"))),
        }
        Ok(())
    }

    /// Whose the cluster is, if it is somebody's.
    pub(super) fn owner(&self) -> Result<Option<Id>> {
        match fs::read_to_string(self.folder.join("owner")) {
            Ok(text) => Ok(Id::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
