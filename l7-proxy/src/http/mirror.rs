//! Sends copies of requests to those who mirror them, each by a task of its own whose answer nobody awaits.
//!
//! The request itself never waits for a copy. Its body is handed on as it goes by, into a queue that is bounded for each copy and
//! for the worker; a copy whose queue is full is cut, not waited for, and counted. How bytes go that way is [`feed`]'s to say.

pub(crate) mod feed;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use http::{Request, request::Parts};
use http_body::Body as _;
use millrace_model::route::{Mirror, Target};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    body::Outgoing,
    counts::ByOutcome,
    endpoint::Endpoints,
    fault::Fault,
    received::Received,
    request::{Callers, STALE, sent_as},
};
use crate::metrics::Word;
use feed::{Copied, Copying, Feed, Held};

/// Copies under way at once in one worker: as many as a mirror that answers within 100 ms needs at 2,500 requests a second.
const MAX_COPIES: usize = 256;

/// How long one may take in all. Who mirrors answers nobody, so that nobody misses what is cut.
const TIME: Duration = Duration::from_secs(15);

/// A worker's copies under way.
#[derive(Debug, Default)]
pub(crate) struct Mirrors {
    tasks: Mutex<JoinSet<()>>,
    /// What waits in all queues, in bytes.
    held: Arc<AtomicUsize>,
}

/// What is counted of copies: `millrace_proxy_http_mirrors_total{outcome}`.
#[derive(Debug, Default)]
pub(crate) struct Counts(Family<ByOutcome, Counter>);

impl Counts {
    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&ByOutcome { outcome: Word(outcome) }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("http_mirrors", "Copies of requests, by what became of them", self.0.clone());
    }
}

/// One copy that a rule asks for: whose it is, and the head as it was where the filter stands.
#[derive(Debug)]
pub(crate) struct Wanted<'f> {
    pub(crate) mirror: &'f Mirror,
    pub(crate) head: Parts,
}

/// Begins the copies, and gives the body that the request itself is sent with.
pub(crate) fn begin(callers: &Arc<Callers>, wanted: Vec<Wanted<'_>>, body: Received) -> Outgoing {
    let has_body = !body.is_end_stream();
    let feeds = wanted.into_iter().filter_map(|one| copy(callers, one, has_body));
    let feeds: Vec<Feed> = feeds.flatten().collect();
    if feeds.is_empty() { Outgoing::Client(body) } else { Outgoing::Copied(Box::new(Copied::new(body, feeds))) }
}

/// Begins one; Some where it was, and in it what the body is to be handed to, where there is one.
fn copy(callers: &Arc<Callers>, wanted: Wanted<'_>, has_body: bool) -> Option<Option<Feed>> {
    let counts = &callers.worker.proxy.metrics.http.mirrors;
    let mirrors = &callers.worker.mirrors;
    let Target::Service { .. } = &wanted.mirror.to else {
        counts.count("unresolved");
        return None;
    };
    let mut tasks = mirrors.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(ended) = tasks.try_join_next() {
        callers.worker.note(ended);
    }
    if tasks.len() >= MAX_COPIES {
        counts.count("busy");
        return None;
    }
    let (feed, body) = if has_body {
        let (feed, body) = feed::pair(mirrors.held.clone());
        (Some(feed), Some(body))
    } else {
        (None, None)
    };
    let life = live(callers.clone(), wanted.mirror.to.clone(), wanted.head, body);
    tasks.spawn(callers.worker.turns.schedule(&callers.account, life));
    Some(feed)
}

/// The life of a copy.
async fn live(callers: Arc<Callers>, to: Target, head: Parts, body: Option<Copying>) {
    let held = body.as_ref().map(Copying::held);
    let body = body.map_or(Outgoing::Empty, |body| Outgoing::Copy(Box::new(body)));
    let cut = async {
        match &held {
            Some(held) => held.cut().await,
            None => std::future::pending().await,
        }
    };
    let sent = Box::pin(sent(&callers, &to, head, body));
    let ended = tokio::select! {
        ended = timeout(TIME, sent) => ended.map_or(Err("late"), |sent| sent.map_err(|fault| fault.name())),
        () = cut => Err("cut"),
    };
    let outcome = match ended {
        Ok(()) => "answered",
        Err(_) if held.as_deref().is_some_and(Held::was_full) => "slow",
        Err(why) => why,
    };
    callers.worker.proxy.metrics.http.mirrors.count(outcome);
    tracing::debug!(outcome, to = ?to, "a request was mirrored");
}

/// To one endpoint, and what it answers to nobody.
async fn sent(callers: &Callers, to: &Target, head: Parts, body: Outgoing) -> Result<(), Fault> {
    let Target::Service { name, port, speaks } = to else { return Err(Fault::Unresolved) };
    let mesh = callers.worker.proxy.current();
    let caller = callers.home.pod.workload(&mesh)?.clone();
    let mut endpoints = Endpoints::of(callers, &mesh, (name, *port, *speaks), &caller)?;
    let mut request = Request::from_parts(sent_as(head, *speaks)?, body);
    for _ in 0..=STALE {
        let mut lease = endpoints.lease(&callers.worker, &mesh).await?;
        match lease.send(request).await {
            Ok(response) => {
                lease.give_back_after(response.into_body()).await;
                return Ok(());
            }
            Err(unsent) => {
                request = unsent.request.ok_or(Fault::Broken)?;
                endpoints.again();
            }
        }
    }
    Err(Fault::Broken)
}
