//! Sends as much as is taken, a thread for each stream.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Result, bail};

use super::{Measured, Task};
use crate::{clock, machine::Cpu};

/// Bytes given to the kernel with one call: as much as a busy sender has at hand.
const CHUNK: usize = 256 * 1024;

pub(super) fn run(task: Task, n_streams: usize) -> Result<Measured> {
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let streams: Vec<TcpStream> = (0..n_streams).map(|_| TcpStream::connect(task.target)).collect::<Result<_, _>>()?;
    thread::scope(|scope| {
        let senders: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| send(stream, &sent, &over))).collect();
        // The window's ends are times, not events: there is nothing else to wait for.
        thread::sleep(task.warm);
        let (start, cpu, before) = (clock::now(), Cpu::now()?, sent.load(Ordering::Relaxed));
        thread::sleep(task.window);
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), Cpu::now()?.since(cpu));
        let bytes = (sent.load(Ordering::Relaxed) - before) as f64;
        over.store(true, Ordering::Relaxed);
        for sender in senders {
            match sender.join() {
                Ok(sent) => sent?,
                Err(_panic) => bail!("a sender panicked"),
            }
        }
        Ok(Measured { seconds, bytes, cpu, ..Measured::default() })
    })
}

fn send(mut stream: TcpStream, sent: &AtomicU64, over: &AtomicBool) -> Result<()> {
    // Nothing that could be compressed, and nothing that the processor could know in advance.
    let chunk: Vec<u8> = (0..CHUNK as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&chunk)?;
        sent.fetch_add(CHUNK as u64, Ordering::Relaxed);
    }
    Ok(())
}
