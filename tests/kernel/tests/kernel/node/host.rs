//! Pods that share the node's network namespace: each is a cgroup of its own beneath the node's.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    ops::Deref,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use millrace_abi::{Pod as PodValue, PodKind, cgroup_key};
use millrace_agent::kernel::Write;
use socket2::Socket;

use super::{Node, Pod};

/// A pod in the node's network. Dropped, its cgroup goes.
pub(crate) struct HostPod {
    pod: Pod,
    cgroup: PathBuf,
}

impl Deref for HostPod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

/// As [`Pod`]'s, but that it is a process of this one that calls: who does is what is asked here.
impl HostPod {
    pub(crate) fn connect(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        self.pod.run(|| self.pod.connect(socket, to))
    }

    pub(crate) fn connects(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.pod.run(|| self.pod.connects(to))
    }

    pub(crate) fn refused(&self, to: SocketAddr) -> Option<i32> {
        self.pod.run(|| self.pod.refused(to))
    }
}

impl Drop for HostPod {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            eprintln!("{}: {error}", self.cgroup.display());
        }
    }
}

impl Node {
    /// A pod in the node's network, known by its cgroup as this kind.
    pub(crate) fn host_pod(&self, name: &str, id: u64, kind: PodKind) -> HostPod {
        let mut pod = self.in_hosts_network(name);
        pod.pod.id = id;
        let value = PodValue { id, v4: [0; 16], v6: [0; 16], kind: kind as u32, reserved: 0 };
        let key = cgroup_key(fs::metadata(&pod.cgroup).unwrap().ino());
        self.write(&Write::SetPod(key, value));
        pod
    }

    /// One in a cgroup that nobody knows, beneath this one or the node's.
    pub(crate) fn in_hosts_network(&self, name: &str) -> HostPod {
        let cgroup = self.cgroup.join(name);
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
        HostPod { pod: Pod::host(&self.bridge, &cgroup), cgroup }
    }
}
