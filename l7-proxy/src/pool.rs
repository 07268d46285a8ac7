//! Pools tunnels by who speaks to whom from where to where. One pool a worker: a connection and its tunnel share a core.
//!
//! One dial is under way for a key at a time and the others wait for it; a failed one is told to all who waited and not kept.
//! Who dials has the first place in what was dialled, so that nobody dials twice for one place.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use millrace_model::{Identity, Mesh};
use millrace_node::credentials;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    sync::{oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    dial::{Connected, dial},
    fair::Turns,
    fault::{Fault, Why},
    frames::{Carried, Counted, Role, why_ended},
    gather::gathered,
    handshakes::Caller,
    home::{LAST_WORDS, Pod},
    keys::Key,
    limits::{Account, Waits},
    metrics::End,
    proxy::Proxy,
    stock::Family,
    tunnel::{self, Windows},
};

/// How long a tunnel without a stream is kept: a client that polls once a minute finds it there.
const IDLE: Duration = Duration::from_secs(90);

/// Whose tunnel it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// The pod that calls: its namespace's sockets dial.
    pub(crate) source: Pod,
    /// Who it is.
    pub(crate) source_identity: Identity,
    /// The address of it that dials.
    pub(crate) source_address: IpAddr,
    /// Who must answer.
    pub(crate) peer: Identity,
    /// The workload at the far end: its successor at the same address is another one.
    pub(crate) peer_uid: Arc<str>,
    /// Where.
    pub(crate) tunnel: SocketAddr,
}

/// A worker's tunnels.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    turns: Arc<Turns>,
}

#[derive(Debug, Default)]
struct State {
    routes: HashMap<Ends, Route>,
    /// The tunnels' drivers, and the dials.
    tasks: JoinSet<()>,
}

/// How a dial ended; None while it is under way.
type Dialled = watch::Receiver<Option<Result<(), Fault>>>;

/// How a caller comes to its place.
enum Next {
    /// It has it.
    Place(Place),
    /// By the dial that it began.
    Ours(oneshot::Receiver<Result<Place, Fault>>),
    /// After a dial that another one began.
    Others(Dialled),
}

/// What leads from one end to another.
#[derive(Debug, Default)]
struct Route {
    tunnels: Vec<Tunnel>,
    dial: Option<Dialled>,
}

#[derive(Debug)]
struct Tunnel {
    carried: Carried,
    waits: Arc<Waits>,
    /// None once it takes no new streams.
    send: Option<SendRequest<Bytes>>,
    /// Of the key that it was opened with.
    serial: u64,
    streams: Arc<AtomicUsize>,
    idle_since: Option<Instant>,
    /// Whether an end of it is no longer who it was: it takes no new streams, and ends soon.
    is_leaving: bool,
    /// What the peer has shown.
    leaf: Option<CertificateDer<'static>>,
    driver: AbortHandle,
}

/// A place in a tunnel, held until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) send: SendRequest<Bytes>,
    /// Told of each stream that is carried.
    pub(crate) carried: Carried,
    /// Whose buffers the tunnel's bytes wait in.
    pub(crate) waits: Arc<Waits>,
    streams: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// No tunnels yet; each will run in its workload's turns.
    pub(crate) fn new(turns: Arc<Turns>) -> Self {
        Self { state: Mutex::default(), turns }
    }

    /// A place in a tunnel between `ends`, dialled if there is none.
    pub(crate) async fn place(
        self: &Arc<Self>,
        proxy: &Arc<Proxy>,
        caller: &Arc<Account>,
        ends: &Ends,
    ) -> Result<Place, Fault> {
        loop {
            // The newest key: two callers with different ones would close each other's tunnels.
            let key = proxy.keys.get(&ends.source_identity).ok_or(Why::NoKey)?;
            let mut dialled = match self.next(proxy, caller, ends, &key) {
                Next::Place(place) => return Ok(place),
                Next::Ours(place) => return place.await.unwrap_or(Err(Why::Aborted.into())),
                Next::Others(dialled) => dialled,
            };
            match dialled.wait_for(Option::is_some).await.map(|answer| answer.clone()) {
                Ok(Some(Ok(())) | None) => {}
                Ok(Some(Err(fault))) => return Err(fault),
                // The dial's task was dropped: the worker is ending.
                Err(_closed) => return Err(Why::Aborted.into()),
            }
        }
    }

    /// Lets go of what a stream found broken: it takes no new ones.
    pub(crate) fn retire(&self, ends: &Ends, place: &Place) {
        let mut state = self.lock();
        for tunnel in state.routes.get_mut(ends).map(|route| &mut route.tunnels).into_iter().flatten() {
            if Arc::ptr_eq(&tunnel.streams, &place.streams) {
                tunnel.send = None;
            }
        }
    }

    /// Closes tunnels whose ends are no longer who they were, and lets go of idle ones and those of a former key.
    pub(crate) fn sweep(&self, proxy: &Proxy, mesh: &Mesh, now: Instant) {
        let mut state = self.lock();
        let State { routes, tasks } = &mut *state;
        while tasks.try_join_next().is_some() {}
        routes.retain(|ends, route| {
            let key = proxy.keys.get(&ends.source_identity);
            let still = key.is_some() && ends.are_in(mesh);
            for tunnel in &mut route.tunnels {
                if key.as_ref().is_some_and(|key| !tunnel.is_believed(key)) {
                    tunnel.driver.abort();
                } else if !still && !tunnel.is_leaving {
                    // What was said last on it is on its way still.
                    (tunnel.is_leaving, tunnel.send) = (true, None);
                    let driver = tunnel.driver.clone();
                    tasks.spawn(async move {
                        tokio::time::sleep(LAST_WORDS).await;
                        driver.abort();
                    });
                }
                tunnel.rest(now, key.as_ref().map(|key| key.serial));
            }
            route.tunnels.retain(|tunnel| !tunnel.driver.is_finished());
            !route.tunnels.is_empty() || route.dial.is_some()
        });
    }

    fn next(self: &Arc<Self>, proxy: &Arc<Proxy>, caller: &Arc<Account>, ends: &Ends, key: &Arc<Key>) -> Next {
        let mut state = self.lock();
        let State { routes, tasks } = &mut *state;
        let route = routes.entry(ends.clone()).or_default();
        if let Some(place) = route.tunnels.iter_mut().find_map(|tunnel| tunnel.place(key.serial)) {
            return Next::Place(place);
        }
        if let Some(dial) = &route.dial {
            return Next::Others(dial.clone());
        }
        let (answer, dialled) = watch::channel(None);
        route.dial = Some(dialled);
        let (ours, place) = oneshot::channel();
        let (pool, proxy, ends, key) = (self.clone(), proxy.clone(), ends.clone(), key.clone());
        let account = caller.clone();
        tasks.spawn(self.turns.schedule(caller, async move {
            let opened = Box::pin(open(&proxy, (&pool.turns, &account), &ends, &key)).await;
            let settled = pool.settle(&ends, key.serial, opened);
            answer.send_replace(Some(settled.as_ref().map(|_place| ()).map_err(Fault::clone)));
            // Whoever dialled may be gone by now: then its place is free again.
            drop(ours.send(settled));
        }));
        Next::Ours(place)
    }

    /// Puts a dialled tunnel where the others find it, and takes the first place in it. One that takes no streams is broken.
    fn settle(&self, ends: &Ends, serial: u64, opened: Result<Opened, Why>) -> Result<Place, Fault> {
        let mut state = self.lock();
        let State { routes, tasks } = &mut *state;
        let route = routes.entry(ends.clone()).or_default();
        route.dial = None;
        let Opened { send, leaf, carried, waits, driver } = opened?;
        let driver = tasks.spawn(driver);
        let streams = Arc::new(AtomicUsize::new(0));
        let (send, idle_since, is_leaving) = (Some(send), None, false);
        let mut tunnel = Tunnel { carried, waits, send, serial, streams, idle_since, is_leaving, leaf, driver };
        let place = tunnel.place(serial);
        if place.is_none() {
            tunnel.send = None;
        }
        route.tunnels.push(tunnel);
        place.ok_or_else(|| Why::TunnelBroken.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    /// Whether both ends are in the mesh as they were when the tunnel was opened.
    fn are_in(&self, mesh: &Mesh) -> bool {
        let source = self.source.workload(mesh).is_ok_and(|workload| workload.identity == self.source_identity);
        let peer = mesh.workload_at(self.tunnel.ip());
        source && peer.is_some_and(|workload| workload.identity == self.peer && workload.instance == self.peer_uid)
    }
}

impl Tunnel {
    /// Whether its peer's node was not taken out since.
    fn is_believed(&self, key: &Key) -> bool {
        self.leaf.as_ref().is_none_or(|leaf| key.believes(leaf))
    }

    fn place(&mut self, serial: u64) -> Option<Place> {
        if self.driver.is_finished() || self.serial != serial {
            self.send = None;
        }
        let send = self.send.as_ref()?;
        let limit = tunnel::STREAMS.min(send.current_max_send_streams());
        if self.streams.load(Ordering::Relaxed) >= limit {
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.idle_since = None;
        let (carried, waits) = (self.carried.clone(), self.waits.clone());
        Some(Place { send: send.clone(), carried, waits, streams: self.streams.clone() })
    }

    /// Without a stream for long, or with a former key: closes when the last stream has ended.
    fn rest(&mut self, now: Instant, serial: Option<u64>) {
        if self.streams.load(Ordering::Relaxed) > 0 {
            self.idle_since = None;
        } else if now.saturating_duration_since(*self.idle_since.get_or_insert(now)) >= IDLE {
            self.send = None;
        }
        if serial != Some(self.serial) {
            self.send = None;
        }
    }
}

struct Opened {
    send: SendRequest<Bytes>,
    leaf: Option<CertificateDer<'static>>,
    carried: Carried,
    waits: Arc<Waits>,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Dials, proves who we are, checks who answers, and speaks HTTP/2.
async fn open(proxy: &Proxy, (turns, account): (&Turns, &Arc<Account>), ends: &Ends, key: &Key) -> Result<Opened, Why> {
    let config = key.client(&ends.peer).map_err(|why| {
        tracing::warn!(error = &why as &dyn std::error::Error, identity = %key.identity, "a key is not usable");
        Why::NoKey
    })?;
    let unconnected = proxy.stock.take(&ends.source, Family::of(ends.tunnel.ip())).await?;
    let tuning = proxy.tuning.now();
    tuning.buffers(&unconnected.socket);
    let Connected { socket, held } = dial(unconnected, ends.tunnel).await?;
    let name = ServerName::from(ends.tunnel.ip());
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tunnel::wire(socket));
    let mut tls = match timeout(tunnel::HANDSHAKE, connecting).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return Err(Why::Handshake(handshake_failed(proxy, ends, &error))),
        Err(_elapsed) => {
            proxy.metrics.handshake_failed(End::Client, Why::HandshakeTimeout.name());
            return Err(Why::HandshakeTimeout);
        }
    };
    tls.get_mut().1.set_buffer_limit(Some(tunnel::TLS_BUFFER));
    let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned());
    let waits = Arc::new(account.waits(Caller::Pod(ends.tunnel.ip())));
    let charge = waits.charge(tunnel::HELD).map_err(Why::Limited)?;
    let (tls, carried): (tunnel::Leaving, _) = Counted::new(tls, Role::Client);
    let (tls, gather) = gathered(tls);
    let (send, mut connection) = tunnel::client(&tuning).handshake(tls).await.map_err(|_broken| Why::TunnelBroken)?;
    gather.begin();
    let (ping, counted) = (connection.ping_pong(), proxy.metrics.tunnel(End::Client));
    let windows = Windows::new(account.tight(), tuning.stream_window);
    let (address, metrics, known) = (ends.tunnel, proxy.metrics.clone(), carried.clone());
    let driver = async move {
        let ended = Box::pin(tunnel::drive((connection, gather), ping, windows)).await;
        tracing::debug!(%address, ?ended, "a tunnel ended");
        if let Err(error) = ended {
            metrics.tunnel_broken(End::Client, why_ended(&error, &known));
        }
        drop((counted, held, charge));
    };
    Ok(Opened { send, leaf, carried, waits, driver: Box::pin(turns.schedule(account, driver)) })
}

fn handshake_failed(proxy: &Proxy, ends: &Ends, error: &std::io::Error) -> &'static str {
    let reason = credentials::refusal(error).map_or("handshake", credentials::Refusal::name);
    proxy.metrics.handshake_failed(End::Client, reason);
    tracing::warn!(
        tunnel = %ends.tunnel,
        expected = %ends.peer,
        source = %ends.source.name,
        reason,
        error = error as &dyn std::error::Error,
        "a tunnel's peer was refused, or refused us"
    );
    reason
}

#[cfg(test)]
mod tests;
