//! Makes an edition of every change: objects and reports in, one Snapshot out for each batch, the last few kept for whoever resumes.
//!
//! The first change of a batch goes out at once; what follows within the window goes together.

mod struck;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::Snapshot;
use tokio::sync::{mpsc, watch};

use crate::{
    compile,
    diagnostic::{Diagnostic, Object},
    generation::Generations,
    issue::roots::Trusted,
    metrics::Metrics,
    nodes::Nodes,
    scope::Edition,
    source::Sourced,
    store,
    world::{Listener, Listening, Objects, Settings, World},
};

use struck::Struck;

/// After one edition, how long changes gather for the next: a rollout touches dozens of objects within this time, and each edition is sent to
/// every node. A change that comes just behind another waits so long: it is most of what one takes at fifty a second.
pub const WINDOW: Duration = Duration::from_millis(50);
/// How many editions can be resumed from: at twenty a second, what a reconnect within a second needs. They share what they have in common.
pub const EDITIONS: usize = 32;
/// Reports that wait for the next batch: a node sends few, and waits when there is no room.
pub const REPORTS: usize = 1024;

/// Faults logged at once: a person reads some, and looks for the rest where all are.
const LOGGED: usize = 50;

/// What a node said of the listeners it holds open: all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node, by its certificate.
    pub node: Arc<str>,
    /// All of them.
    pub listening: BTreeSet<Listener>,
}

/// The last editions, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<Arc<Edition>>);

impl History {
    /// The newest; None before the first was made.
    pub fn now(&self) -> Option<&Arc<Edition>> {
        self.0.last()
    }

    /// The one of this generation, while it is kept.
    pub fn at(&self, generation: u64) -> Option<&Arc<Edition>> {
        self.0.iter().find(|edition| edition.generation() == generation)
    }

    fn with(&self, edition: Edition) -> Self {
        let kept = self.0.len().saturating_sub(EDITIONS - 1);
        Self(self.0.iter().skip(kept).cloned().chain([Arc::new(edition)]).collect())
    }
}

/// Where the publisher reads and writes.
#[derive(Debug)]
pub struct Ends {
    /// The objects.
    pub source: watch::Receiver<Arc<Sourced>>,
    /// What the nodes say.
    pub reports: mpsc::Receiver<Report>,
    /// The nodes that were taken out.
    pub trusted: watch::Receiver<Trusted>,
    /// The editions.
    pub history: watch::Sender<Arc<History>>,
    /// All that is wrong with the objects.
    pub diagnostics: watch::Sender<Arc<Vec<Diagnostic>>>,
    /// What became of the objects, all of one time.
    pub outcome: watch::Sender<Arc<Outcome>>,
}

/// What became of the objects that were read at one time.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The edition that they are in; None before the first.
    pub edition: Option<Arc<Edition>>,
    /// The objects.
    pub sourced: Arc<Sourced>,
    /// What is wrong with them.
    pub diagnostics: Arc<Vec<Diagnostic>>,
}

/// What nodes said of pods that were gone since, until it is confirmed.
#[derive(Debug, Default)]
pub struct Unconfirmed(Struck);

/// What the publisher knows.
#[derive(Debug)]
pub struct Publisher {
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// What the nodes said last, kept on disk: a restarted control plane must not take every pod for one not yet enrolled.
    pub listening: Listening,
    /// Which of that is older than what it speaks of.
    pub struck: Unconfirmed,
    /// Where that is kept.
    pub kept_in: PathBuf,
    /// Whether it is as it was kept last.
    pub is_kept: bool,
    /// What was compiled last; None before the first.
    pub last: Option<compile::Last>,
    /// What generations are counted by.
    pub generations: Generations,
    /// Which of them are connected.
    pub nodes: Arc<Nodes>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Publisher {
    /// Publishes until the source or all who report are gone.
    pub async fn run(mut self, mut ends: Ends) {
        loop {
            let sourced = ends.source.borrow_and_update().clone();
            let revoked = ends.trusted.borrow_and_update().revoked.out();
            let batch = Batch { sourced: sourced.clone(), revoked, history: ends.history.borrow().clone() };
            let Ok((publisher, history, diagnostics)) = tokio::task::spawn_blocking(move || {
                let (history, diagnostics) = self.publish(&batch);
                (self, history, diagnostics)
            })
            .await
            else {
                // Only a panic of compile ends here; the last edition stays, and readiness says that nothing follows it.
                tracing::error!("compiling the world failed; no change is published any more");
                return;
            };
            self = publisher;
            if let Some(history) = history {
                ends.history.send_replace(Arc::new(history));
            }
            ends.diagnostics.send_if_modified(|told| {
                let differs = **told != diagnostics;
                if differs {
                    log(told, &diagnostics);
                    *told = Arc::new(diagnostics);
                }
                differs
            });
            let outcome = Outcome {
                edition: ends.history.borrow().now().cloned(),
                sourced,
                diagnostics: ends.diagnostics.borrow().clone(),
            };
            ends.outcome.send_replace(Arc::new(outcome));
            tokio::time::sleep(WINDOW).await;
            if !self.next(&mut ends).await {
                return;
            }
        }
    }

    /// Waits for a change and takes all that has come; false when nothing will come any more.
    async fn next(&mut self, ends: &mut Ends) -> bool {
        loop {
            let waits = self.struck.0.until();
            tokio::select! {
                changed = ends.source.changed() => return changed.is_ok(),
                () = confirmed(&self.nodes, waits), if waits.is_some() => {
                    let nodes = self.nodes.clone();
                    let counts_again = self.struck.0.lift(|node| nodes.applied_by(node), crate::clock::now());
                    // Only then: what a node said before it applied this is in the queue by now, and may be that it listens no more.
                    if self.take_waiting(&mut ends.reports) | counts_again {
                        return true;
                    }
                }
                changed = ends.trusted.changed() => return changed.is_ok(),
                report = ends.reports.recv() => {
                    let Some(report) = report else { return false };
                    if self.take(report) | self.take_waiting(&mut ends.reports) {
                        return true;
                    }
                }
            }
        }
    }

    /// Takes what has come already; true where any of it is new.
    fn take_waiting(&mut self, reports: &mut mpsc::Receiver<Report>) -> bool {
        let mut differs = false;
        while let Ok(report) = reports.try_recv() {
            differs |= self.take(report);
        }
        differs
    }

    fn take(&mut self, Report { node, listening }: Report) -> bool {
        if self.listening.get(&node).is_some_and(|said| **said == listening) {
            return false;
        }
        self.struck.0.heard(&node, &listening);
        self.listening.insert(node, Arc::new(listening));
        self.is_kept = false;
        true
    }

    /// The history with what this batch makes of it, if that is another Snapshot; and all diagnostics.
    fn publish(&mut self, Batch { sourced, revoked, history }: &Batch) -> (Option<History>, Vec<Diagnostic>) {
        let begun = crate::clock::now();
        self.forget_nodes_that_are_gone(&sourced.objects);
        self.keep();
        let world = World {
            settings: self.settings.clone(),
            objects: sourced.objects.clone(),
            listening: self.struck.0.without(&self.listening),
            revoked: revoked.clone(),
        };
        let previous = history.now();
        let empty = Snapshot::default();
        let before = previous.map_or(&empty, |edition| &*edition.snapshot);
        let again = self.last.take().and_then(|last| last.again(&world));
        let last = again.unwrap_or_else(|| compile::Last::whole(world, before));
        let mut snapshot = Snapshot { generation: before.generation, ..last.snapshot().clone() };
        let differs = previous.is_none() || *before != snapshot;
        let diagnostics = diagnostics(sourced, last.diagnostics());
        self.last = Some(last);
        self.metrics.compiled(crate::clock::now().saturating_duration_since(begun), &diagnostics);
        if !differs {
            return (None, diagnostics);
        }
        snapshot.generation = self.generations.after(before.generation);
        let edition = Edition::new(snapshot, previous.map(|p| &**p));
        if let Some(previous) = previous {
            self.struck.0.strike(edition.gone_since(previous), edition.generation(), crate::clock::now());
        }
        self.metrics.published(edition.generation(), begun_after(begun));
        tracing::info!(
            generation = edition.generation(),
            n_workloads = edition.snapshot.workloads.len(),
            n_services = edition.snapshot.services.len(),
            n_policies = edition.snapshot.policies.len(),
            n_diagnostics = diagnostics.len(),
            "published"
        );
        (Some(history.with(edition)), diagnostics)
    }

    /// A node that is connected, here or to another replica, says only what changes: what it said is not to be forgotten, though its
    /// pods be gone for a moment that it never saw. One that comes back says all of it.
    fn forget_nodes_that_are_gone(&mut self, objects: &Objects) {
        let has_pods = |node: &Arc<str>| objects.pods.values().any(|pod| pod.node.as_ref() == Some(node));
        let n_before = self.listening.len();
        self.listening
            .retain(|node, _| objects.nodes.contains_key(node) || self.nodes.is_connected(node) || has_pods(node));
        self.is_kept &= self.listening.len() == n_before;
    }

    fn keep(&mut self) {
        if self.is_kept {
            return;
        }
        let kept = serde_json::to_vec(&self.listening).map_err(std::io::Error::from);
        match kept.and_then(|kept| store::remember(&self.kept_in, &kept)) {
            Ok(()) => self.is_kept = true,
            Err(error) => {
                tracing::warn!(file = %self.kept_in.display(), %error, "could not keep what the nodes listen on");
            }
        }
    }
}

/// Returns when a node has applied something, or at the latest when this time has come.
async fn confirmed(nodes: &Nodes, until: Option<Instant>) {
    let time = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = nodes.applied_anew() => {}
        () = time => {}
    }
}

/// What is new among them; a storm of them is counted.
fn log(before: &[Diagnostic], now: &[Diagnostic]) {
    let known: BTreeSet<&Diagnostic> = before.iter().collect();
    let new: Vec<&Diagnostic> = now.iter().filter(|diagnostic| !known.contains(diagnostic)).collect();
    for diagnostic in new.iter().take(LOGGED) {
        tracing::warn!(object = %diagnostic.object, field = diagnostic.field, "{diagnostic}");
    }
    if new.len() > LOGGED {
        tracing::warn!(n = new.len() - LOGGED, "and more faults of objects: see /diagnostics of the admin socket");
    }
    if now.is_empty() {
        tracing::info!("all faults of objects are mended");
    }
}

fn begun_after(begun: Instant) -> Duration {
    crate::clock::now().saturating_duration_since(begun)
}

struct Batch {
    sourced: Arc<Sourced>,
    revoked: BTreeSet<Arc<str>>,
    history: Arc<History>,
}

/// The source's diagnostics and the compiler's, each with its place.
fn diagnostics(sourced: &Sourced, notes: &[Diagnostic]) -> Vec<Diagnostic> {
    let placed = notes.iter().cloned().map(|mut note| {
        if let Object::Known(key) = &note.object {
            note.place = sourced.places.get(key).cloned();
        }
        note
    });
    let mut all: Vec<Diagnostic> = sourced.diagnostics.iter().cloned().chain(placed).collect();
    all.sort();
    all
}
