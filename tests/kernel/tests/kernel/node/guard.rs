//! Guards at the bridge's ends of pods' interfaces, as the agent sets them.

use std::{net::Ipv6Addr, process::Command};

use millrace_abi::{Addr, Guard, GuardKind};
use millrace_lab::frames::Wire;

use super::{Node, Pod, bytes, chain};

impl Node {
    /// Sets a guard of this kind at the host's end of the pod's interface; its index.
    pub(crate) fn guard(&self, pod: &Pod, kind: GuardKind) -> u32 {
        let mac = pod.run(|| Wire::on("eth0").unwrap().mac);
        let link_local = link_local(pod);
        let guard = Guard { v4: pod.v4, v6: pod.v6, link_local, id: pod.id, told_ns: 0, mac, kind: kind as u16 };
        let index = self.host_end(pod);
        self.on_the_bridge(|| self.kernel().guard(index, &guard).unwrap_or_else(|error| panic!("{}", chain(&error))));
        index
    }

    /// Runs this where the host's ends are.
    pub(crate) fn on_the_bridge<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        Pod::host(&self.bridge, &self.cgroup).run(act)
    }

    /// The index of the host's end of the pod's interface.
    pub(crate) fn host_end(&self, pod: &Pod) -> u32 {
        let (_, name) = pod.name().rsplit_once('-').unwrap();
        let output = Command::new("ip").args(["-n", &self.bridge, "-o", "link", "show", name]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    }
}

/// The link-local address of a pod's interface.
pub(crate) fn link_local(pod: &Pod) -> Addr {
    let table = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    let line =
        table.lines().find(|line| line.starts_with("fe80") && line.ends_with("eth0")).expect("a link-local address");
    let number = u128::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    bytes(Ipv6Addr::from(number).into())
}
