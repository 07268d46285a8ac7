//! Reads of a process whose pod's it is, when it began and what network it is in. All by one descriptor: a number may be another
//! process's by the next look, what a descriptor shows is this one's or nothing.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};

/// What is read of a file at most: lines of a dozen cgroups.
const MAX_READ: u64 = 64 * 1024;
/// Where a process's start stands in its `stat`, counted behind the name, which may hold anything (proc_pid_stat(5), field 22).
const START: usize = 19;
/// An uid is of hexadecimal digits, with `-` in it or without; no longer name is one.
const MAX_UID: usize = 64;

/// A process.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process of this number.
    pub(super) fn open(proc: &Path, number: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, proc.join(number), flags, Mode::empty())?))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = File::from(openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(MAX_READ).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The uid of the pod in whose cgroup it is.
    pub(super) fn pod(&self) -> Option<String> {
        pod_of(&self.read("cgroup").ok()?)
    }

    /// When it began, in ticks.
    pub(super) fn began(&self) -> Option<u64> {
        began(&self.read("stat").ok()?)
    }

    /// The device and inode of its network namespace's file.
    pub(super) fn network(&self) -> io::Result<(u64, u64)> {
        let found = statat(&self.0, "ns/net", AtFlags::empty())?;
        Ok((found.st_dev, found.st_ino))
    }

    /// Its network namespace.
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.0, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

fn began(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(START)?.parse().ok()
}

/// The uid in `/proc/PID/cgroup`: of version 2, whose paths no pod can write, and of version 1 where there is no other.
fn pod_of(cgroup: &str) -> Option<String> {
    let paths = |is: fn(&str) -> bool| {
        cgroup.lines().filter(move |line| is(line)).filter_map(|line| line.splitn(3, ':').nth(2))
    };
    paths(|line| line.starts_with("0::")).find_map(uid).or_else(|| paths(|line| !line.starts_with("0::")).find_map(uid))
}

/// The uid of the uppermost part of a path that is called as a kubelet calls a pod's cgroup: one beneath is the pod's own making.
fn uid(path: &str) -> Option<String> {
    path.split('/').find_map(|part| {
        let uid = match part.strip_suffix(".slice") {
            // With slices a minus means a level.
            Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
            None => part.strip_prefix("pod")?.to_owned(),
        };
        let is_uid = !uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
        is_uid.then_some(uid)
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, path::Path};

    use super::{Process, began, pod_of};

    const UID: &str = "0f1b2c3d-1111-2222-3333-444455556666";

    #[test]
    fn a_pods_uid_is_in_its_cgroup_by_either_driver_and_wherever_the_reader_is() {
        for path in [
            "/kubepods/burstable/pod0f1b2c3d-1111-2222-3333-444455556666/c1",
            "/kubepods/pod0f1b2c3d-1111-2222-3333-444455556666/c1",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0f1b2c3d_1111_2222_3333_444455556666.slice/cri-c1.scope",
            "/kubepods.slice/kubepods-pod0f1b2c3d_1111_2222_3333_444455556666.slice/cri-c1.scope",
            // As from a cgroup namespace beside it.
            "/../../pod0f1b2c3d-1111-2222-3333-444455556666/c1",
            // What a pod makes below its own says nothing.
            "/kubepods/pod0f1b2c3d-1111-2222-3333-444455556666/c1/podaaaaaaaa-1111-2222-3333-444455556666",
        ] {
            assert_eq!(pod_of(&format!("0::{path}\n")).as_deref(), Some(UID), "{path}");
            assert_eq!(pod_of(&format!("3:cpu:{path}\n0::/\n")).as_deref(), Some(UID), "{path}");
        }
        let mixed = format!("3:cpu:/kubepods/podaaaaaaaa\n0::/kubepods/pod{UID}/c\n");
        assert_eq!(pod_of(&mixed).as_deref(), Some(UID), "the second version's comes first");
        for none in [
            "0::/",
            "0::/system.slice/containerd.service",
            "0::/kubepods/burstable",
            "0::/podman/x",
            "0::/libpod-conmon-a.scope",
            "",
        ] {
            assert_eq!(pod_of(none), None, "{none}");
        }
    }

    #[test]
    fn a_process_began_when_its_stat_says_whatever_its_name_is() {
        assert_eq!(began("7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 2 3"), Some(4242));
        assert_eq!(began("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_in_its_own_namespace_and_a_descriptor_outlives_no_process() {
        let own = Process::open(Path::new("/proc"), &std::process::id().to_string()).unwrap();
        let net = std::fs::metadata("/proc/self/ns/net").unwrap();
        assert_eq!(own.network().unwrap(), (net.dev(), net.ino()));
        assert!(own.began().unwrap() > 0);
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let held = Process::open(Path::new("/proc"), &child.id().to_string()).unwrap();
        assert!(held.network().is_ok());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(held.network().is_err());
    }
}
