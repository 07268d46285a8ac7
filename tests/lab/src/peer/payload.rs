//! Makes bytes that look random, in pieces of any size, and digests them as they pass.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

/// A block to cut pieces from: making every byte anew would measure the generator.
const BLOCK: usize = 1 << 20;

/// Between the starts of two pieces; prime, so that the same cut comes back late.
const STRIDE: usize = 65_537;

/// The bytes of a SHA-256 digest.
pub const DIGEST: usize = 32;

/// Bytes that look random.
#[derive(Debug)]
pub struct Payload {
    block: Vec<u8>,
    start: usize,
}

impl Payload {
    /// The payload of a seed: both ends never need to agree on it, digests travel instead.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut block = Vec::with_capacity(BLOCK * 2);
        while block.len() < BLOCK * 2 {
            // SplitMix64: https://prng.di.unimi.it/splitmix64.c describes it.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            block.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        Self { block, start: 0 }
    }

    fn piece(&mut self, length: usize) -> &[u8] {
        self.start = (self.start + STRIDE) % BLOCK;
        self.block.get(self.start..self.start + length.min(BLOCK)).unwrap_or_default()
    }

    /// Writes `length` bytes in pieces of `chunk`; their digest.
    pub fn send(&mut self, to: &mut impl Write, length: u64, chunk: usize) -> io::Result<[u8; DIGEST]> {
        let mut digest = Sha256::new();
        let mut left = length;
        while left > 0 {
            let piece = self.piece(usize::try_from(left).unwrap_or(BLOCK).min(chunk));
            to.write_all(piece)?;
            digest.update(piece);
            left -= piece.len() as u64;
        }
        Ok(digest.finalize().into())
    }
}

/// Reads exactly `length` bytes; their digest.
pub fn receive(from: &mut impl Read, length: u64, chunk: usize) -> io::Result<[u8; DIGEST]> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; chunk.clamp(1, BLOCK)];
    let mut left = length;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(BLOCK).min(buffer.len());
        let n = from.read(buffer.get_mut(..room).unwrap_or_default())?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} of {length} bytes are missing")));
        }
        digest.update(buffer.get(..n).unwrap_or_default());
        left -= n as u64;
    }
    Ok(digest.finalize().into())
}

/// A digest as people compare it.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Payload, receive};

    #[test]
    fn what_is_sent_is_what_is_digested() {
        let mut wire = Vec::new();
        let sent = Payload::new(7).send(&mut wire, 3_000_001, 70_000).unwrap();
        assert_eq!(wire.len(), 3_000_001);
        assert_eq!(receive(&mut wire.as_slice(), 3_000_001, 1_000).unwrap(), sent);
    }
}
