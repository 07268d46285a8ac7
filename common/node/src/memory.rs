//! Keeps a process's memory from others, and gives back to the kernel what was freed but kept: after a start, which parses much once, and
//! after a burst.

mod program;

use std::{io, time::Duration};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

/// How long no change must have come before memory is given back: a roll-out's come closer together.
const BETWEEN_CHANGES: Duration = Duration::from_secs(3);

/// Has no core file hold what this process remembers, and nobody without the right to trace any process read it: keys are in it.
pub fn keep() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// What the allocator holds free goes back. Takes a millisecond or so: for quiet moments.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
pub fn give_back() {
    // SAFETY: malloc_trim takes the arenas' own locks, and moves nothing that is in use.
    let _gave_any = unsafe { libc::malloc_trim(0) };
}

/// What the allocator holds free goes back. Without glibc there is nothing to ask.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

/// The same, and what a start needed of the program itself: for the end of a start, and of a burst.
pub fn give_back_all() {
    give_back();
    program::unmap();
}

/// Gives the kernel back what it took to take changes in, each time none has come for a while: a whole Snapshot is read, decoded and
/// kept at three times its size, and what the last of its versions leaves lies between what is used. Ends when no change can come.
pub async fn give_back_between<T>(mut changes: watch::Receiver<T>) {
    while changes.changed().await.is_ok() {
        while timeout(BETWEEN_CHANGES, changes.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
        if let Err(why) = spawn_blocking(give_back_all).await {
            tracing::error!(error = &why as &dyn std::error::Error, "giving memory back broke off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
    use tokio::{sync::watch, time::timeout};

    #[test]
    fn memory_is_neither_dumped_nor_read_by_others() {
        super::keep().unwrap();
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_back_ends_with_the_changes() {
        let (change, changes) = watch::channel(0);
        let giving = tokio::spawn(super::give_back_between(changes));
        change.send_replace(1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!giving.is_finished());
        drop(change);
        timeout(Duration::from_secs(60), giving).await.expect("it ends").unwrap();
    }
}
