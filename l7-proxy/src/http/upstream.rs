//! Keeps the connections to endpoints that requests are sent by. One pool a worker: a client and its endpoint's connection share a core.
//!
//! A connection is one pod's: the endpoint sees that pod's address, and its proxy that pod's certificate, whatever requests it carries.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use millrace_model::route::Speaks;
use millrace_node::clock;
use tokio::task::{AbortHandle, JoinSet};

use super::{
    body::Outgoing,
    reach::{Opened, Sender},
};
use crate::home::Pod;

/// Connections without a request that are kept to one endpoint for one pod: what a burst leaves behind.
const MAX_IDLE: usize = 64;

/// How long one is kept. Servers commonly give up after a minute and more: the proxy should be the first.
const IDLE: Duration = Duration::from_secs(45);

/// Requests at once in one HTTP/2 connection before another is opened: what servers commonly allow.
const STREAMS: usize = 100;

/// Whose connection to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// The pod that calls.
    pub(crate) source: Pod,
    /// The address that the endpoint is shown.
    pub(crate) source_address: IpAddr,
    /// The endpoint.
    pub(crate) target: SocketAddr,
    /// Which workload has that address, where one has: its successor there is another one.
    pub(crate) instance: Option<Arc<str>>,
    /// What is spoken.
    pub(crate) speaks: Speak,
}

/// [`Speaks`], as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Speak {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

impl From<Speaks> for Speak {
    fn from(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Http1 => Self::One,
            Speaks::Http2 => Self::Two,
        }
    }
}

/// A worker's connections to endpoints.
#[derive(Debug, Default)]
pub(crate) struct Upstreams(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    idle: HashMap<Ends, Vec<Idle>>,
    shared: HashMap<Ends, Vec<Shared>>,
    /// Requests under way at each endpoint.
    busy: HashMap<SocketAddr, usize>,
    /// The connections' drivers.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Idle {
    send: http1::SendRequest<Outgoing>,
    driver: AbortHandle,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    send: http2::SendRequest<Outgoing>,
    n_streams: Arc<()>,
    since: Instant,
}

/// A connection for one request. Dropped before it is given back, it is closed: nobody knows what is left in it.
#[derive(Debug)]
pub(crate) struct Lease {
    upstreams: Arc<Upstreams>,
    ends: Ends,
    held: Option<Held>,
    /// Whether it was opened for another request before.
    pub(crate) is_reused: bool,
}

#[derive(Debug)]
enum Held {
    One(http1::SendRequest<Outgoing>, AbortHandle),
    Two(http2::SendRequest<Outgoing>, #[expect(dead_code, reason = "held for its drop: it is counted")] Arc<()>),
}

/// A request that was not answered.
pub(crate) struct Unsent {
    /// The request again, where none of it was sent.
    pub(crate) request: Option<Request<Outgoing>>,
    /// What broke.
    pub(crate) error: hyper::Error,
}

impl Lease {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Box<Unsent>> {
        let answered = match &mut self.held {
            Some(Held::One(send, _)) => send.try_send_request(request).await,
            Some(Held::Two(send, _)) => send.try_send_request(request).await,
            // Only giving it back takes it, and that takes the lease.
            None => return std::future::pending().await,
        };
        answered.map_err(|mut unsent| Box::new(Unsent { request: unsent.take_message(), error: unsent.into_error() }))
    }

    /// Keeps the connection for the next request.
    pub(crate) fn give_back(mut self) {
        if let Some(Held::One(send, driver)) = self.held.take() {
            let mut state = self.upstreams.lock();
            let idle = state.idle.entry(self.ends.clone()).or_default();
            if idle.len() < MAX_IDLE {
                idle.push(Idle { send, driver, since: clock::now() });
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.upstreams.lock();
        if let Some(count) = state.busy.get_mut(&self.ends.target) {
            *count -= 1;
            if *count == 0 {
                state.busy.remove(&self.ends.target);
            }
        }
        drop(state);
        // A stream of HTTP/2 is reset by its own body; a whole connection of HTTP/1 is this request's.
        if let Some(Held::One(_, driver)) = &self.held {
            driver.abort();
        }
    }
}

impl Upstreams {
    /// Requests under way at each of these endpoints.
    pub(crate) fn busy(&self, endpoints: [SocketAddr; 2]) -> [usize; 2] {
        let state = self.lock();
        endpoints.map(|endpoint| state.busy.get(&endpoint).copied().unwrap_or(0))
    }

    /// A connection between `ends` that is there, and good.
    pub(crate) async fn kept(self: &Arc<Self>, ends: &Ends) -> Option<Lease> {
        while let Some(mut lease) = self.last(ends) {
            let is_good = match &mut lease.held {
                // It is, unless the endpoint has closed it meanwhile.
                Some(Held::One(send, _)) => send.ready().await.is_ok(),
                Some(Held::Two(send, _)) => send.ready().await.is_ok(),
                None => false,
            };
            if is_good {
                return Some(lease);
            }
        }
        None
    }

    /// The first lease of a connection that was opened.
    pub(crate) fn add(self: &Arc<Self>, ends: &Ends, opened: Opened) -> Lease {
        let Opened { sender, driver } = opened;
        let mut state = self.lock();
        let driver = state.tasks.spawn(driver);
        let held = match sender {
            Sender::One(send) => Held::One(send, driver),
            Sender::Two(send) => {
                let n_streams = Arc::new(());
                let shared = Shared { send: send.clone(), n_streams: n_streams.clone(), since: clock::now() };
                state.shared.entry(ends.clone()).or_default().push(shared);
                Held::Two(send, n_streams)
            }
        };
        drop(state);
        self.leased(ends, held, false)
    }

    /// One that is there, the one used last.
    fn last(self: &Arc<Self>, ends: &Ends) -> Option<Lease> {
        let mut state = self.lock();
        let held = match ends.speaks {
            Speak::One => {
                let idle = state.idle.get_mut(ends)?;
                let Idle { send, driver, since: _ } = idle.pop()?;
                Held::One(send, driver)
            }
            Speak::Two => {
                let shared = state.shared.get_mut(ends)?;
                shared.retain(|one| !one.send.is_closed());
                let one = shared.iter_mut().find(|one| Arc::strong_count(&one.n_streams) <= STREAMS)?;
                one.since = clock::now();
                Held::Two(one.send.clone(), one.n_streams.clone())
            }
        };
        drop(state);
        Some(self.leased(ends, held, true))
    }

    fn leased(self: &Arc<Self>, ends: &Ends, held: Held, is_reused: bool) -> Lease {
        *self.lock().busy.entry(ends.target).or_default() += 1;
        Lease { upstreams: self.clone(), ends: ends.clone(), held: Some(held), is_reused }
    }

    /// Lets go of what was without a request for long, and of what is closed.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        let is_old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        state.idle.retain(|_, idle| {
            idle.retain(|one| !is_old(one.since) && !one.send.is_closed());
            !idle.is_empty()
        });
        state.shared.retain(|_, shared| {
            let is_idle = |one: &Shared| Arc::strong_count(&one.n_streams) == 1 && is_old(one.since);
            shared.retain(|one| !one.send.is_closed() && !is_idle(one));
            !shared.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
