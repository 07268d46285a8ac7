//! Opens the file that a pod's network namespace is named by. A manifest says which: it may be anything, or hang.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, fstat, fstatfs, open};
use tokio::{task::JoinHandle, time::timeout};

/// NSFS_MAGIC of linux/magic.h: the file system that namespaces are files of.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// How long the node's loop waits for a path. A local file system answers in microseconds; one that hangs is left to
/// itself, and looked at again with the next try.
const PATIENCE: Duration = Duration::from_millis(50);

/// A namespace's file, and its device and inode.
pub(crate) type Opened = (File, (u64, u64));

/// One path that is being opened: at most one thread hangs for each pod, however often it is tried.
#[derive(Debug, Default)]
pub(super) struct Opening(Option<(String, Task)>);

type Task = JoinHandle<io::Result<Opened>>;

impl Opening {
    /// The network namespace at `path`, opened on a thread of its own.
    pub(super) async fn open(&mut self, path: &str) -> io::Result<Opened> {
        let begun = self.0.take().filter(|(of, _)| of == path);
        let wait = if begun.is_some() { Duration::ZERO } else { PATIENCE };
        let (path, mut opening) = begun.unwrap_or_else(|| {
            let to_open = path.to_owned();
            (path.to_owned(), tokio::task::spawn_blocking(move || open_namespace(&to_open)))
        });
        match timeout(wait, &mut opening).await {
            Ok(opened) => opened.map_err(io::Error::other)?,
            Err(_) => {
                self.0 = Some((path, opening));
                Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))
            }
        }
    }
}

/// Looks before it opens: to open a pipe or a device has effects, and may block for ever.
pub(crate) fn open_namespace(path: &str) -> io::Result<Opened> {
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&found)?.f_type != NSFS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no namespace"));
    }
    // This very file, whatever stands at the path by now.
    let file = File::open(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()))?;
    let id = id(file.as_fd())?;
    Ok((file, id))
}

/// What tells a namespace's file from another.
pub(super) fn id(namespace: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let found = fstat(namespace)?;
    Ok((found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::fs::MetadataExt as _};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::Opening;

    #[tokio::test]
    async fn a_namespace_is_opened_and_nothing_else() {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap();
        let (_, id) = Opening::default().open("/proc/self/ns/net").await.unwrap();
        assert_eq!(id, (own.dev(), own.ino()));
        let temporary = tempfile::tempdir().unwrap();
        let pipe = temporary.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = Opening::default().open(pipe.to_str().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "a pipe that nobody writes to");
        let error = Opening::default().open("/nonexistent").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// One thread hangs, however often its pod is tried.
    #[tokio::test]
    async fn a_path_that_hangs_is_not_opened_twice() {
        let (release, released) = std::sync::mpsc::sync_channel::<()>(0);
        let hanging = tokio::task::spawn_blocking(move || Err(io::Error::other(released.recv().unwrap_err())));
        let mut opening = Opening(Some(("/hangs".to_owned(), hanging)));
        for _ in 0..3 {
            assert_eq!(opening.open("/hangs").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop(release);
        while opening.0.is_some() {
            let error = opening.open("/hangs").await.unwrap_err();
            assert!([io::ErrorKind::TimedOut, io::ErrorKind::Other].contains(&error.kind()), "{error}");
        }
    }
}
