//! Asks a process of the mesh over its admin socket: HTTP/1.1 on a unix stream, one request per connection.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::metrics::Metrics;

/// An admin socket answers from memory: longer means that the process hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer read: a snapshot of a lab is a few hundred kilobytes.
const MAX_ANSWER: u64 = 64 << 20;

/// The most lines kept of a stream: a test that makes more flows than this looks at counters.
const MAX_LINES: usize = 100_000;

/// An admin socket.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Its path.
    pub socket: PathBuf,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Admin {
    /// What GET `path` says, whatever the status.
    pub fn ask(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, "")
    }

    /// The body of GET `path`, which must succeed.
    pub fn get(&self, path: &str) -> Result<String> {
        let answer = self.ask(path)?;
        ensure!(answer.status == 200, "{} {path}: {} {}", self.socket.display(), answer.status, answer.body);
        Ok(answer.body)
    }

    /// The JSON body of GET `path`.
    pub fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(path)?)?)
    }

    /// All metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.get("/metrics")?))
    }

    /// Whether it is ready; if not, why.
    pub fn ready(&self) -> Result<()> {
        let answer = self.ask("/readyz")?;
        ensure!(answer.status == 200, "not ready: {}", answer.body.trim());
        Ok(())
    }

    /// Any request.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let mut stream = self.connect()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader)?;
        let mut body = Vec::new();
        if head.chunked {
            while let Some(chunk) = read_chunk(&mut reader)? {
                body.extend(chunk);
            }
        } else {
            reader.take(MAX_ANSWER).read_to_end(&mut body)?;
        }
        Ok(Answer { status: head.status, body: String::from_utf8(body)? })
    }

    /// The lines of a streamed answer, kept from now on.
    pub fn follow(&self, path: &str) -> Result<Lines> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(None)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n")?;
        let end = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader)?;
        ensure!(head.status == 200 && head.chunked, "{path} is not a stream: {head:?}");
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeper = Arc::clone(&kept);
        Ok(Lines { kept, end, reader: Some(thread::spawn(move || keep_lines(reader, &keeper))) })
    }

    fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket).with_context(|| format!("connect {}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// A streamed answer: its lines are kept as they come, until it is dropped.
#[derive(Debug)]
pub struct Lines {
    kept: Arc<Mutex<Vec<String>>>,
    end: UnixStream,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    /// The first line so far that `is` what is looked for.
    pub fn find(&self, is: impl Fn(&str) -> bool) -> Option<String> {
        self.all().into_iter().find(|line| is(line))
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Already closed by the other end is as good.
        self.end.shutdown(Shutdown::Both).ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

fn keep_lines(mut from: BufReader<UnixStream>, kept: &Mutex<Vec<String>>) {
    let mut rest = Vec::new();
    while let Ok(Some(chunk)) = read_chunk(&mut from) {
        rest.extend(chunk);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            kept.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if kept.len() > MAX_LINES {
            return;
        }
    }
}

#[derive(Debug)]
struct Head {
    status: u16,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut BufReader<UnixStream>) -> Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an HTTP answer: {line:?}"))?;
        let mut chunked = false;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                bail!("the answer ends in its head");
            }
            if line.trim_end().is_empty() {
                return Ok(Self { status, chunked });
            }
            chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        }
    }
}

fn read_chunk(reader: &mut BufReader<UnixStream>) -> Result<Option<Vec<u8>>> {
    let mut size = String::new();
    if reader.read_line(&mut size)? == 0 {
        return Ok(None);
    }
    let size = u64::from_str_radix(size.trim_end(), 16).with_context(|| format!("not a chunk's size: {size:?}"))?;
    ensure!(size <= MAX_ANSWER, "a chunk of {size} bytes");
    let mut chunk = vec![0; usize::try_from(size)?];
    reader.read_exact(&mut chunk)?;
    let mut end = [0; 2];
    reader.read_exact(&mut end)?;
    Ok((size > 0).then_some(chunk))
}
