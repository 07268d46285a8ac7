//! Reads a directory of manifests, and again whenever something in it changes: edits, renames over a file, symlinks swapped.
//!
//! Hidden files, folders within it and files not named `*.yaml` or `*.yml` are not read. While the directory itself can't be
//! read, all that it last said stays in force. A copy of each file that was good throughout is kept in the state directory, so
//! that what stays in force also outlives a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Sourced,
    inotify::{Changes, Inotify},
    manifest::{self, Reading, Readings},
    shelf::{Settled, Shelf},
    yaml::MAX_FILE,
};
use crate::{
    diagnostic::{Diagnostic, Effect, Object, Place},
    store,
    world::Settings,
};

/// The most files read: each costs a look at every change.
const MAX_FILES: usize = 10_000;
/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;
/// Files that change while they are read are read again, so often at most before what was read is told.
const MAX_ROUNDS: usize = 8;
/// How often a directory that is not there, nor its parent to tell of it, is looked for.
const ABSENT: Duration = Duration::from_secs(1);

/// A directory of manifests.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    settings: Settings,
    inotify: Inotify,
    copies: Copies,
    files: BTreeMap<Arc<str>, File>,
    shelf: Shelf,
    /// What was settled last; None before the first time.
    settled: Option<Settled>,
    /// Changes that came while the files were read once too often; None where all are read.
    left: Option<Changes>,
}

/// A file as last read.
#[derive(Clone, Debug)]
struct File {
    stamp: Stamp,
    reading: Arc<Reading>,
}

/// What tells one content of a file from another, beside events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What was found in the directory.
struct Found {
    /// By name: where each leads, link by link, itself first.
    files: BTreeMap<Arc<str>, Vec<PathBuf>>,
    /// True where there were more than are read.
    more: bool,
}

impl Directory {
    /// Reads `path` a first time; the copies of good files are kept in the folder `copies`. Needs a tokio runtime.
    pub fn open(path: &Path, copies: &Path, settings: Settings) -> io::Result<(Self, Sourced)> {
        let copies = Copies::open(copies)?;
        // What the copies say was in force when this process ended last; now the files decide.
        let (shelf, _) = Shelf::default().settle(&copies.readings(&settings)?);
        let mut directory = Self {
            path: std::path::absolute(path)?,
            settings,
            inotify: Inotify::new()?,
            copies,
            files: BTreeMap::new(),
            shelf,
            settled: None,
            left: None,
        };
        let sourced = directory.read(Changes { anything: true, ..Changes::default() })?;
        Ok((directory, sourced))
    }

    /// Reads again after every change, and publishes what it says, until nobody listens.
    pub async fn follow(mut self, sender: watch::Sender<Arc<Sourced>>) -> io::Result<()> {
        loop {
            let changes = match self.left.take() {
                Some(left) => left,
                None => {
                    tokio::select! {
                        () = sender.closed() => return Ok(()),
                        ready = self.inotify.wait() => ready?,
                        () = tokio::time::sleep(ABSENT), if !self.path.is_dir() => {}
                    }
                    self.inotify.changes()?
                }
            };
            if !self.concerns(&changes) {
                continue;
            }
            let (directory, sourced) = tokio::task::spawn_blocking(move || {
                let sourced = self.read(changes);
                (self, sourced)
            })
            .await
            .map_err(io::Error::other)?;
            self = directory;
            sender.send_replace(Arc::new(sourced?));
        }
    }

    /// False for events beside the directory, of no file of it.
    fn concerns(&self, changes: &Changes) -> bool {
        changes.anything
            || !self.path.is_dir()
            || changes.paths.iter().any(|path| path.parent() == Some(&self.path) || self.links().contains(path))
    }

    /// Every path whose change can change what is read, other than those in the directory.
    fn links(&self) -> BTreeSet<PathBuf> {
        let mut links: BTreeSet<PathBuf> = chain(&self.path).into_iter().collect();
        if let Ok(found) = find(&self.path) {
            links.extend(found.files.into_values().flatten());
        }
        links
    }

    /// Reads what changed, and settles what is in force.
    fn read(&mut self, mut changes: Changes) -> io::Result<Sourced> {
        let mut told = Vec::new();
        let mut is_read = false;
        for _ in 0..MAX_ROUNDS {
            told.clear();
            let mut folders: BTreeSet<PathBuf> =
                self.links().iter().filter_map(|link| link.parent().map(Path::to_owned)).collect();
            folders.insert(self.path.clone());
            self.inotify.watch(&folders)?;
            match find(&self.path) {
                Ok(found) => self.take(found, &changes, &mut told),
                Err(error) => told.push(self.absent(&error)),
            }
            let since = self.inotify.changes()?;
            if !self.concerns(&since) || !self.path.is_dir() {
                is_read = true;
                break;
            }
            changes = since;
        }
        // Their events are taken: no other may come to tell of them.
        self.left = (!is_read).then_some(changes);
        let readings = self.files.iter().map(|(name, file)| (name.clone(), file.reading.clone())).collect();
        let shelf = std::mem::take(&mut self.shelf);
        let again = match &self.settled {
            Some(before) => shelf.again(before, &readings),
            None => Err(shelf),
        };
        let (shelf, mut sourced) = again.unwrap_or_else(|shelf| shelf.settle(&readings));
        self.shelf = shelf;
        self.settled = Some(Settled { readings, sourced: sourced.clone() });
        sourced.diagnostics.append(&mut told);
        sourced.diagnostics.sort();
        Ok(sourced)
    }

    fn take(&mut self, found: Found, changes: &Changes, told: &mut Vec<Diagnostic>) {
        let Found { files, more } = found;
        if more {
            told.push(self.fault(
                format!("it has more than {MAX_FILES} manifests; those after, by name, are not read"),
                "put several objects in one file",
            ));
        }
        self.files.retain(|name, _| files.contains_key(name));
        self.copies.retain(|name| files.contains_key(name));
        for (name, chain) in files {
            let Some(path) = chain.first() else { continue };
            let touched = changes.anything || chain.iter().any(|p| changes.paths.contains(p));
            let before = self.files.get(&name);
            let stamp = match stamp(path) {
                Ok(stamp) => stamp,
                // Gone since it was listed: the event that says so is on its way.
                Err(error) if error.kind() == io::ErrorKind::NotFound && chain.len() == 1 => continue,
                Err(error) => {
                    self.files.insert(name.clone(), unreadable(&name, &error));
                    continue;
                }
            };
            if !touched && before.is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            if chain.iter().any(|p| self.inotify.is_being_written(p)) {
                continue;
            }
            let reading = match load(path) {
                Ok(bytes) => {
                    let reading = manifest::read(&name, &bytes, &self.settings);
                    if reading.items.iter().all(|item| item.object.is_some()) {
                        self.copies.keep(&name, &bytes);
                    }
                    reading
                }
                Err(error) => unreadable(&name, &error).reading.as_ref().clone(),
            };
            // What is as it was keeps its objects: nothing downstream has to look at them again.
            match self.files.get_mut(&name) {
                Some(file) if *file.reading == reading => file.stamp = stamp,
                _ => drop(self.files.insert(name, File { stamp, reading: Arc::new(reading) })),
            }
        }
    }

    fn absent(&self, error: &io::Error) -> Diagnostic {
        self.fault(format!("it can't be read: {error}"), "create it, or give this process access")
    }

    fn fault(&self, problem: String, mend: &str) -> Diagnostic {
        Diagnostic {
            place: Some(Place { file: self.path.to_string_lossy().into(), document: 0, line: 1 }),
            object: Object::Described("the directory".to_owned()),
            field: String::new(),
            problem,
            mend: mend.to_owned(),
            effect: Effect::Kept,
        }
    }
}

fn unreadable(name: &Arc<str>, error: &io::Error) -> File {
    let reading =
        manifest::unreadable(name, format!("it can't be read: {error}"), "let this process read it, or remove it");
    // No file has this stamp: the next look tries again.
    let stamp = Stamp { device: 0, inode: 0, size: u64::MAX, modified: (0, 0), changed: (0, 0) };
    File { stamp, reading: Arc::new(reading) }
}

fn find(path: &Path) -> io::Result<Found> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_manifest = Path::new(name).extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_manifest && !name.starts_with('.') && !path.join(name).is_dir() {
            names.insert(Arc::<str>::from(name));
        }
    }
    let more = names.len() > MAX_FILES;
    let files = names.into_iter().take(MAX_FILES).map(|name| (name.clone(), chain(&path.join(&*name)))).collect();
    Ok(Found { files, more })
}

/// The path, and every path that it leads to by symbolic links, and the links among the folders above each.
fn chain(path: &Path) -> Vec<PathBuf> {
    let mut chain = vec![path.to_owned()];
    let mut next = path.to_owned();
    while chain.len() < MAX_LINKS
        && let Ok(to) = fs::read_link(&next)
    {
        next = next.parent().unwrap_or(Path::new("/")).join(to);
        chain.push(next.clone());
        if let Some(folder) = next.parent()
            && folder.is_symlink()
        {
            chain.push(folder.to_owned());
        }
    }
    chain
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// The file's bytes, one more than is read at most where it is longer. Only regular files: a pipe would wait for ever.
fn load(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Copies of the files that were good throughout, as last seen.
#[derive(Debug)]
struct Copies {
    folder: PathBuf,
    names: BTreeSet<Arc<str>>,
}

impl Copies {
    fn open(folder: &Path) -> io::Result<Self> {
        store::folder(folder)?;
        let names = find(folder)?.files.into_keys().collect();
        Ok(Self { folder: folder.to_owned(), names })
    }

    fn readings(&self, settings: &Settings) -> io::Result<Readings> {
        let read = |name: &Arc<str>| {
            let bytes = load(&self.folder.join(&**name))?;
            Ok((name.clone(), Arc::new(manifest::read(name, &bytes, settings))))
        };
        self.names.iter().map(read).collect()
    }

    /// A copy that can't be written costs a restart its memory, and nothing else.
    fn keep(&mut self, name: &Arc<str>, bytes: &[u8]) {
        if let Err(error) = store::remember(&self.folder.join(&**name), bytes) {
            tracing::warn!(file = %name, %error, "could not keep a copy of a good file");
        }
        self.names.insert(name.clone());
    }

    fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.names.retain(|name| {
            let stays = keep(name);
            if !stays
                && let Err(error) = fs::remove_file(self.folder.join(&**name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %name, %error, "could not remove the copy of a file that is gone");
            }
            stays
        });
    }
}
