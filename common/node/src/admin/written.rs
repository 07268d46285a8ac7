//! Answers with what is too long to be held whole: it is written piece by piece, as the asker takes it.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream;
use millrace_model::Snapshot;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Response, body};

/// A piece: large enough that passing one on costs nothing beside writing it.
const PIECE: usize = 64 * 1024;

/// Pieces that wait for the asker; then the writer does.
const AHEAD: usize = 2;

/// JSON that `write` writes, on a thread of its own: a Snapshot is written for a second, and a worker has others to serve.
pub(super) fn json(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Response {
    let (to, from) = mpsc::channel(AHEAD);
    // It ends by itself: at the end of what there is, or when nobody takes it.
    drop(tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { piece: Vec::with_capacity(PIECE), to };
        if let Err(why) = write(&mut pieces).and_then(|()| pieces.flush()) {
            tracing::debug!(error = &why as &(dyn std::error::Error + 'static), "an answer was not written to its end");
        }
    }));
    body::stream("application/json", stream::unfold(from, async |mut from| Some((from.recv().await?, from))))
}

/// Writes what a process works by: its settings, an object, and beside them the Snapshot.
pub fn configuration(settings: Value, snapshot: &Snapshot, mut to: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut to, &Works { settings, snapshot })?;
    to.write_all(b"\n")
}

#[derive(Serialize)]
struct Works<'s> {
    #[serde(flatten)]
    settings: Value,
    snapshot: &'s Snapshot,
}

struct Pieces {
    piece: Vec<u8>,
    to: mpsc::Sender<Bytes>,
}

impl Pieces {
    fn pass_on(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.to.blocking_send(piece.into()).map_err(|_gone| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, _) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE {
            self.pass_on()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.pass_on() }
    }
}
