//! Keeps the connections to endpoints that requests are sent by. One pool a worker: a client and its endpoint's connection share a core.
//!
//! A connection is one pod's: the endpoint sees that pod's address, and its proxy that pod's certificate, whatever requests it carries.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response, header::UPGRADE};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use millrace_model::route::Speaks;
use millrace_node::clock;
use tokio::task::{AbortHandle, JoinSet};

use super::{
    ask::{Asker, Unanswered},
    body::{Broken, Outgoing},
    driven::{Desk, Driven, Lent},
    expect::Gate,
    pipe::{Cut, pipe, said},
    reach::{Opened, Sender, Switching},
    received::Received,
    unread::Unread,
    upgrade::Switched,
};
use crate::{
    fair::Turns,
    home::Pod,
    limits::{Account, Waits},
};

/// What is read of an answer that nobody gets, so that its connection can be kept; with more it is closed.
const MAX_UNREAD: usize = 64 * 1024;

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
pub(crate) struct Upstreams {
    state: Mutex<State>,
    /// What is done for a pod at its endpoints is in its turn, as what is done for it here.
    turns: Arc<Turns>,
}

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
    one: One,
    since: Instant,
}

/// A connection of HTTP/1.
#[derive(Debug)]
struct One {
    asker: Asker,
    driven: Driven,
    driver: AbortHandle,
    switching: Switching,
}

#[derive(Clone)]
struct Two {
    send: h2::client::SendRequest<Bytes>,
    unread: Unread,
    waits: Arc<Waits>,
    n_streams: Arc<()>,
}

impl std::fmt::Debug for Two {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Two").field("n_streams", &Arc::strong_count(&self.n_streams)).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    two: Two,
    driver: AbortHandle,
    since: Instant,
}

/// A connection for one request. Dropped before it is given back, it is closed: nobody knows what is left in it.
#[derive(Debug)]
pub(crate) struct Lease {
    upstreams: Arc<Upstreams>,
    ends: Ends,
    held: Option<Held>,
    /// What still sends the request's body, in HTTP/2.
    sending: Option<AbortHandle>,
    /// Where it is polled, if not in its own task.
    lent: Option<Lent>,
    /// Whether it was opened for another request before.
    pub(crate) is_reused: bool,
    /// Whether it is for no request after this one.
    is_spent: bool,
}

#[derive(Debug)]
enum Held {
    One(One),
    Two(Two),
}

impl Held {
    /// Whether it is for no request after this one, as its endpoint has it.
    fn is_ended(&self) -> bool {
        matches!(self, Self::One(one) if one.asker.is_ended())
    }
}

/// A request that was not answered.
pub(crate) struct Unsent {
    /// The request again, where none of it was sent, or it may be sent twice.
    pub(crate) request: Option<Request<Outgoing>>,
    /// What broke.
    pub(crate) error: Broken,
}

impl Lease {
    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Received>, Box<Unsent>> {
        // What has no body may be, where a connection that was kept is closed just as it is used (RFC 9110, 9.2.2).
        let is_bare = request.body().is_end_stream();
        let may_repeat = self.is_reused && is_bare && request.method().is_idempotent();
        let gate = Gate::of(&request);
        match &mut self.held {
            Some(Held::One(One { asker, switching, .. })) => {
                if request.headers().contains_key(UPGRADE) {
                    switching.may_come();
                }
                let answered = asker.ask(request, gate).await;
                answered.map(|response| response.map(Received::Reply)).map_err(|unanswered| {
                    let Unanswered { request, sent, lost } = *unanswered;
                    Box::new(Unsent { request: request.or(sent.filter(|_| may_repeat)), error: lost.into() })
                })
            }
            Some(Held::Two(two)) => {
                let again = may_repeat.then(|| repeated(&request));
                let asked = two.ask(request, gate, &self.upstreams).await;
                let (response, sending) = asked.map_err(|mut unsent| {
                    unsent.request = unsent.request.or(again);
                    unsent
                })?;
                self.sending = sending;
                Ok(response)
            }
            // Only giving it back takes it, and that takes the lease.
            None => std::future::pending().await,
        }
    }

    /// Has the connection polled in the task of the client whose request it is for.
    pub(crate) fn lend(&mut self, desk: &Desk) {
        if let Some(Held::One(one)) = &self.held {
            self.lent = one.driven.lend(desk);
        }
    }

    /// The connection itself, once the endpoint has agreed to speak something else.
    pub(crate) async fn switched(&mut self) -> Option<Switched> {
        // HTTP has ended at the desk.
        self.lent = None;
        match &mut self.held {
            Some(Held::One(one)) => one.switching.come().await,
            Some(Held::Two(_)) | None => None,
        }
    }

    /// Keeps the connection for no other request.
    pub(crate) fn spend(&mut self) {
        self.is_spent = true;
    }

    /// Reads an answer that nobody gets to its end, and keeps the connection then; one that is too long or breaks off takes it along.
    pub(crate) async fn give_back_after(self, mut body: Received) {
        let mut n_read = 0;
        while n_read <= MAX_UNREAD {
            match body.frame().await {
                Some(Ok(frame)) => n_read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_broken)) => return,
                None => return self.give_back(),
            }
        }
    }

    /// Keeps the connection for the next request.
    pub(crate) fn give_back(mut self) {
        if self.is_spent {
            return;
        }
        // Before anybody else may have it.
        self.lent = None;
        // What is sent still when the answer has come whole, its endpoint did not wait for.
        if let Some(Held::One(one)) = self.held.take_if(|held| !held.is_ended()) {
            let mut state = self.upstreams.lock();
            let idle = state.idle.entry(self.ends.clone()).or_default();
            if idle.len() < MAX_IDLE {
                idle.push(Idle { one, since: clock::now() });
            } else {
                one.driver.abort();
            }
        }
    }
}

impl Two {
    /// Sends a request, and what is ready of its body; the rest goes on beside the answer.
    async fn ask(
        &mut self,
        request: Request<Outgoing>,
        gate: Option<Arc<Gate>>,
        upstreams: &Upstreams,
    ) -> Result<(Response<Received>, Option<AbortHandle>), Box<Unsent>> {
        let (head, mut body) = request.into_parts();
        if let Err(error) = poll_fn(|cx| self.send.poll_ready(cx)).await {
            return Err(Box::new(Unsent { request: Some(Request::from_parts(head, body)), error: error.into() }));
        }
        let lost = |error: h2::Error| Box::new(Unsent { request: None, error: error.into() });
        let is_whole = body.is_end_stream();
        let sent = self.send.send_request(Request::from_parts(head, ()), is_whole);
        let (mut answer, mut stream) = sent.map_err(lost)?;
        if is_whole {
            let response = answer.await.map_err(lost)?;
            return Ok((response.map(|recv| Received::two(recv, &self.unread)), None));
        }
        let waits = self.waits.clone();
        let mut sending = Some(Box::pin(async move {
            if let Err(Cut::Broken(error)) = pipe(&mut body, &mut stream, &waits).await {
                stream.send_reset(said(&error).unwrap_or(Reason::CANCEL));
            }
        }));
        let response = poll_fn(|cx| {
            if let Some(gate) = &gate {
                while let Poll::Ready(Some(Ok(said))) = answer.poll_informational(cx) {
                    gate.heard(said.status());
                }
            }
            if sending.as_mut().is_some_and(|sending| sending.as_mut().poll(cx).is_ready()) {
                sending = None;
            }
            Pin::new(&mut answer).poll(cx)
        });
        let response = response.await.map_err(lost)?;
        let turns = &upstreams.turns;
        let sending =
            sending.map(|sending| upstreams.lock().tasks.spawn(turns.schedule(self.waits.account(), sending)));
        Ok((response.map(|recv| Received::two(recv, &self.unread)), sending))
    }
}

/// The same request, which has no body.
fn repeated(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut again = Request::new(Outgoing::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
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
        // A stream of HTTP/2 is reset by its last owner; a whole connection of HTTP/1 is this request's.
        if let Some(Held::One(one)) = &self.held {
            one.driver.abort();
        }
        if let Some(sending) = &self.sending {
            sending.abort();
        }
    }
}

impl Upstreams {
    /// No connections yet; each will run in its workload's turns.
    pub(crate) fn new(turns: Arc<Turns>) -> Self {
        Self { state: Mutex::default(), turns }
    }

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
                Some(Held::One(one)) => one.asker.is_ready(),
                Some(Held::Two(two)) => poll_fn(|cx| two.send.poll_ready(cx)).await.is_ok(),
                None => false,
            };
            if is_good {
                return Some(lease);
            }
            if let Some(Held::Two(two)) = &lease.held {
                self.retire(ends, two);
            }
        }
        None
    }

    /// Lends a connection no more: its endpoint takes no further requests by it. Those under way go on.
    fn retire(&self, ends: &Ends, two: &Two) {
        if let Some(shared) = self.lock().shared.get_mut(ends) {
            shared.retain(|kept| !Arc::ptr_eq(&kept.two.n_streams, &two.n_streams));
        }
    }

    /// The first lease of a connection that was opened.
    pub(crate) fn add(self: &Arc<Self>, ends: &Ends, opened: Opened, account: &Arc<Account>) -> Lease {
        let Opened { sender, driver } = opened;
        let mut state = self.lock();
        let (driven, home) = Driven::new(driver);
        let driver = state.tasks.spawn(self.turns.schedule(account, home));
        let held = match sender {
            Sender::One(asker, switching) => Held::One(One { asker, driven, driver, switching }),
            Sender::Two(send, unread, waits) => {
                let two = Two { send, unread, waits, n_streams: Arc::new(()) };
                let shared = Shared { two: two.clone(), driver, since: clock::now() };
                state.shared.entry(ends.clone()).or_default().push(shared);
                Held::Two(two)
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
                // One whose endpoint has answered before it had the whole request is still taken up by that.
                let at = idle.iter().rposition(|kept| kept.one.asker.is_ready() || kept.one.asker.is_ended())?;
                Held::One(idle.remove(at).one)
            }
            Speak::Two => {
                let shared = state.shared.get_mut(ends)?;
                shared.retain(|kept| !kept.driver.is_finished());
                let has_room = |kept: &&mut Shared| {
                    Arc::strong_count(&kept.two.n_streams) <= STREAMS.min(kept.two.send.current_max_send_streams())
                };
                let kept = shared.iter_mut().find(has_room)?;
                kept.since = clock::now();
                Held::Two(kept.two.clone())
            }
        };
        drop(state);
        Some(self.leased(ends, held, true))
    }

    fn leased(self: &Arc<Self>, ends: &Ends, held: Held, is_reused: bool) -> Lease {
        *self.lock().busy.entry(ends.target).or_default() += 1;
        Lease {
            upstreams: self.clone(),
            ends: ends.clone(),
            held: Some(held),
            sending: None,
            lent: None,
            is_reused,
            is_spent: false,
        }
    }

    /// Lets go of what was without a request for long, and of what is closed.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        let is_old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        state.idle.retain(|_, idle| {
            idle.retain(|kept| {
                let is_good = !is_old(kept.since) && !kept.one.asker.is_ended();
                if !is_good {
                    kept.one.driver.abort();
                }
                is_good
            });
            !idle.is_empty()
        });
        state.shared.retain(|_, shared| {
            let is_idle = |kept: &Shared| Arc::strong_count(&kept.two.n_streams) == 1 && is_old(kept.since);
            shared.retain(|kept| !kept.driver.is_finished() && !is_idle(kept));
            !shared.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
