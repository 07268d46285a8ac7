//! Gives up every privilege before the first foreign byte: user, groups, capabilities, new ones by exec, system calls, core dumps.
//!
//! Called while the process has one thread; the workers inherit all of it.

mod calls;

use std::{fmt, io, str::FromStr};

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};

use crate::config::Privileges;

/// A user and group to become; never root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

/// The largest number of a user or group: the next one means "leave it" to setresuid.
const MOST: u32 = u32::MAX - 1;

/// The text is not `UID:GID`, or names root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not UID:GID, two numbers above 0")]
pub struct NotAUser;

impl FromStr for User {
    type Err = NotAUser;

    fn from_str(text: &str) -> Result<Self, NotAUser> {
        let (uid, gid) = text.split_once(':').ok_or(NotAUser)?;
        match (uid.parse(), gid.parse()) {
            (Ok(uid @ 1..=MOST), Ok(gid @ 1..=MOST)) => Ok(Self { uid, gid }),
            _ => Err(NotAUser),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// Why the process does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Privileged {
    /// A step failed.
    #[error("{step} failed")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        why: io::Error,
    },
    /// Other threads would keep what this one gives up.
    #[error("there are {0} threads already, and each has privileges of its own")]
    Threads(usize),
    /// It is still root.
    #[error("still root; start it as root or as a user without privileges, or pass --allow-privileged")]
    Root,
    /// It still has capabilities, which a user other than root was given.
    #[error("the capabilities {0:?} are left; start it without them, or pass --allow-privileged")]
    Capabilities(CapabilitySet),
    /// The system call filter was not installed.
    #[error("the system call filter was not installed")]
    Filter(#[source] seccompiler::Error),
}

/// Gives up all that can be, and refuses to go on with more than a plain user has.
pub(crate) fn drop_all(user: User, privileges: Privileges) -> Result<(), Privileged> {
    the_only_thread()?;
    if privileges == Privileges::Dropped {
        if rustix::process::geteuid().is_root() {
            become_user(user)?;
        }
        nothing_left()?;
    }
    step("no_new_privs", rustix::thread::set_no_new_privs(true))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    step("RLIMIT_CORE", rustix::process::setrlimit(Resource::Core, none))?;
    // Keys are in this memory: nobody of the same user may read it through /proc or ptrace.
    step("PR_SET_DUMPABLE", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    calls::restrict().map_err(Privileged::Filter)
}

fn the_only_thread() -> Result<(), Privileged> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    match threads {
        Ok(1) => Ok(()),
        Ok(n) => Err(Privileged::Threads(n)),
        Err(why) => Err(Privileged::Step { step: "counting threads", why }),
    }
}

fn become_user(user: User) -> Result<(), Privileged> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Where a container's runtime took CAP_SETPCAP away, the bounding set stays: without exec of a file with
    // capabilities, which no_new_privs and the filter forbid, it gives nothing.
    for capability in CapabilitySet::all().iter() {
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    step("setgroups", rustix::thread::set_thread_groups(&[]))?;
    step("setresgid", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    step("setresuid", rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    step("clearing the ambient set", rustix::thread::clear_ambient_capability_set())?;
    let empty = CapabilitySet::empty();
    let sets = CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
    step("capset", rustix::thread::set_capabilities(None, sets))
}

fn nothing_left() -> Result<(), Privileged> {
    if rustix::process::geteuid().is_root() || rustix::process::getuid().is_root() {
        return Err(Privileged::Root);
    }
    let CapabilitySets { effective, permitted, inheritable } =
        rustix::thread::capabilities(None).map_err(|why| Privileged::Step { step: "capget", why: why.into() })?;
    let left = effective | permitted | inheritable;
    if left.is_empty() { Ok(()) } else { Err(Privileged::Capabilities(left)) }
}

fn step(step: &'static str, done: rustix::io::Result<()>) -> Result<(), Privileged> {
    done.map_err(|why| Privileged::Step { step, why: why.into() })
}

#[cfg(test)]
mod tests {
    use super::User;

    #[test]
    fn root_is_nobody_to_become() {
        assert_eq!("15008:15008".parse::<User>().unwrap().to_string(), "15008:15008");
        for text in ["0:0", "0:1", "1:0", "1", "1:", ":1", "a:b", "4294967295:1", "-1:1", "1:1:1"] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }
}
