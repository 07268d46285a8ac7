//! Adds up connections by who calls whom: the per-edge metrics. Bounded: what is over the cap goes to one series, and is counted;
//! edges on which nothing happened for a while are forgotten.

mod labels;
mod series;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use millrace_abi::{Action, Reason, Side, action};
use millrace_model::ObjectName;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Decided, Ended, Names,
    names::{Named, Who},
};
use labels::Labels;
use series::Series;

/// Edges that have series of their own, of some 40 each: a node of 250 pods that each call four others, with room. A scrape of so many
/// takes 10 MB.
const MOST: usize = 1000;

/// How long an edge is kept on which nothing happens: some scrapes, so that its last figures are seen.
const IDLE: Duration = Duration::from_secs(600);

/// Who calls whom, and which end tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    side: Side,
    path: &'static str,
    /// A workload's id; 0 where unknown.
    source: u64,
    /// A workload's id; 0 where unknown.
    target: u64,
    /// A service's id; 0 for none.
    service: u64,
}

#[derive(Debug)]
struct Edge {
    labels: Arc<Labels>,
    series: Series,
    at: Instant,
}

#[derive(Debug, Default)]
struct State {
    edges: HashMap<Key, Edge>,
    /// By side: what had no room of its own.
    other: HashMap<Side, Series>,
    n_other: u64,
    n_forgotten: u64,
    swept: Option<Instant>,
}

/// The edges of a node.
#[derive(Debug, Default)]
pub struct Edges(Mutex<State>);

impl Edges {
    /// Counts a connect that was decided in a pod of this node.
    pub fn decided(&self, decided: &Decided, names: &Names, now: Instant) {
        if decided.is_datagram {
            return;
        }
        let Some((reason, begun)) = decided.reason().and_then(|reason| Some((reason, begun(reason)?))) else { return };
        let is_chosen_elsewhere = reason == Reason::Proxied && decided.asked != decided.target;
        let target = if is_chosen_elsewhere { Named::Nobody } else { names.at(decided.target.ip()) };
        let ends = (&decided.source, &target, names.service(decided.asked));
        self.lock().count((Side::Client, reason.name()), ends, now, |series| match begun {
            Begun::Opened => series.opened += 1,
            Begun::Refused => *series.failed.entry(reason.name()).or_default() += 1,
        });
    }

    /// Counts a connection that has ended: for the end that tells, and where that speaks for both, for the other.
    pub fn ended(&self, ended: &Ended, now: Instant) {
        let side = ended.side();
        let ends = (&ended.source, &ended.target, ended.service.as_ref());
        let mut state = self.lock();
        state.count((side, ended.path()), ends, now, |series| series.ended(ended));
        if side == Side::Client && ended.event.is_attested == 1 && !ended.has_failed() {
            let ends = (&ended.source, &ended.target, None);
            state.count((Side::Server, Reason::InAttested.name()), ends, now, |series| series.ended_there(ended));
        }
    }

    /// Forgets edges on which nothing happened for a while.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        if state.swept.is_some_and(|at| now.saturating_duration_since(at) < IDLE / 10) {
            return;
        }
        state.swept = Some(now);
        let before = state.edges.len();
        state.edges.retain(|_, edge| now.saturating_duration_since(edge.at) < IDLE);
        state.n_forgotten += (before - state.edges.len()) as u64;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Source, target, and the service that was asked for.
type Between<'n> = (&'n Who, &'n Who, Option<&'n ObjectName>);

impl State {
    /// Counts on the edge between these, or where there is no room for it, on the other one.
    fn count(
        &mut self,
        (side, path): (Side, &'static str),
        (source, target, service): Between<'_>,
        now: Instant,
        count: impl FnOnce(&mut Series),
    ) {
        let service_id = service.map_or(0, ObjectName::id);
        let key = Key { side, path, source: source.id(), target: target.id(), service: service_id };
        if let Some(edge) = self.edges.get_mut(&key) {
            edge.at = now;
            count(&mut edge.series);
        } else if self.edges.len() < MOST {
            let known = (source.known().map(|w| &**w), target.known().map(|w| &**w));
            let labels = Arc::new(Labels::of(side, path, known, service));
            let mut series = Series::default();
            count(&mut series);
            self.edges.insert(key, Edge { labels, series, at: now });
        } else {
            self.n_other += 1;
            count(self.other.entry(key.side).or_default());
        }
    }
}

/// What a decision begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// A connection, whose end will be told too.
    Opened,
    /// Nothing: it failed there and then.
    Refused,
}

/// What this decision of a connect begins; None for those that are told at another end, or are the mesh's own.
fn begun(reason: Reason) -> Option<Begun> {
    match action(reason) {
        Action::Refuse(_) => Some(Begun::Refused),
        Action::Drop => None, // Nobody knows who it was.
        Action::Pass => {
            let opens = [Reason::Direct, Reason::Proxied, Reason::PlainBackend, Reason::Own, Reason::HostRemote]
                .contains(&reason);
            opens.then_some(Begun::Opened)
        }
    }
}

impl Collector for Edges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        // Copied, so that who counts does not wait for what is printed.
        let (all, table) = {
            let state = self.lock();
            let other = state.other.iter().map(|(side, series)| (Arc::new(Labels::other(*side)), series.clone()));
            let own = state.edges.values().map(|edge| (edge.labels.clone(), edge.series.clone()));
            (own.chain(other).collect::<Vec<_>>(), (state.edges.len(), state.n_other, state.n_forgotten))
        };
        series::encode(&mut encoder, &all)?;
        series::encode_table(&mut encoder, table)
    }
}

#[cfg(test)]
mod tests;
