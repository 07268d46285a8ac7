//! Carries lines of access logs from the workers to a file or standard output. A worker gathers lines and gives them away many at
//! once; where they are not taken fast enough they are dropped, and counted: no request ever waits for its line.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

/// Bytes that a worker gathers before it gives them away: a write of the file's own cost less than each line's.
pub(super) const GATHERED: usize = 16 * 1024;

/// Gatherings that wait to be written: 2 MiB, and what a disk that stalls for a moment leaves behind.
const WAITING: usize = 128;

/// Owner and group may read: who called whom is not for everybody.
const MODE: u32 = 0o640;

/// What lines are written to.
type Sink = Box<dyn Write + Send>;

/// Where lines go.
#[derive(Default)]
pub(crate) struct Log {
    to: Mutex<Option<Sink>>,
    /// Its thread begins with the first line: where nobody asks for lines there is none.
    queue: OnceLock<Option<SyncSender<Gathered>>>,
    counts: Arc<Counts>,
}

/// Lines of one worker.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) bytes: Vec<u8>,
    pub(super) n_lines: u64,
}

/// What became of lines.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// The file that lines are appended to, or standard output: opened while there is a privilege to open it by.
pub(crate) fn sink(path: Option<&Path>) -> io::Result<Sink> {
    Ok(match path {
        Some(path) => Box::new(OpenOptions::new().append(true).create(true).mode(MODE).open(path)?),
        None => Box::new(io::stdout()),
    })
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Log {
    /// Has lines written to `to`, by a thread of its own that ends once nobody can give it more. Nothing is written before this.
    pub(crate) fn open(&self, to: Sink) {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }

    fn queue(&self) -> Option<&SyncSender<Gathered>> {
        let begin = || {
            let to = self.to.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            let (give, taken) = sync_channel(WAITING);
            let counts = self.counts.clone();
            let thread = thread::Builder::new().name("access-log".to_owned());
            match thread.spawn(move || write_all(&taken, to, &counts)) {
                Ok(_runs) => Some(give),
                Err(why) => {
                    tracing::warn!(%why, "access logs can't be written");
                    None
                }
            }
        };
        self.queue.get_or_init(begin).as_ref()
    }

    /// Gives lines away.
    pub(super) fn give(&self, gathered: &mut Gathered) {
        let Gathered { bytes, n_lines } = std::mem::take(gathered);
        if n_lines == 0 {
            return;
        }
        let given = self.queue().map(|queue| queue.try_send(Gathered { bytes, n_lines }));
        if !matches!(given, Some(Ok(()))) {
            self.counts.dropped.fetch_add(n_lines, Relaxed);
        }
    }

    /// Its counts, ready to be printed.
    pub(super) fn printed(&self) -> impl Collector {
        Printed(self.counts.clone())
    }
}

fn write_all(taken: &Receiver<Gathered>, mut to: impl Write, counts: &Counts) {
    while let Ok(Gathered { bytes, n_lines }) = taken.recv() {
        let outcome = to.write_all(&bytes).and_then(|()| to.flush());
        let count = if outcome.is_ok() { &counts.written } else { &counts.failed };
        let before = count.fetch_add(n_lines, Relaxed);
        if let (Err(why), 0) = (outcome, before) {
            tracing::warn!(%why, "access logs can't be written; told once, the rest is counted");
        }
    }
}

#[derive(Debug)]
struct Printed(Arc<Counts>);

impl Collector for Printed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Counts { written, dropped, failed } = &*self.0;
        let help = "Lines of access logs, by what became of them";
        let mut family = encoder.encode_descriptor("proxy_access_log_lines", help, None, MetricType::Counter)?;
        for (outcome, count) in [("written", written), ("dropped", dropped), ("failed", failed)] {
            let label = [("outcome", outcome)];
            ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{
            atomic::Ordering::Relaxed,
            mpsc::{Receiver, SyncSender, sync_channel},
        },
    };

    use super::{Gathered, Log, WAITING};

    /// A file whose writes each wait until they are let through.
    struct Slow(Receiver<()>, SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_stalls_costs_lines_that_are_counted_and_no_waiting() {
        let (through, wait) = sync_channel(2 * WAITING);
        let (seen, written) = sync_channel(2 * WAITING);
        let log = Log::default();
        log.open(Box::new(Slow(wait, seen)));
        let given = 2 * WAITING as u64;
        for _ in 0..given {
            log.give(&mut Gathered { bytes: b"x\ny\n".to_vec(), n_lines: 2 });
        }
        let dropped = log.counts.dropped.load(Relaxed);
        // One more than waits may be on its way already.
        let most = 2 * (WAITING as u64 + 1);
        assert!(dropped >= 2 * given - most && dropped < 2 * given, "{dropped} of {} lines", 2 * given);
        let kept = (2 * given - dropped) / 2;
        (0..kept).for_each(|_| through.send(()).unwrap());
        (0..kept).for_each(|_| assert_eq!(written.recv().unwrap(), b"x\ny\n"));
    }

    #[test]
    fn lines_that_nobody_writes_are_counted() {
        let log = Log::default();
        log.give(&mut Gathered { bytes: b"x\n".to_vec(), n_lines: 1 });
        log.give(&mut Gathered::default());
        assert_eq!(log.counts.dropped.load(Relaxed), 1);
    }
}
