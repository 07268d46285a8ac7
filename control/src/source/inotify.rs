//! Waits for changes under a few folders, by inotify, and knows which files somebody is still writing.
//!
//! A file is read when its writer closes it: a truncated file that is about to be filled would else take its objects away.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Room for some hundred events at once; the kernel keeps the rest.
const BUFFER: usize = 64 * 1024;

/// What is told of: names that appear, vanish, or are written and closed.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Watches folders.
#[derive(Debug)]
pub struct Inotify {
    fd: AsyncFd<OwnedFd>,
    /// Several paths can lead to one folder.
    folders: BTreeMap<i32, BTreeSet<PathBuf>>,
    /// Files that were written to and not yet closed.
    writing: BTreeSet<PathBuf>,
}

/// What happened since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Paths that something happened to, other than that somebody is still writing.
    pub paths: BTreeSet<PathBuf>,
    /// True where the kernel lost events, or a watched folder itself went: anything may have changed.
    pub anything: bool,
}

impl Inotify {
    /// Watches nothing yet. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: an OwnedFd is open and always the same; nothing here takes it out of the AsyncFd before both are dropped.
        #[expect(unsafe_code, reason = "tokio's safe constructor is deprecated; see tokio-rs/tokio#8587")]
        let fd = unsafe { AsyncFd::register(fd)? };
        Ok(Self { fd, folders: BTreeMap::new(), writing: BTreeSet::new() })
    }

    /// Watches these folders and no others. A folder that is not there is not watched, which is no error: its parent is
    /// the one to tell of it.
    pub fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
        let mut next: BTreeMap<i32, BTreeSet<PathBuf>> = BTreeMap::new();
        for folder in folders {
            match inotify::add_watch(self.fd.get_ref(), folder, EVENTS | WatchFlags::ONLYDIR) {
                Ok(watch) => drop(next.entry(watch).or_default().insert(folder.clone())),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for watch in self.folders.keys().filter(|watch| !next.contains_key(*watch)) {
            // A folder that was removed took its watch with it.
            if let Err(error) = inotify::remove_watch(self.fd.get_ref(), *watch)
                && error != Errno::INVAL
            {
                return Err(error.into());
            }
        }
        self.folders = next;
        Ok(())
    }

    /// True while somebody is writing this file.
    pub fn is_being_written(&self, path: &Path) -> bool {
        self.writing.contains(path)
    }

    /// Waits until something happened.
    pub async fn wait(&self) -> io::Result<()> {
        // Cleared before the events are read: one that comes between is read, and wakes once more for nothing.
        self.fd.readable().await?.clear_ready();
        Ok(())
    }

    /// What happened since it was last asked; empty where nothing did.
    pub fn changes(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        loop {
            match read(self.fd.get_ref(), &mut buffer) {
                Ok(events) => events.into_iter().for_each(|event| self.note(event, &mut changes)),
                Err(Errno::AGAIN) => return Ok(changes),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn note(&mut self, (watch, flags, name): Event, changes: &mut Changes) {
        if flags.intersects(ReadFlags::QUEUE_OVERFLOW) {
            self.writing.clear();
            changes.anything = true;
            return;
        }
        if flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
            changes.anything |= self.folders.contains_key(&watch);
            return;
        }
        let Some(name) = name else { return };
        for folder in self.folders.get(&watch).into_iter().flatten() {
            let path = folder.join(&name);
            if flags.intersects(ReadFlags::MODIFY) {
                self.writing.insert(path);
            } else {
                self.writing.remove(&path);
                changes.paths.insert(path);
            }
        }
    }
}

type Event = (i32, ReadFlags, Option<PathBuf>);

fn read(fd: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<Event>, Errno> {
    let mut reader = Reader::new(fd, buffer);
    let mut events = Vec::new();
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        events.push((event.wd(), event.events(), name));
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}
