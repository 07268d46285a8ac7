//! Parses single settings. Each complaint says what was read and what it should be.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_model::Identity;

/// The service account that names a node is `node.` and its name: together at most a Kubernetes name.
const MAX_NODE: usize = 253 - "node.".len();

/// Where the control plane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAddress {
    /// A host name or address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
}

/// A user and group of this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

pub(super) fn node(name: Option<&str>) -> Result<Arc<str>, String> {
    let name = name.ok_or("say which node this is")?;
    // What an identity takes as a service account is what the node's certificate can carry.
    let id = format!("spiffe://td/ns/n/sa/node.{name}");
    match id.parse::<Identity>() {
        Ok(_) if !name.is_empty() && name.len() <= MAX_NODE => Ok(name.into()),
        Ok(_) | Err(_) => Err(format!("{name:?} is not 1 to {MAX_NODE} of a-z, 0-9, '-' and '.'")),
    }
}

pub(super) fn control(address: Option<&str>) -> Result<ControlAddress, String> {
    let text = address.ok_or("say where the control plane listens, as https://HOST:PORT")?;
    let bad = || format!("{text:?} is not https://HOST:PORT");
    let authority = text.strip_prefix("https://").ok_or_else(bad)?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    let is_v6 = host.strip_prefix('[').is_some_and(|rest| rest.strip_suffix(']').is_some_and(|v6| v6.contains(':')));
    match host {
        "" => Err(bad()),
        host if !is_v6 && host.contains(['/', '@', ':', '[', ']', '?', '#']) => Err(bad()),
        host => Ok(ControlAddress { host: host.trim_matches(['[', ']']).into(), port }),
    }
}

/// A user by `UID:GID` or by its name in `passwd`.
pub(super) fn user(text: &str, passwd: &str) -> Result<User, String> {
    if let Some((uid, gid)) = text.split_once(':') {
        return match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(User { uid, gid }),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => Err(format!("{text:?} is not two numbers, UID:GID")),
        };
    }
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (name == text).then_some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        })
        .ok_or_else(|| format!("no user is called {text:?}: give UID:GID, or make the user"))
}

/// The directory given, if it is in a cgroup2 file system; else the root of the first one mounted.
pub(super) fn cgroup(given: Option<&Path>, mounts: &str) -> Result<PathBuf, String> {
    let mut roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    match given {
        None => roots.next().ok_or_else(|| "no cgroup2 file system is mounted".to_owned()),
        Some(dir) if !dir.is_absolute() => Err(format!("{} is not an absolute path", dir.display())),
        Some(dir) if roots.any(|root| dir.starts_with(root)) => Ok(dir.to_owned()),
        Some(dir) => Err(format!("{} is not in a cgroup2 file system", dir.display())),
    }
}
