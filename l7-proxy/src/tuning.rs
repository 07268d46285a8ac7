//! Says how this proxy is tuned: what a NodeProfile asks, as the agent passes it, over defaults that were measured.
//!
//! A tunnel is opened by what holds at that moment and keeps it. What can't be had is not an error here: the proxy serves with
//! what it got, and tells the agent what that is, field by field, for `millrace status`.

use std::{collections::BTreeSet, io, num::NonZeroUsize, os::fd::AsFd, sync::Arc};

use millrace_model::profile::cpu_list;
use millrace_node::wire::node::{InForce, Settings};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::SockRef;

use crate::tunnel;

/// The most workers: more threads than this many cores share nothing but their queue's lock.
pub(crate) const MAX_WORKERS: usize = 256;

/// A longer list of processors is only counted: the agent takes no long values.
const LONGEST_LIST: usize = 48;

/// What HTTP/2 takes for a frame, and for a window (RFC 9113, sections 6.5.2 and 6.9.1).
const FRAMES: (u32, u32) = (16_384, 16_777_215);
const WINDOWS: (u32, u32) = (65_535, 2_147_483_647);

/// How this proxy is tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Threads that carry connections.
    pub(crate) n_workers: usize,
    /// Processors that they run on in turn; none: wherever the kernel puts them.
    pub(crate) cpus: BTreeSet<usize>,
    /// What one stream may have under way.
    pub(crate) stream_window: u32,
    /// What all streams of a tunnel may have under way.
    pub(crate) tunnel_window: u32,
    /// The largest frame taken.
    pub(crate) frame: u32,
    send_buffer: Option<Buffer>,
    receive_buffer: Option<Buffer>,
}

/// A socket buffer that was asked for, and what the kernel grants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    asked: usize,
    granted: usize,
}

/// What the process had when it began: to be had again when nobody asks for anything else.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    n_workers: usize,
    allowed: BTreeSet<usize>,
}

impl Own {
    /// What the command line says, and where the kernel lets this process run.
    pub(crate) fn new(n_workers: usize) -> Self {
        let allowed = sched_getaffinity(None).map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect());
        Self { n_workers, allowed: allowed.unwrap_or_default() }
    }

    /// How the proxy is tuned by these settings. They were checked when they were written, and are bounded here again.
    pub(crate) fn tuned(&self, settings: &Settings) -> Tuning {
        let Settings {
            workers,
            cpus,
            stream_window,
            connection_window,
            frame_size,
            send_buffer,
            receive_buffer,
            limits: _, // The accounts take them.
        } = settings;
        let bounded = |asked: &Option<u32>, (least, most): (u32, u32)| asked.map(|asked| asked.clamp(least, most));
        let stream_window = bounded(stream_window, WINDOWS).unwrap_or(tunnel::STREAM_WINDOW);
        // Every stream's window at once, and no less by default: see `tunnel`.
        let whole = stream_window.saturating_mul(tunnel::STREAMS_TAKEN).min(WINDOWS.1);
        let asked: BTreeSet<usize> = cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).collect();
        let workers = workers.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        Tuning {
            n_workers: workers.unwrap_or(self.n_workers).min(MAX_WORKERS),
            cpus: asked.intersection(&self.allowed).copied().collect(),
            stream_window,
            tunnel_window: bounded(connection_window, WINDOWS).unwrap_or(whole).max(stream_window),
            frame: bounded(frame_size, FRAMES).unwrap_or(tunnel::FRAME),
            send_buffer: send_buffer.map(|asked| Buffer::asked(asked, Side::Send)),
            receive_buffer: receive_buffer.map(|asked| Buffer::asked(asked, Side::Receive)),
        }
    }

    /// Puts the calling thread on the processor that the worker of this number has, or where it may be at all.
    pub(crate) fn place(&self, worker: usize, tuning: &Tuning) {
        let turn = tuning.cpus.len().max(1);
        let one = tuning.cpus.iter().nth(worker % turn).map(|cpu| BTreeSet::from([*cpu]));
        let mut set = CpuSet::new();
        one.as_ref()
            .unwrap_or(&self.allowed)
            .iter()
            .filter(|cpu| **cpu < CpuSet::MAX_CPU)
            .for_each(|cpu| set.set(*cpu));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::warn!(%error, worker, "a worker can't be put on its processor: it stays where it is");
        }
    }
}

/// One per core the process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[derive(Clone, Copy)]
enum Side {
    Send,
    Receive,
}

impl Buffer {
    /// Asks a socket of this process alone: the kernel bounds all sockets' buffers alike. It doubles what it is asked for, to
    /// count its own needs in, and says the double.
    fn asked(asked: u32, side: Side) -> Self {
        let asked = usize::try_from(asked).unwrap_or(usize::MAX);
        let try_out = || -> io::Result<usize> {
            let (socket, _other) = std::os::unix::net::UnixStream::pair()?;
            let socket = SockRef::from(&socket);
            match side {
                Side::Send => socket.set_send_buffer_size(asked).and_then(|()| socket.send_buffer_size()),
                Side::Receive => socket.set_recv_buffer_size(asked).and_then(|()| socket.recv_buffer_size()),
            }
        };
        Self { asked, granted: try_out().map_or(asked, |doubled| doubled / 2) }
    }
}

impl Tuning {
    /// Sets a tunnel socket's buffers, where that is asked for. Before it is connected: the window's scale is agreed on then.
    pub(crate) fn buffers(&self, socket: impl AsFd) {
        let socket = SockRef::from(&socket);
        let sent = self.send_buffer.map_or(Ok(()), |buffer| socket.set_send_buffer_size(buffer.asked));
        let received = self.receive_buffer.map_or(Ok(()), |buffer| socket.set_recv_buffer_size(buffer.asked));
        if let Err(why) = sent.and(received) {
            tracing::debug!(%why, "a tunnel's socket buffers were not set");
        }
    }

    /// What is in force, by the NodeProfile's fields.
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let Self { n_workers, cpus, stream_window, tunnel_window, frame, send_buffer, receive_buffer } = self;
        let row = |field: &str, value: String| InForce { field: format!("spec.proxy.{field}"), value };
        let buffer = |buffer: &Option<Buffer>| {
            buffer
                .map_or_else(|| "by the kernel".to_owned(), |Buffer { asked, granted }| asked.min(granted).to_string())
        };
        vec![
            row("workers", n_workers.to_string()),
            row("cpus", list(cpus)),
            row("http2.streamWindowBytes", stream_window.to_string()),
            row("http2.connectionWindowBytes", tunnel_window.to_string()),
            row("http2.frameBytes", frame.to_string()),
            row("sendBufferBytes", buffer(send_buffer)),
            row("receiveBufferBytes", buffer(receive_buffer)),
        ]
    }
}

/// As the kernel writes a list of processors; what is asked for is written so too.
fn list(cpus: &BTreeSet<usize>) -> String {
    let written = cpu_list(cpus.iter().copied());
    match written.len() {
        0 => "any".to_owned(),
        1..=LONGEST_LIST => written,
        _ => format!("{} processors", cpus.len()),
    }
}

/// How the proxy is tuned, shared by all that open tunnels.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) own: Own,
    tuning: tokio::sync::watch::Sender<Arc<Tuning>>,
}

impl Held {
    /// Untuned.
    pub(crate) fn new(n_workers: usize) -> Self {
        let own = Own::new(n_workers);
        let tuning = Arc::new(own.tuned(&Settings::default()));
        Self { own, tuning: tokio::sync::watch::Sender::new(tuning) }
    }

    /// Puts other settings in force.
    pub(crate) fn set(&self, settings: &Settings) {
        let tuning = Arc::new(self.own.tuned(settings));
        self.tuning.send_if_modified(|held| {
            let changed = **held != *tuning;
            if changed {
                tracing::info!(?tuning, "tuned anew");
                *held = tuning;
            }
            changed
        });
    }

    /// As it is now: a tunnel asks once, when it is opened.
    pub(crate) fn now(&self) -> Arc<Tuning> {
        self.tuning.borrow().clone()
    }

    /// Each change.
    pub(crate) fn watch(&self) -> tokio::sync::watch::Receiver<Arc<Tuning>> {
        self.tuning.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use millrace_node::wire::node::Settings;

    use super::{Own, list};

    fn own() -> Own {
        Own { n_workers: 2, allowed: (0..4).collect() }
    }

    #[test]
    fn what_nobody_asks_for_has_its_default() {
        let tuning = own().tuned(&Settings::default());
        assert_eq!((tuning.n_workers, tuning.cpus.len()), (2, 0));
        assert_eq!((tuning.stream_window, tuning.tunnel_window), (4 << 20, 256 << 20));
        let said: Vec<String> = tuning.in_force().into_iter().map(|row| row.value).collect();
        assert_eq!(said, ["2", "any", "4194304", "268435456", "1048576", "by the kernel", "by the kernel"]);
    }

    #[test]
    fn a_tunnels_window_follows_its_streams_and_never_falls_short_of_one() {
        let windows = |stream, connection| {
            let settings = Settings { stream_window: stream, connection_window: connection, ..Settings::default() };
            let tuning = own().tuned(&settings);
            (tuning.stream_window, tuning.tunnel_window)
        };
        assert_eq!(windows(Some(65_535), None), (65_535, 64 * 65_535));
        assert_eq!(windows(Some(64 << 20), None), (64 << 20, i32::MAX.unsigned_abs()), "HTTP/2 has no more");
        assert_eq!(windows(Some(8 << 20), Some(1 << 20)), (8 << 20, 8 << 20));
        assert_eq!(windows(Some(1), Some(1)), (65_535, 65_535), "what was never checked is bounded");
    }

    #[test]
    fn a_worker_is_put_only_where_the_process_may_run() {
        let settings = Settings { cpus: vec![1, 2, 77], workers: Some(9_999), ..Settings::default() };
        let tuning = own().tuned(&settings);
        assert_eq!(tuning.cpus, [1, 2].into());
        assert_eq!(tuning.n_workers, 256);
    }

    #[test]
    fn what_the_kernel_does_not_grant_is_not_said_to_be_in_force() {
        let settings =
            Settings { send_buffer: Some(u32::MAX / 4), receive_buffer: Some(65_536), ..Settings::default() };
        let said = own().tuned(&settings).in_force();
        let value = |field: &str| said.iter().find(|row| row.field.ends_with(field)).unwrap().value.clone();
        let most = std::fs::read_to_string("/proc/sys/net/core/wmem_max").unwrap();
        assert_eq!(value("sendBufferBytes"), most.trim());
        assert_eq!(value("receiveBufferBytes"), "65536");
    }

    #[test]
    fn processors_are_listed_as_the_kernel_lists_them() {
        assert_eq!(list(&[0, 1, 2, 8, 10, 11].into()), "0-2,8,10-11");
        assert_eq!(list(&[].into()), "any");
        assert_eq!(list(&(0..100).map(|cpu| cpu * 2).collect()), "100 processors");
    }
}
