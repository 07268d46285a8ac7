//! Passes bytes that are too many for a packet: as memory that nobody can change any more, not even its maker.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, SealFlags};

/// Without any one of these the sender could change the bytes under the reader, or take them away (SIGBUS, a short read).
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A memfd that holds `bytes` for good. `name` shows in `/proc/<pid>/fd`.
pub fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut left = bytes;
    let mut at = 0u64;
    while !left.is_empty() {
        let n = rustix::io::pwrite(&memory, left, at)?;
        left = left.get(n..).unwrap_or_default();
        at += n as u64;
    }
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// The bytes of a sealed memfd of at most `limit` bytes. One without all seals is refused: it could change while read.
pub fn unseal(memory: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<u8>> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if !rustix::fs::fcntl_get_seals(memory)?.contains(SEALS) {
        return Err(refuse("the memory is not sealed".to_owned()));
    }
    let size = rustix::fs::fstat(memory)?.st_size;
    let size = match usize::try_from(size) {
        Ok(size) if size <= limit => size,
        Ok(_) | Err(_) => return Err(refuse(format!("the memory holds {size} bytes, over {limit}"))),
    };
    let mut bytes = vec![0; size];
    let mut filled = 0;
    // By pread: the offset is shared with whoever else holds the descriptor.
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(memory, rest, filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(bytes)
}
