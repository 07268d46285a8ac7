//! Attaches programs by pinned links: made once, given the newer program in place ever after.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use super::{error::AttachError, syscall};

/// A program that stands at the node's cgroup, and where: BPF_CGROUP_* and BPF_SK_LOOKUP of the kernel's `bpf_attach_type`.
pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) program_type: u32,
    pub(super) attach_type: u32,
}

const fn hook(program: &'static str, program_type: u32, attach_type: u32) -> Hook {
    Hook { program, program_type, attach_type }
}

/// BPF_PROG_TYPE_* of the kernel's `bpf_prog_type`.
const SOCK_OPS: u32 = 13;
const CGROUP_SOCK_ADDR: u32 = 18;
const SK_LOOKUP: u32 = 30;

/// In the order in which they are attached: what shows and hands over first, what captures last.
pub(super) const CGROUP: [Hook; 11] = [
    hook("getpeername4", CGROUP_SOCK_ADDR, 29),
    hook("getpeername6", CGROUP_SOCK_ADDR, 30),
    hook("getsockname4", CGROUP_SOCK_ADDR, 31),
    hook("getsockname6", CGROUP_SOCK_ADDR, 32),
    hook("recvmsg4", CGROUP_SOCK_ADDR, 19),
    hook("recvmsg6", CGROUP_SOCK_ADDR, 20),
    hook("sockops", SOCK_OPS, 3),
    hook("sendmsg4", CGROUP_SOCK_ADDR, 14),
    hook("sendmsg6", CGROUP_SOCK_ADDR, 15),
    hook("connect4", CGROUP_SOCK_ADDR, 10),
    hook("connect6", CGROUP_SOCK_ADDR, 11),
];

/// Stands at each pod's network namespace.
pub(super) const INBOUND: Hook = hook("inbound", SK_LOOKUP, 36);

/// Stands at the host's end of each pod's interface: BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_INGRESS.
pub(super) const SPOOF: Hook = hook("spoof", 3, 46);

/// Stand at FORGED, for as long as the map is there: BPF_SK_SKB_STREAM_VERDICT and BPF_SK_MSG_VERDICT.
pub(super) const FORGED: [Hook; 2] = [hook("forged_in", 14, 5), hook("forged_out", 16, 7)];

/// BPF_F_PREORDER: before the programs of child cgroups, and before all without the flag.
const PREORDER: u32 = 1 << 6;
/// BPF_F_BEFORE with nothing named: first of its like.
const BEFORE: u32 = 1 << 3;

/// Another CNI that rewrites a service's address before us would hide it: first, as firmly as this kernel allows.
pub(super) const ORDERS: [u32; 4] = [PREORDER | BEFORE, PREORDER, BEFORE, 0];

/// What is left of [`ORDERS`] on a kernel without any: last of its like, as every program there.
pub(super) const NO_ORDER: [u32; 1] = [0];

/// The pin of a cgroup hook's link.
pub(super) fn cgroup_pin(program: &str) -> String {
    format!("link_{program}")
}

/// The pin of a pod's link.
pub(super) fn pod_pin(cookie: u64) -> String {
    format!("{POD_PIN}{cookie}")
}

/// How the pins of pods' links begin.
pub(super) const POD_PIN: &str = "lookup_";

/// Attaches to a cgroup, or updates the link that is pinned there.
pub(super) fn to_cgroup(
    hook: &Hook,
    program: BorrowedFd<'_>,
    (cgroup, orders): (&fs::File, &[u32]),
    pin: &Path,
) -> Result<(), AttachError> {
    let why = |source| AttachError::Link { program: hook.program.to_owned(), source };
    let id = cgroup.metadata().map_err(why)?.ino(); // A cgroup's id is its directory's inode.
    if update(program, pin, Some(id)).map_err(why)? {
        return Ok(());
    }
    let link = orders
        .iter()
        .map(|order| syscall::link(program, cgroup.as_fd(), hook.attach_type, *order))
        .find(|result| !matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL)))
        .unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))
        .map_err(why)?;
    syscall::pin(link.as_fd(), pin).map_err(why)
}

/// Attaches to a network namespace, or updates the link that is pinned there.
pub(super) fn to_netns(
    hook: &Hook,
    program: BorrowedFd<'_>,
    netns: BorrowedFd<'_>,
    pin: &Path,
) -> Result<(), AttachError> {
    let why = |source| AttachError::Link { program: hook.program.to_owned(), source };
    if update(program, pin, None).map_err(why)? {
        return Ok(());
    }
    let link = syscall::link(program, netns, hook.attach_type, 0).map_err(why)?;
    syscall::pin(link.as_fd(), pin).map_err(why)
}

/// Attaches to an interface of the calling thread's namespace, before all others, or updates the link that is pinned there.
pub(super) fn to_device(hook: &Hook, program: BorrowedFd<'_>, interface: u32, pin: &Path) -> Result<(), AttachError> {
    let why = |source| AttachError::Link { program: hook.program.to_owned(), source };
    if update(program, pin, None).map_err(why)? {
        return Ok(());
    }
    let link = syscall::link_device(program, interface, hook.attach_type, BEFORE).map_err(why)?;
    syscall::pin(link.as_fd(), pin).map_err(why)
}

/// Gives a pinned link this program; false where there is none, or it is dead or of another cgroup, and is removed.
fn update(program: BorrowedFd<'_>, pin: &Path, cgroup: Option<u64>) -> io::Result<bool> {
    let link = match syscall::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_elsewhere = match cgroup {
        Some(id) => syscall::link_info(link.as_fd())?.cgroup != id,
        None => false,
    };
    if !is_elsewhere {
        match syscall::relink(link.as_fd(), program) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {} // Its cgroup or namespace is gone.
            result => return result.map(|()| true),
        }
    }
    detach(pin)?;
    Ok(false)
}

/// Gives a pod's pinned link this program. One that is dead, as its namespace is, goes.
pub(super) fn renew(program: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    update(program, pin, None).map(drop)
}

/// Takes a link out at once, and its pin.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = match syscall::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match syscall::unlink(link.as_fd()) {
        // What it stood at is gone: so is it.
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => return Err(error),
        _ => {}
    }
    fs::remove_file(pin)
}
