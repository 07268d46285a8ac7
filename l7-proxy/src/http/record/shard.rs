//! Holds what one worker has counted, where it finds it without asking anybody; and the book in which all workers' counts are
//! found by whoever prints them.
//!
//! The number of edges is bounded: what is over it counts on an edge named `other` throughout. An edge on which nothing happens
//! for ten minutes is let go of, with its series: pods come and go, and their names with them.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    labels::{Answer, Edge, EdgeOf},
    series::Series,
};

/// Edges with series of their own: as many as the agent has of connections. Each is some 40 lines of metrics.
pub(crate) const MAX_EDGES: usize = 1_000;

/// How long an edge is kept on which nothing happens.
const KEPT: Duration = Duration::from_secs(600);

/// One edge's series, a worker's each.
pub(super) type OfEdge = Vec<Arc<Series>>;

type Edges = HashMap<Edge, OfEdge>;

/// All workers' counts.
#[derive(Debug, Default)]
pub(crate) struct Book {
    edges: Mutex<Edges>,
    shards: AtomicUsize,
}

impl Book {
    /// A place for one worker's counts.
    pub(super) fn shard(self: &Arc<Self>) -> Shard {
        let number = self.shards.fetch_add(1, Relaxed);
        Shard {
            book: self.clone(),
            number,
            hasher: RandomState::new(),
            held: HashMap::new(),
            other: None,
            is_full: false,
        }
    }

    /// This shard's series of an edge; None where there are as many edges as there may be.
    fn series(&self, edge: Edge, shard: usize) -> Option<Arc<Series>> {
        let mut edges = self.lock();
        // What takes the rest is one more.
        if !edges.contains_key(&edge) && !edge.is_other() && edges.len() >= MAX_EDGES {
            return None;
        }
        let all = edges.entry(edge.clone()).or_default();
        if let Some(own) = all.iter().find(|series| series.shard == shard) {
            own.is_retired.store(false, Relaxed);
            return Some(own.clone());
        }
        let series = Arc::new(Series::new(edge, shard));
        all.push(series.clone());
        Some(series)
    }

    /// Lets go of edges that no worker holds any more. One that another holds keeps its sum: it must not count down.
    fn forget(&self) {
        self.lock().retain(|_, all| all.iter().any(|series| !series.is_retired.load(Relaxed)));
    }

    /// Every edge, and its series.
    pub(super) fn all(&self) -> Vec<(Edge, OfEdge)> {
        let mut all: Vec<_> = self.lock().iter().map(|(edge, series)| (edge.clone(), series.clone())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's counts.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(super) book: Arc<Book>,
    number: usize,
    hasher: RandomState,
    /// By the hash of the edge's names: a series is found without a copy of any.
    held: HashMap<u64, Vec<Held>>,
    other: Option<Held>,
    /// Whether there was no room for another edge when one was asked for last.
    is_full: bool,
}

#[derive(Debug)]
struct Held {
    series: Arc<Series>,
    /// How many requests it had when that was looked at last, and since when.
    seen: Option<(u64, Instant)>,
}

impl Shard {
    /// Counts one request.
    pub(super) fn add(&mut self, edge: &EdgeOf<'_>, answer: Answer, duration_us: u64, sizes: (u64, u64)) {
        let names = edge.names();
        let hash = self.hasher.hash_one(names);
        let alike = self.held.get(&hash).map(Vec::as_slice).unwrap_or_default();
        if let Some(held) = alike.iter().find(|held| held.series.edge.is(&names)) {
            return held.series.add(answer, duration_us, sizes);
        }
        let own = if self.is_full { None } else { self.book.series(Edge::new(&names), self.number) };
        if let Some(series) = own {
            series.add(answer, duration_us, sizes);
            self.held.entry(hash).or_default().push(Held { series, seen: None });
            return;
        }
        // Nobody is asked again before the next sweep, which may have made room.
        self.is_full = true;
        if self.other.is_none() {
            self.other = self.book.series(Edge::other(), self.number).map(|series| Held { series, seen: None });
        }
        if let Some(held) = &self.other {
            held.series.add(answer, duration_us, sizes);
        }
    }

    /// Lets go of edges on which nothing happened for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.is_full = false;
        let mut n_gone = 0_usize;
        self.held.retain(|_, alike| {
            let before = alike.len();
            alike.retain_mut(|held| held.is_kept(now));
            n_gone += before - alike.len();
            !alike.is_empty()
        });
        if n_gone > 0 {
            self.book.forget();
            tracing::debug!(n_gone, "edges without requests are let go of");
        }
    }
}

impl Held {
    /// Whether something happened lately; what is not kept is retired.
    fn is_kept(&mut self, now: Instant) -> bool {
        let total = self.series.total();
        match self.seen {
            Some((seen, since)) if seen == total && now.saturating_duration_since(since) >= KEPT => {
                self.series.is_retired.store(true, Relaxed);
                return false;
            }
            Some((seen, _)) if seen == total => {}
            Some(_) | None => self.seen = Some((total, now)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;
    use millrace_model::ObjectName;
    use millrace_node::clock;

    use super::{Book, KEPT, MAX_EDGES, Shard};
    use crate::http::record::{
        labels::{Answer, EdgeOf, Spoken},
        series::Tally,
    };

    fn call(shard: &mut Shard, service: &str) {
        let (source, account) = (ObjectName::new("shop", "web"), Arc::from("web"));
        let service = ObjectName::new("shop", service);
        let edge =
            EdgeOf { source: &source, account: &account, target: None, service: Some(&service), spoken: Spoken::Http1 };
        shard.add(&edge, Answer::good(StatusCode::OK), 100, (0, 0));
    }

    fn total(book: &Book) -> u64 {
        book.all().iter().flat_map(|(_, all)| all).flat_map(|series| series.tallies()).map(Tally::count).sum()
    }

    #[test]
    fn workers_count_apart_and_are_added_up() {
        let book = Arc::<Book>::default();
        let (mut one, mut two) = (book.shard(), book.shard());
        (0..3).for_each(|_| call(&mut one, "reviews"));
        call(&mut two, "reviews");
        call(&mut two, "ratings");
        assert_eq!((book.all().len(), total(&book)), (2, 5));
    }

    #[test]
    fn edges_are_bounded_and_what_is_over_is_counted_under_other() {
        let book = Arc::<Book>::default();
        let mut shard = book.shard();
        (0..MAX_EDGES + 50).for_each(|n| call(&mut shard, &format!("s{n}")));
        let all = book.all();
        assert_eq!(all.len(), MAX_EDGES + 1);
        assert_eq!(total(&book), MAX_EDGES as u64 + 50);
        let other: u64 = all.iter().filter(|(edge, _)| edge.is_other()).flat_map(|(_, s)| s).map(|s| s.total()).sum();
        assert_eq!(other, 50);
    }

    #[test]
    fn an_edge_without_requests_for_long_makes_room_for_another() {
        let book = Arc::<Book>::default();
        let (mut one, mut two) = (book.shard(), book.shard());
        let now = clock::now();
        call(&mut one, "old");
        call(&mut two, "old");
        call(&mut one, "busy");
        one.sweep(now);
        two.sweep(now);
        call(&mut one, "busy");
        one.sweep(now + KEPT);
        assert_eq!(total(&book), 4, "another worker holds it still, and its sum must not fall");
        two.sweep(now + KEPT);
        assert_eq!((book.all().len(), total(&book)), (1, 2), "both have let go of it");
        call(&mut two, "old");
        assert_eq!(total(&book), 3, "it begins anew");
    }
}
