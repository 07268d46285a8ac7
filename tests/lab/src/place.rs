//! Says where a process of the lab runs: which network namespace, which cgroup, with which hosts file; and starts it there.
//!
//! The process is in its cgroup before its program is loaded, so that its first socket is captured.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io,
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// Where a process runs. Written to the lab's directory, so that another process can start one there too.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The network namespace's path.
    pub netns: PathBuf,
    /// The cgroup2 directory.
    pub cgroup: PathBuf,
    /// What it sees as /etc/hosts, if not the machine's.
    pub hosts: Option<PathBuf>,
}

impl Place {
    /// A command that will run here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let netns = c_path(&self.netns)?;
        let members = c_path(&self.cgroup.join("cgroup.procs"))?;
        let hosts = self.hosts.as_deref().map(c_path).transpose()?;
        let mut command = Command::new(program);
        command.process_group(0); // Ctrl-C is for the one who started the lab: it stops the rest in order.
        let enter = move || enter(&members, &netns, hosts.as_deref());
        #[expect(unsafe_code, reason = "a process must be in its cgroup and namespace before its program is loaded")]
        // SAFETY: between fork and exec `enter` makes system calls on memory prepared above; it allocates and locks nothing.
        unsafe {
            command.pre_exec(enter);
        }
        Ok(command)
    }

    /// Runs `work` on a thread in this network namespace, but in this process's own cgroup: what it connects is not captured.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        inside(&self.netns, work)
    }
}

/// Runs `work` on a thread that entered the network namespace at `netns`.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<T> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        thread.join().map_err(|_panic| anyhow!("a thread in {} panicked", netns.display()))?
    })
}

fn enter(members: &CStr, netns: &CStr, hosts: Option<&CStr>) -> io::Result<()> {
    let file = rustix::fs::open(members, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, b"0")?;
    let namespace = rustix::fs::open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    if let Some(hosts) = hosts {
        #[expect(unsafe_code, reason = "the safe form is deprecated")]
        // SAFETY: only the mount namespace is unshared, no descriptor table.
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNS)?;
        }
        // Downstream, not private: what the lab unmounts must not live on in here.
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        mount_bind(hosts, c"/etc/hosts")?;
    }
    Ok(())
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{} has a zero byte", path.display()))
}
