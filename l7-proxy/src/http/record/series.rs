//! Counts the requests of one edge on one worker. Only that worker writes; whoever prints the metrics reads beside it, so that
//! nothing waits for anything.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::labels::{Answer, Edge};

/// Ways to end that one edge is counted by: each status, flag and policy is one. Who calls in more ways than these is counted
/// under `other` for the rest.
pub(super) const MAX_ANSWERS: usize = 24;

/// Bounds of durations, in microseconds: from what one hop costs to what nobody waits for.
pub(super) const DURATIONS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// Bounds of sizes, in bytes.
pub(super) const SIZES: [u64; 8] = [0, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20];

/// One edge's counts.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) edge: Edge,
    /// Whose it is.
    pub(super) shard: usize,
    pub(super) duration: Histogram<15>,
    pub(super) request: Histogram<8>,
    pub(super) response: Histogram<8>,
    /// Set by the worker when it has let go of this, and taken back when it has use for it again.
    pub(super) is_retired: AtomicBool,
    answers: OnceLock<Box<Tally>>,
}

/// How many requests ended in one way; and the next.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) answer: Answer,
    count: AtomicU64,
    next: OnceLock<Box<Tally>>,
}

impl Tally {
    fn new(answer: Answer) -> Box<Self> {
        Box::new(Self { answer, count: AtomicU64::new(0), next: OnceLock::new() })
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Series {
    pub(super) fn new(edge: Edge, shard: usize) -> Self {
        Self {
            edge,
            shard,
            duration: Histogram::default(),
            request: Histogram::default(),
            response: Histogram::default(),
            is_retired: AtomicBool::new(false),
            answers: OnceLock::new(),
        }
    }

    /// Counts one request: its duration in microseconds, its body's bytes, its answer's.
    pub(super) fn add(&self, answer: Answer, duration_us: u64, (request, response): (u64, u64)) {
        self.tally(answer).count.fetch_add(1, Relaxed);
        self.duration.add(&DURATIONS, duration_us);
        self.request.add(&SIZES, request);
        self.response.add(&SIZES, response);
    }

    /// The count of this answer; of `other` where there are too many.
    fn tally(&self, answer: Answer) -> &Tally {
        let (mut place, mut n) = (&self.answers, 0);
        while let Some(tally) = place.get() {
            if tally.answer == answer {
                return tally;
            }
            place = &tally.next;
            n += 1;
        }
        // The last place is kept for the rest.
        if n < MAX_ANSWERS - 1 { place.get_or_init(|| Tally::new(answer)) } else { self.rest(place) }
    }

    fn rest<'s>(&'s self, end: &'s OnceLock<Box<Tally>>) -> &'s Tally {
        let other = Answer::other();
        match self.tallies().find(|tally| tally.answer == other) {
            Some(tally) => tally,
            None => end.get_or_init(|| Tally::new(other)),
        }
    }

    pub(super) fn tallies(&self) -> impl Iterator<Item = &Tally> {
        std::iter::successors(self.answers.get(), |tally| tally.next.get()).map(|tally| &**tally)
    }

    /// Requests so far.
    pub(super) fn total(&self) -> u64 {
        self.duration.count()
    }
}

/// How many were at most each bound, and all of them added up.
#[derive(Debug)]
pub(super) struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    over: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; N], over: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    fn add(&self, bounds: &[u64; N], value: u64) {
        let bucket = bounds.iter().zip(&self.buckets).find(|(bound, _)| value <= **bound);
        bucket.map_or(&self.over, |(_, bucket)| bucket).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum::<u64>() + self.over.load(Relaxed)
    }
}

/// Histograms of one edge on all workers, added up.
#[derive(Clone, Debug)]
pub(super) struct Added<const N: usize> {
    /// As many as fell between the bounds; the last are over all.
    pub(super) buckets: Vec<u64>,
    pub(super) sum: u64,
}

impl<const N: usize> Added<N> {
    pub(super) fn of<'s>(all: impl Iterator<Item = &'s Histogram<N>>) -> Self {
        let mut added = Self { buckets: vec![0; N + 1], sum: 0 };
        for one in all {
            let counts = one.buckets.iter().chain([&one.over]);
            added.buckets.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.load(Relaxed));
            added.sum = added.sum.wrapping_add(one.sum.load(Relaxed));
        }
        added
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{Added, MAX_ANSWERS, Series};
    use crate::http::record::labels::{Answer, Edge};

    #[test]
    fn a_request_counts_once_in_each_of_what_it_has() {
        let series = Series::new(Edge::other(), 0);
        let ok = Answer::good(StatusCode::OK);
        series.add(ok.clone(), 700, (0, 300));
        series.add(ok.clone(), 31_000_000, (5, 1 << 30));
        let tallies: Vec<_> = series.tallies().map(|tally| (tally.answer.clone(), tally.count())).collect();
        assert_eq!(tallies, [(ok, 2)]);
        let durations = Added::of([&series.duration].into_iter());
        assert_eq!((durations.count(), durations.sum), (2, 31_000_700));
        assert_eq!((durations.buckets[1], durations.buckets.last()), (1, Some(&1)));
        let sizes = Added::of([&series.response].into_iter());
        assert_eq!(
            (sizes.buckets[2], sizes.buckets.last()),
            (1, Some(&1)),
            "300 bytes are under 1 KiB, 1 GiB over all"
        );
        assert_eq!(series.total(), 2);
    }

    #[test]
    fn what_ends_in_too_many_ways_is_counted_under_other_and_nothing_is_lost() {
        let series = Series::new(Edge::other(), 0);
        for code in 200..300 {
            series.add(Answer::good(StatusCode::from_u16(code).unwrap()), 1, (0, 0));
        }
        assert_eq!(series.tallies().count(), MAX_ANSWERS);
        assert_eq!(series.tallies().map(super::Tally::count).sum::<u64>(), 100);
        let other = series.tallies().last().unwrap();
        assert_eq!((other.answer.clone(), other.count()), (Answer::other(), 101 - MAX_ANSWERS as u64));
    }
}
