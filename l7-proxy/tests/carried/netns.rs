//! A network namespace on a thread of its own, for an application whose address a listener of the proxy has outside.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::Command,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// Ends with its thread when dropped.
#[derive(Clone)]
pub(crate) struct Netns(SyncSender<Job>);

impl Netns {
    #[expect(unsafe_code, reason = "unshare(2) can break what shares a file table; this shares none")]
    pub(crate) fn new() -> Self {
        let (sender, jobs): (_, Receiver<Job>) = sync_channel(16);
        let (ready, is_ready) = sync_channel(1);
        thread::spawn(move || {
            // SAFETY: only the network namespace is left, by this thread alone, and it has no sockets yet.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("root is needed");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            ready.send(()).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        is_ready.recv().unwrap();
        Self(sender)
    }

    fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = sync_channel(1);
        self.0.send(Box::new(move || answer.send(job()).unwrap())).unwrap();
        answered.recv().unwrap()
    }

    /// An application's listener.
    pub(crate) fn listen(&self, address: SocketAddr) -> tokio::net::TcpListener {
        // Another test's child holds copies of all descriptors for a moment between its fork and its exec.
        let bind = move || (0..1000).find_map(|_| TcpListener::bind(address).ok().or_else(wait_a_millisecond));
        let listener = self.inside(bind).expect("an address that is free");
        listener.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(listener).unwrap()
    }

    /// Unconnected sockets, as an agent makes them.
    pub(crate) fn sockets(&self, is_v4: bool, count: usize) -> Vec<OwnedFd> {
        self.inside(move || sockets(is_v4, count))
    }
}

fn wait_a_millisecond<T>() -> Option<T> {
    thread::sleep(std::time::Duration::from_millis(1));
    None
}

/// Unconnected, nonblocking, close-on-exec sockets of this thread's namespace.
pub(crate) fn sockets(is_v4: bool, count: usize) -> Vec<OwnedFd> {
    let domain = if is_v4 { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = |_| {
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), None).unwrap();
        OwnedFd::from(socket)
    };
    (0..count).map(socket).collect()
}
