//! Tells who calls from the node's own network namespace: a pod that shares it, by its cgroup, or the host itself.
//!
//! Who calls is noted on its socket as it calls `connect`, where the calling process is the current one; `sockops` goes by the note,
//! for what runs then may be anybody. A socket without a note is nobody's.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use millrace_abi::{End, Pod, PodKind, cgroup_key};

use crate::{
    endpoint::Endpoint,
    maps::{DESTS, ENDS, PODS},
    storage::{Make, Socket},
};

/// How deep a pod's cgroup may lie: a kubelet's are at 3 to 5, and lower where it is itself in a container.
const LEVELS: i32 = 12;

/// The caller, and its key in PODS.
#[inline(always)]
pub fn caller(host: &'static Pod, netns: u64) -> (&'static Pod, u64) {
    let (mut found, mut key) = (host, netns);
    let mut level = 1;
    while level < LEVELS {
        // SAFETY: takes a number; 0 where the process's cgroup is not as deep.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // The deepest one that is known: a process may be in a cgroup that its pod made. SAFETY: user space replaces entries whole.
        if let Some(pod) = unsafe { PODS.get(cgroup_key(id)) } {
            (found, key) = (pod, cgroup_key(id));
        }
        level += 1;
    }
    (found, key)
}

/// Notes on a socket of the node's namespace who connects it to a pod of this node.
#[inline(always)]
pub fn note(socket: Socket, pod: &Pod, key: u64, target: &Endpoint) {
    if DESTS.get_ptr(target.addr).is_none() {
        return;
    }
    let key = if pod.kind == PodKind::Host as u32 { 0 } else { key };
    // Without memory for it, it is nobody's.
    let Some(end) = socket.get_mut(&ENDS, Make::Zeroed) else { return };
    *end = End { kind: pod.kind as u8, key, is_caller: 1, ..End::default() };
}
