//! Sends 64 bytes and waits for them, on one connection.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::Result;

use super::{
    Measured, Task,
    window::{Phase, Window},
};
use crate::clock;

/// A small message: a request of a binary protocol, a key of a cache.
pub(super) const MESSAGE: usize = 64;

pub(super) fn run(task: Task) -> Result<Measured> {
    let mut stream = TcpStream::connect(task.target)?;
    stream.set_nodelay(true)?;
    let (mut window, mut buffer) = (Window::of(task), [7; MESSAGE]);
    let mut before = clock::now();
    while window.phase(before)? != Phase::Over {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        let now = clock::now();
        window.done(before, now);
        before = now;
    }
    window.close()
}
