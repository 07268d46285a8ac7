//! Keeps a few small files in the node's state directory: only root's, and each whole or not there.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Only its owner reads it.
const DIR_MODE: u32 = 0o700;

/// Only its owner reads or writes it.
const FILE_MODE: u32 = 0o600;

/// The longest file read back: a snapshot of the largest mesh is some tens of megabytes.
const MAX_FILE: u64 = 1 << 30;

/// A node's state directory.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`, made if it is missing and closed to all but its owner.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(DIR_MODE))?;
        Ok(Self(path.to_owned()))
    }

    /// What the file holds; None where there is none.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{name} is over {MAX_FILE} bytes")));
            }
            Ok(_) => {}
        }
        fs::read(path).map(Some)
    }

    /// The file that is locked by whoever works with this directory; it holds nothing.
    pub fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(self.0.join("lock"))
    }

    /// Replaces the file. After a crash at any point, also of the machine, it holds the old bytes or the new ones.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.beside(name, bytes)?.sync_all()?;
        self.put(name)?;
        self.dir()?.sync_all()
    }

    /// Replaces the file for every process that reads it from now on. Should the machine crash before [`Self::sync`], the
    /// file may hold the old bytes, or be cut short.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        drop(self.beside(name, bytes)?);
        self.put(name)
    }

    /// Adds to the end of the file. A process that is killed meanwhile may leave a part of it.
    pub fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(self.0.join(name))?.write_all(bytes)
    }

    /// Makes sure that what the file holds outlives a crash of the machine.
    pub fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.0.join(name))?.sync_all()?;
        self.dir()?.sync_all()
    }

    /// Whether there is room for this many bytes more.
    pub fn try_out(&self, bytes: usize) -> io::Result<()> {
        let written = self.beside("room", &vec![0; bytes]).and_then(|file| file.sync_all());
        // Also one that was written in part.
        match fs::remove_file(self.0.join("room.new")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => written,
        }
    }

    fn dir(&self) -> io::Result<File> {
        File::open(&self.0)
    }

    fn put(&self, name: &str) -> io::Result<()> {
        fs::rename(self.0.join(format!("{name}.new")), self.0.join(name))
    }

    fn beside(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let beside = self.0.join(format!("{name}.new"));
        // One left by a crash may have been cut short, and `mode` binds only a file that is made.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
        file.write_all(bytes)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::StateDir;

    #[test]
    fn what_is_written_is_read_back_and_is_nobody_elses() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("state");
        let dir = StateDir::open(&path).unwrap();
        assert_eq!(dir.read("node.key").unwrap(), None);
        for bytes in [b"one".as_slice(), b"two"] {
            dir.write("node.key", bytes).unwrap();
            assert_eq!(dir.read("node.key").unwrap().as_deref(), Some(bytes));
        }
        dir.replace("node.key", b"three").unwrap();
        assert_eq!(dir.read("node.key").unwrap().as_deref(), Some(b"three".as_slice()));
        dir.sync("node.key").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("node.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_was_cut_short_by_a_crash_is_not_seen() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temporary.path()).unwrap();
        fs::write(temporary.path().join("snapshot.new"), b"hal").unwrap();
        assert_eq!(dir.read("snapshot").unwrap(), None);
        dir.write("snapshot", b"whole").unwrap();
        assert_eq!(dir.read("snapshot").unwrap().as_deref(), Some(b"whole".as_slice()));
    }
}
