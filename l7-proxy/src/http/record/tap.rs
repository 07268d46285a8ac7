//! Shows requests as they end, to whoever asks over the admin socket (`GET /tap?workload=NAMESPACE/NAME`), where the TelemetryPolicy of
//! the pod that calls lets them be watched.
//!
//! Bounded: so many watchers, so many lines that wait for each, so long. A watcher who reads too slowly misses some, and is told how
//! many. While nobody watches, a request costs one look at a number.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use millrace_model::{ObjectName, telemetry::Switch};
use millrace_node::admin::{self, Request, Response, Route};
use tokio::{sync::mpsc, time::Sleep};
use tokio_stream::Stream;

use crate::proxy::Proxy;

/// Who may watch at once.
const WATCHERS: usize = 8;

/// Lines that wait for one watcher.
const WAITING: usize = 256;

/// How long one may watch: a tap that was forgotten ends by itself.
const LONGEST: Duration = Duration::from_secs(600);

/// What a stream of lines is.
const NDJSON: &str = "application/x-ndjson";

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Who watches whom.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    n: AtomicUsize,
    all: Mutex<Vec<Tap>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Tap {
    number: u64,
    workload: ObjectName,
    lines: mpsc::Sender<Bytes>,
    missed: u64,
}

impl Taps {
    /// Whether anybody watches anybody.
    pub(super) fn any(&self) -> bool {
        self.n.load(Relaxed) > 0
    }

    /// Whether anybody watches this workload.
    pub(super) fn watches(&self, workload: &ObjectName) -> bool {
        self.lock().iter().any(|tap| tap.workload == *workload)
    }

    /// Tells a line to those who watch this workload.
    pub(super) fn tell(&self, workload: &ObjectName, line: &Bytes) {
        for tap in self.lock().iter_mut().filter(|tap| tap.workload == *workload) {
            tap.tell(line);
        }
    }

    /// One more; None where there are as many as there may be.
    fn begin(self: &Arc<Self>, workload: ObjectName) -> Option<Watched> {
        let (give, lines) = mpsc::channel(WAITING);
        let mut all = self.lock();
        if all.len() >= WATCHERS {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        all.push(Tap { number, workload, lines: give, missed: 0 });
        self.n.store(all.len(), SeqCst);
        drop(all);
        Some(Watched { taps: self.clone(), number, lines, until: Box::pin(tokio::time::sleep(LONGEST)) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tap>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    fn tell(&mut self, line: &Bytes) {
        if self.missed > 0 {
            let text = format!("{{\"missed\":{}}}\n", self.missed);
            if self.lines.try_send(text.into()).is_ok() {
                self.missed = 0;
            }
        }
        if self.missed > 0 || self.lines.try_send(line.clone()).is_err() {
            self.missed += 1;
        }
    }
}

/// The lines of one watcher. Dropped, nobody watches for it any more.
struct Watched {
    taps: Arc<Taps>,
    number: u64,
    lines: mpsc::Receiver<Bytes>,
    until: Pin<Box<Sleep>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut all = self.taps.lock();
        all.retain(|tap| tap.number != self.number);
        self.taps.n.store(all.len(), SeqCst);
    }
}

impl Stream for Watched {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Ready(ready!(self.lines.poll_recv(cx)))
    }
}

/// `GET /tap` of the admin socket.
pub(crate) fn route(proxy: Arc<Proxy>) -> Route {
    let answer = move |request: Request| -> BoxFuture<Response> {
        let response = answer(&proxy, request.uri().query().unwrap_or_default());
        Box::pin(std::future::ready(response))
    };
    Route { method: "GET", path: "/tap", answer: Arc::new(answer) }
}

fn answer(proxy: &Proxy, query: &str) -> Response {
    let named = query.split('&').find_map(|pair| pair.strip_prefix("workload="));
    let Some(name) = named.and_then(|text| text.replace("%2F", "/").parse::<ObjectName>().ok()) else {
        return admin::text(StatusCode::BAD_REQUEST, "name a pod: /tap?workload=NAMESPACE/NAME\n");
    };
    let mesh = proxy.current();
    let node = proxy.welcome().map(|welcome| welcome.node);
    let Some(workload) = mesh.snapshot.workloads.get(&name) else {
        return admin::text(StatusCode::NOT_FOUND, format!("there is no pod {name}\n"));
    };
    if node.as_ref().ok() != Some(&workload.node) {
        let text = format!("{name} runs on node {}: ask there\n", workload.node);
        return admin::text(StatusCode::NOT_FOUND, text);
    }
    let policy = workload.telemetry.as_ref().and_then(|policy| mesh.snapshot.telemetry.get(policy));
    if policy.is_none_or(|policy| policy.tap == Switch::Off) {
        let who = policy.map_or_else(
            || "no TelemetryPolicy selects it".to_owned(),
            |policy| format!("TelemetryPolicy {} does not say so", policy.name),
        );
        let text = format!("requests of {name} may not be watched: {who}; write tap: Enabled in one that selects it\n");
        return admin::text(StatusCode::FORBIDDEN, text);
    }
    match proxy.requests.taps.begin(name) {
        Some(watched) => admin::stream(NDJSON, watched),
        None => {
            let text = format!("{WATCHERS} watch already: let one of them end\n");
            admin::text(StatusCode::TOO_MANY_REQUESTS, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use millrace_model::ObjectName;

    use super::{Taps, WAITING, WATCHERS};

    fn web() -> ObjectName {
        ObjectName::new("shop", "web")
    }

    #[tokio::test]
    async fn a_watcher_sees_one_workload_and_nobody_is_watched_once_it_has_gone() {
        let taps = Arc::<Taps>::default();
        assert!(!taps.any());
        let mut watched = taps.begin(web()).unwrap();
        assert!(taps.any() && taps.watches(&web()) && !taps.watches(&ObjectName::new("shop", "db")));
        taps.tell(&ObjectName::new("shop", "db"), &Bytes::from_static(b"of another\n"));
        taps.tell(&web(), &Bytes::from_static(b"one\n"));
        assert_eq!(watched.lines.recv().await.unwrap(), "one\n");
        drop(watched);
        assert!(!taps.any());
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_how_much_was_missed_and_nobody_waits() {
        let taps = Arc::<Taps>::default();
        let mut watched = taps.begin(web()).unwrap();
        let line = Bytes::from_static(b"x\n");
        (0..WAITING + 7).for_each(|_| taps.tell(&web(), &line));
        for _ in 0..WAITING {
            assert_eq!(watched.lines.recv().await.unwrap(), "x\n");
        }
        taps.tell(&web(), &line);
        assert_eq!(watched.lines.recv().await.unwrap(), "{\"missed\":7}\n");
        assert_eq!(watched.lines.recv().await.unwrap(), "x\n");
    }

    #[tokio::test]
    async fn watchers_are_bounded() {
        let taps = Arc::<Taps>::default();
        let all: Vec<_> = (0..WATCHERS).map(|_| taps.begin(web()).unwrap()).collect();
        assert!(taps.begin(web()).is_none());
        drop(all);
        assert!(taps.begin(web()).is_some());
    }
}
