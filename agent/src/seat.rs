//! Sees to it that one agent at a time writes a node's maps. A newer agent takes over by binding the proxies' socket
//! anew; the older one notices, lets go of the lock, and writes nothing more.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use crate::state_dir::StateDir;

/// How long an older agent may take to let go: it looks twice a second. One that is stuck is for a person to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the lock is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// The right to write a node's maps. Dropping it lets the next agent in.
#[derive(Debug)]
pub struct Seat {
    socket: PathBuf,
    bound: (u64, u64),
    #[expect(dead_code, reason = "held open, for its lock")]
    lock: File,
}

impl Seat {
    /// Waits for the seat, once `socket` was bound: that is what tells an older agent to leave it.
    pub async fn take(dir: &StateDir, socket: &Path) -> io::Result<Self> {
        let bound = id(socket)?;
        let lock = dir.lock_file()?;
        let patience = tokio::time::timeout(PATIENCE, async {
            loop {
                match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                    Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(AGAIN).await,
                    result => return result,
                }
            }
        });
        match patience.await {
            Ok(locked) => locked?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "another agent of this node does not end")),
        }
        Ok(Self { socket: socket.to_owned(), bound, lock })
    }

    /// True where a newer agent has bound the socket.
    pub fn is_wanted(&self) -> bool {
        // One that was removed is nobody's: a newer agent leaves its own there.
        id(&self.socket).is_ok_and(|now| now != self.bound)
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Seat;
    use crate::state_dir::StateDir;

    #[tokio::test(start_paused = true)]
    async fn a_newer_agent_waits_until_the_older_one_has_left() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temporary.path()).unwrap();
        let socket = temporary.path().join("proxy.sock");
        fs::write(&socket, "").unwrap();
        let older = Seat::take(&dir, &socket).await.unwrap();
        assert!(!older.is_wanted());
        fs::write(temporary.path().join("new"), "").unwrap();
        fs::rename(temporary.path().join("new"), &socket).unwrap();
        assert!(older.is_wanted());
        assert!(Seat::take(&dir, &socket).await.is_err(), "two agents write one node's maps");
        drop(older);
        assert!(!Seat::take(&dir, &socket).await.unwrap().is_wanted());
    }
}
