//! Keeps hold of the BPF file system that the pins are in. Held open, it can't be unmounted but lazily; and then what is pinned
//! in it lives on, and is pinned anew where it was looked for.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use super::{
    error::AttachError,
    object::{Kernel, PINS_DEPTH, prepare},
    syscall,
};

/// The directory of pins, held open.
pub(super) struct Held(fs::File);

impl Held {
    pub(super) fn of(pins: &Path) -> Result<Self, AttachError> {
        let why = |source| AttachError::Pin { path: pins.to_owned(), source };
        fs::File::open(pins).map(Self).map_err(why)
    }

    /// Whether this is the file system that is mounted there. Pins that were removed from it are whose who removed them.
    fn is_mounted_at(&self, root: &Path) -> io::Result<bool> {
        let held = self.0.metadata()?.dev();
        match fs::metadata(root) {
            Ok(found) => Ok(found.dev() == held),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A path that leads into it, mounted or not.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Kernel {
    /// Mounts the BPF file system again where it was unmounted, and pins anew what was pinned. True where it did.
    pub fn hold_pins(&mut self) -> Result<bool, AttachError> {
        let root = self.pins.ancestors().nth(PINS_DEPTH).unwrap_or(&self.pins);
        let why = |path: &Path, source| AttachError::Pin { path: path.to_owned(), source };
        if self.held.is_mounted_at(root).map_err(|source| why(root, source))? {
            return Ok(false);
        }
        prepare(&self.pins)?;
        let held = self.held.path();
        for entry in fs::read_dir(&held).map_err(|source| why(&held, source))? {
            let from = entry.map_err(|source| why(&held, source))?.path();
            let Some(to) = from.file_name().map(|name| self.pins.join(name)) else { continue };
            if !to.exists() {
                let pinned = syscall::open(&from).and_then(|object| syscall::pin(object.as_fd(), &to));
                pinned.map_err(|source| why(&to, source))?;
            }
        }
        self.held = Held::of(&self.pins)?;
        Ok(true)
    }
}
