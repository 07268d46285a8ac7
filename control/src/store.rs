//! Keeps files in the state directory: only this user reads them, and a crash leaves the old or the new, never half of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Only this user.
const PRIVATE_FILE: u32 = 0o600;
/// Only this user.
const PRIVATE_FOLDER: u32 = 0o700;
/// Larger state than this was not written here.
const MAX_STATE: u64 = 64 << 20;

/// Makes the state directory, if it is not there.
pub fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path)
}

/// Writes the file whole: to a neighbour first, which takes its place once it is on the disk.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, Until::OnDisk)
}

/// How long a write takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until a power cut can't undo it.
    OnDisk,
    /// Until other processes see it: for what is only remembered to do better, and stands in the way of an edit.
    Seen,
}

fn replace(path: &Path, bytes: &[u8], until: Until) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let neighbour = folder.join(name);
    match fs::remove_file(&neighbour) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&neighbour)?;
    file.write_all(bytes)?;
    if until == Until::Seen {
        return fs::rename(&neighbour, path);
    }
    file.sync_all()?;
    fs::rename(&neighbour, path)?;
    File::open(folder)?.sync_all()
}

/// Has the file take another's place, on the disk too.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes the value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, &serde_json::to_vec(value)?)
}

/// Writes the file unless it says the same already, and does not wait for the disk.
pub fn remember(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::read(path) {
        Ok(before) if before == bytes => Ok(()),
        Ok(_) | Err(_) => replace(path, bytes, Until::Seen),
    }
}

/// The JSON value in the file; None where there is no file.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_STATE => Err(io::Error::other("it is larger than any state written here")),
        Ok(_) => Ok(Some(serde_json::from_slice(&fs::read(path)?)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
