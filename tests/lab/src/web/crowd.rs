//! Many connections that take or give bytes slowly, and one that moves many.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Between two sips.
const PAUSE: Duration = Duration::from_millis(500);

/// What one sip is: so slow that no buffer ever empties.
const SIP: usize = 512;

/// What a crowd had when it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// Connections that were open to the end.
    pub n_open: usize,
    /// Bytes that they took or gave.
    pub n_bytes: u64,
}

/// What each of a crowd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Slow {
    /// Asks for a long answer and hardly reads it.
    Reader,
    /// Sends a long body as fast as it is taken, to an endpoint that hardly reads it.
    Sender,
    /// Sends a long body a few bytes at a time.
    Writer,
}

/// Opens `count` connections and keeps them until the file is there; `open` is called when all have begun.
pub async fn crowd(target: &str, slow: Slow, count: usize, until: PathBuf, open: fn(&str)) -> Result<Crowd> {
    let mut all = JoinSet::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(target).await.with_context(|| format!("connect {target}"))?;
        let head = match slow {
            Slow::Reader => format!("GET /bytes/1073741824 HTTP/1.1\r\nhost: {target}\r\n\r\n"),
            Slow::Sender => {
                format!("POST /wait/60000 HTTP/1.1\r\nhost: {target}\r\ncontent-length: 1073741824\r\n\r\n")
            }
            Slow::Writer => format!("POST / HTTP/1.1\r\nhost: {target}\r\ncontent-length: 1073741824\r\n\r\n"),
        };
        stream.write_all(head.as_bytes()).await?;
        all.spawn(one(stream, slow, until.clone()));
    }
    open("open");
    let mut said = Crowd::default();
    while let Some(ended) = all.join_next().await {
        if let Some(n) = ended?? {
            said.n_open += 1;
            said.n_bytes += n;
        }
    }
    Ok(said)
}

/// One of them: what it moved, where it was open to the end.
async fn one(mut stream: TcpStream, slow: Slow, until: PathBuf) -> Result<Option<u64>> {
    let (mut sip, mut n_bytes) = ([b'x'; SIP], 0);
    let block = vec![b'x'; 64 * 1024];
    while !until.exists() {
        let moved = match slow {
            Slow::Reader => stream.read(&mut sip).await,
            Slow::Sender => match tokio::time::timeout(PAUSE, stream.write(&block)).await {
                Ok(moved) => moved,
                Err(_full) => continue,
            },
            Slow::Writer => stream.write(&sip).await,
        };
        match moved {
            Ok(0) | Err(_) => return Ok(None),
            Ok(n) => n_bytes += n as u64,
        }
        if slow != Slow::Sender {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(Some(n_bytes))
}

/// A body of so many bytes there, and one back; how many came back.
pub async fn transfer(target: &str, up: u64, down: u64) -> Result<u64> {
    let mut stream = TcpStream::connect(target).await.with_context(|| format!("connect {target}"))?;
    let head =
        format!("POST /bytes/{down} HTTP/1.1\r\nhost: {target}\r\ncontent-length: {up}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let block = vec![b'x'; 256 * 1024];
    let mut left = up;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        stream.write_all(block.get(..n).unwrap_or_default()).await?;
        left -= n as u64;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(head.starts_with("HTTP/1.1 200"), "it is answered: {head}");
    let (mut n_came, mut block) = (0, block);
    loop {
        match stream.read(&mut block).await? {
            0 => return Ok(n_came),
            n => n_came += n as u64,
        }
    }
}
