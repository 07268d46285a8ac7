//! Watches a Kubernetes API server: the same objects as in a directory, read by the same code, kept by nothing but the World.
//!
//! A task for each kind (and namespace, where some are named) lists and watches; what it reads goes to one cabinet, and what is in
//! force after a change goes out whole, as the directory's does. While the API server is away all stays as it was: a list counts
//! once it is whole, and then only where it differs.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kube::Client;
use millrace_model::Map;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::Sourced;
use crate::{clock, diagnostic::Kind, metrics::Metrics, world::Settings};

pub mod cabinet;
pub mod client;
mod health;
mod objects;
mod raw;
mod resource;
mod section;
mod stands;

pub use cabinet::{Cabinet, Read, Seen};
pub use health::Health;
pub use resource::{plural, resource};
pub use stands::{AllAsked, Asked, Standing, Stands, Uids};

use section::Section;

/// What the tasks have read and the cabinet has not taken: a full queue holds back the watches, not memory.
const READ: usize = 1024;
/// After one set of objects is sent, how long changes gather for the next. The publisher takes the last of them in its own time; each
/// that is sent makes the next change copy a chunk of names, and the lists of a large cluster come in thousands of pieces.
const GATHER: Duration = Duration::from_millis(10);

/// A Kubernetes API server as the source of objects.
pub struct Kubernetes {
    /// How it is reached.
    pub client: Client,
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// The only namespaces that are read; all, where none is named.
    pub namespaces: BTreeSet<String>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told of each watch.
    pub health: Arc<Health>,
}

/// Where a source sends.
#[derive(Debug)]
pub struct Ends {
    /// The objects in force.
    pub sourced: watch::Sender<Arc<Sourced>>,
    /// What stands on the policies' and routes' status now.
    pub standing: watch::Sender<Arc<Standing>>,
}

impl Kubernetes {
    /// Sends what is in force once every list is whole, and after each change, until nobody listens.
    pub async fn follow(self, ends: Ends) -> anyhow::Result<()> {
        let (seen, mut reads) = mpsc::channel(READ);
        let mut tasks = JoinSet::new();
        let sections = self.sections();
        let mut cabinet = Cabinet::new(sections.iter().map(|section| section.id.clone()).collect());
        for section in sections {
            tasks.spawn(section.follow(seen.clone()));
        }
        drop(seen);
        let mut pace = Pace { due: None, last: None };
        loop {
            tokio::select! {
                read = reads.recv() => {
                    let read = read.context("every watch has ended")?;
                    let mut change = cabinet.take(read);
                    // Bounded by the queue: what comes meanwhile waits for the next turn.
                    for _ in 0..READ {
                        let Ok(read) = reads.try_recv() else { break };
                        change |= cabinet.take(read);
                    }
                    if change.standing {
                        ends.standing.send_replace(Arc::new(cabinet.standing().clone()));
                    }
                    if change.objects && cabinet.is_whole() {
                        pace.want(clock::now());
                    }
                }
                () = pace.wait() => {
                    ends.sourced.send_replace(Arc::new(cabinet.sourced()));
                    pace.sent(clock::now());
                }
                () = ends.sourced.closed() => return Ok(()),
                Some(ended) = tasks.join_next() => ended.context("a watch failed")?,
            }
        }
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        for kind in Kind::ALL {
            let mut add = |namespace: Option<&str>| {
                sections.push(Section {
                    id: cabinet::Id { kind, namespace: namespace.map(Arc::from) },
                    client: self.client.clone(),
                    settings: self.settings.clone(),
                    metrics: self.metrics.clone(),
                    health: self.health.clone(),
                });
            };
            if kind.is_cluster_scoped() || self.namespaces.is_empty() {
                add(None);
            } else {
                self.namespaces.iter().for_each(|namespace| add(Some(namespace)));
            }
        }
        sections
    }
}

/// When to send next: at once after a rest, together what comes close.
#[derive(Debug)]
struct Pace {
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    fn want(&mut self, now: Instant) {
        self.due.get_or_insert_with(|| self.last.map_or(now, |last| now.max(last + GATHER)));
    }

    fn sent(&mut self, now: Instant) {
        *self = Self { due: None, last: Some(now) };
    }

    async fn wait(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

/// What is known of the objects that report a status, by name.
pub type Revisions = Map<crate::diagnostic::Key, Revision>;

/// Which version of an object was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Which object of that name.
    pub uid: Arc<str>,
    /// Grows with each change of its spec.
    pub generation: i64,
}

#[cfg(test)]
mod tests {
    use super::{GATHER, Pace};

    #[test]
    fn the_first_change_goes_at_once_and_those_close_behind_go_together() {
        let start = crate::clock::now();
        let mut pace = Pace { due: None, last: None };
        pace.want(start);
        assert_eq!(pace.due, Some(start));
        pace.sent(start);
        pace.want(start + GATHER / 5);
        pace.want(start + GATHER / 2);
        assert_eq!(pace.due, Some(start + GATHER));
        pace.sent(start + GATHER);
        pace.want(start + GATHER * 10);
        assert_eq!(pace.due, Some(start + GATHER * 10));
    }
}
