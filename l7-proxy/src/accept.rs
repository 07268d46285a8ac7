//! Accepts connections on every pod's listeners, on one thread, and spreads them over the workers by what each has open.
//!
//! A listener's description is shared with the agent, other proxies and the holder: its O_NONBLOCK is theirs too and never
//! cleared here, it is never shut down, and it leaves epoll before its descriptor is closed (a duplicate elsewhere would
//! keep waking us).

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::{io::Errno, net::SocketFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    copy,
    crew::Who,
    descriptors::Held,
    dial::prompt,
    fault::Why,
    handshakes::Caller,
    home::{Home, Pod},
    limits::{Account, Connection, Pending},
    metrics::Direction,
    proxy::Proxy,
    record::{Party, Record},
};

/// Listeners that wait to be opened or closed: a node's start brings a few hundred.
pub(crate) const COMMANDS: usize = 256;

/// Connections that wait for one worker. More wait in the kernel's backlog, where another proxy could take them.
pub(crate) const QUEUE: usize = 256;

/// Accepted from one listener before the others have their turn.
const BURST: usize = 32;

/// How long to wait where accepting failed for want of memory or descriptors: no event says that it would succeed.
const BREATH: Duration = Duration::from_millis(50);

/// Descriptors of one carried connection: this socket, and the one to its target.
const PER_CONNECTION: u32 = 1;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Takes what an application of this pod sends to other nodes.
    Outbound,
    /// Takes what came to this pod in plain text.
    Plaintext,
    /// Takes tunnels to this pod.
    Tunnel,
}

impl Kind {
    fn direction(self) -> Direction {
        match self {
            Self::Outbound => Direction::Outbound,
            Self::Plaintext => Direction::Plaintext,
            Self::Tunnel => Direction::Inbound,
        }
    }
}

/// What the acceptor is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on these listeners, in place of what was open for this pod.
    Open(Home, Vec<(Kind, Arc<OwnedFd>)>),
    /// Accept for this pod no more.
    Close(Pod),
}

/// A connection, and whose it is.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// By which of the pod's listeners.
    pub(crate) kind: Kind,
    /// The pod.
    pub(crate) home: Home,
    /// Where it came from.
    pub(crate) peer: SocketAddr,
    /// Whose limits it counts against.
    pub(crate) account: Arc<Account>,
    /// Until its target is reached.
    pub(crate) pending: Option<Pending>,
    #[expect(dead_code, reason = "held for its drop")]
    held: (Held, Connection),
    #[expect(dead_code, reason = "held for its drop")]
    load: Load,
}

/// An accepted connection's socket, not registered with any runtime yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) socket: OwnedFd,
    pub(crate) accepted: Accepted,
}

/// The workers' queues: as many as there are workers that take new connections.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    lanes: Mutex<Vec<Lane>>,
    next: AtomicUsize,
}

/// One worker's queue. It ends with its last copy.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    who: Who,
    queue: mpsc::Sender<Fresh>,
    open: Arc<AtomicUsize>,
}

/// One connection more on a worker, until dropped.
#[derive(Debug)]
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    pub(crate) fn new(who: Who, queue: mpsc::Sender<Fresh>) -> Self {
        Self { who, queue, open: Arc::default() }
    }
}

impl Workers {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Gives to this one too from now on.
    pub(crate) fn add(&self, lane: Lane) {
        self.lock().push(lane);
    }

    /// Gives to the newest no more; which that was.
    pub(crate) fn remove(&self) -> Option<Who> {
        self.lock().pop().map(|lane| lane.who)
    }

    /// The worker with the least open; where several have, they take turns.
    fn least_loaded(&self) -> Option<Lane> {
        let lanes = self.lock();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % lanes.len().max(1);
        let (before, from) = lanes.split_at_checked(first)?;
        from.iter().chain(before).min_by_key(|lane| lane.open.load(Ordering::Relaxed)).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until the drain begins.
pub(crate) async fn run(proxy: Arc<Proxy>, mut commands: mpsc::Receiver<Command>, workers: Arc<Workers>) {
    let mut drain = proxy.drain.clone();
    let mut loops = JoinSet::new();
    let mut by_pod: HashMap<Pod, Vec<AbortHandle>> = HashMap::new();
    loop {
        tokio::select! {
            _ = drain.begun() => return,
            command = commands.recv() => match command {
                Some(Command::Open(home, listeners)) => {
                    let fresh = listeners.into_iter().filter_map(|(kind, listener)| {
                        let listener = watch(listener)?;
                        Some(loops.spawn(accept(proxy.clone(), home.clone(), kind, listener, workers.clone())))
                    });
                    // What replaces is open before what it replaces is closed.
                    let former = by_pod.insert(home.pod.clone(), fresh.collect());
                    former.into_iter().flatten().for_each(|task| task.abort());
                }
                Some(Command::Close(pod)) => {
                    by_pod.remove(&pod).into_iter().flatten().for_each(|task| task.abort());
                }
                None => return,
            },
            Some(ended) = loops.join_next() => {
                if let Err(why) = ended && why.is_panic() {
                    proxy.metrics.panics.inc();
                }
            }
        }
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor that it did not open")]
fn watch(listener: Arc<OwnedFd>) -> Option<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an OwnedFd is open until dropped, an Arc's is never replaced, and this Arc lives as long as the AsyncFd.
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    match watched {
        Ok(listener) => Some(listener),
        Err(why) => {
            tracing::error!(%why, "a listener can't be watched");
            None
        }
    }
}

/// Sets on a listener what each of its connections needs, which have its options from accept(2) on: one call where there were two for each. The
/// agent has done so as it made the listener; one that came from elsewhere, as in a test, has it from here.
fn prepare(kind: Kind, listener: &Arc<OwnedFd>) {
    prompt(listener);
    match kind {
        Kind::Outbound | Kind::Plaintext => copy::abortive(listener),
        // A tunnel ends as TLS has it.
        Kind::Tunnel => {}
    }
}

#[expect(clippy::infinite_loop, reason = "it ends by being aborted")]
async fn accept(proxy: Arc<Proxy>, home: Home, kind: Kind, listener: AsyncFd<Arc<OwnedFd>>, workers: Arc<Workers>) {
    let account = proxy.accounts.of(&home.pod);
    prepare(kind, listener.get_ref());
    let mut burst = 0;
    loop {
        let accepted = listener.async_io(Interest::READABLE, |listener| {
            let (socket, peer) = rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(Errno::CONNABORTED)?;
            Ok((socket, peer))
        });
        match accepted.await {
            Ok((socket, peer)) => take_on(&proxy, (&home, &account), kind, (socket, peer), &workers).await,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pod = %home.pod.name, "a connection can't be accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
        burst += 1;
        if burst % BURST == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// accept(2) passes errors of the new connection itself; the listener has none then.
fn is_of_one_connection(error: &io::Error) -> bool {
    let broken = [
        Errno::CONNABORTED,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::INTR,
        Errno::PERM,
    ];
    Errno::from_io_error(error).is_some_and(|errno| broken.contains(&errno))
}

/// Gives a connection to a worker, or refuses it by name where descriptors run out or its workload has what it may.
async fn take_on(
    proxy: &Arc<Proxy>,
    (home, account): (&Home, &Arc<Account>),
    kind: Kind,
    (socket, peer): (OwnedFd, SocketAddr),
    workers: &Workers,
) {
    let admitted = match proxy.descriptors.take(PER_CONNECTION).zip(workers.least_loaded()) {
        Some((held, lane)) => match admit(proxy, account, kind, peer).await {
            Ok((connection, pending)) => Ok((lane, (held, connection), pending)),
            Err(why) => Err(why),
        },
        None => Err(Why::NoDescriptor),
    };
    let (lane, held, pending) = match admitted {
        Ok(admitted) => admitted,
        Err(why) => {
            let mut record = Record::begin(proxy.clone(), kind.direction(), Party::at(peer));
            record.target.workload = Some(home.pod.name.to_string());
            copy::abortive(&socket);
            drop(socket);
            record.end(Err(why));
            return;
        }
    };
    lane.open.fetch_add(1, Ordering::Relaxed);
    let load = Load(lane.open.clone());
    let (home, account, pending) = (home.clone(), account.clone(), Some(pending));
    let accepted = Accepted { kind, home, peer, account, pending, held, load };
    // A worker that has ended takes nothing; then the process is ending too.
    if lane.queue.send(Fresh { socket, accepted }).await.is_err() {
        tracing::debug!("a connection came while the workers end");
    }
}

/// Its place among the workload's connections, and among those that are being opened.
async fn admit(
    proxy: &Proxy,
    account: &Arc<Account>,
    kind: Kind,
    peer: SocketAddr,
) -> Result<(Connection, Pending), Why> {
    match kind {
        // The pod's own waits: this one here, those behind it in the listener's backlog, which is the pod's own too.
        Kind::Outbound => {
            let connection = account.connect(None).map_err(Why::Limited)?;
            Ok((connection, account.begin_in_turn().await))
        }
        // Who comes from elsewhere would keep others out of the backlog.
        Kind::Plaintext | Kind::Tunnel => {
            let caller = Caller::at(&proxy.current(), peer.ip());
            let connection = account.connect(Some(caller)).map_err(Why::Limited)?;
            let pending = account.begin(&connection).map_err(Why::Limited)?;
            Ok((connection, pending))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        sync::Arc,
        time::Duration,
    };

    use socket2::SockRef;

    use super::{Kind, prepare};

    #[test]
    fn a_connection_has_what_its_listener_was_prepared_with() {
        for (kind, linger) in
            [(Kind::Outbound, Some(Duration::ZERO)), (Kind::Plaintext, Some(Duration::ZERO)), (Kind::Tunnel, None)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            prepare(kind, &Arc::new(listener.try_clone().unwrap().into()));
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert!(accepted.nodelay().unwrap(), "{kind:?}");
            assert_eq!(SockRef::from(&accepted).linger().unwrap(), linger, "{kind:?}");
        }
    }
}
