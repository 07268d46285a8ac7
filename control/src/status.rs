//! Writes on each policy and route what became of it: `Accepted`, and on how many nodes it is in force. One replica writes, the
//! leader; every replica reports what its nodes have applied.
//!
//! `decide` and `route` say what should stand there, `condition` and `parents` what that changes, `lease` who writes; all pure. Here
//! they are put in order, and `write` does the rest. Nothing is written that stands there already, and no other controller's condition is touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use tokio::sync::{oneshot, watch};

use crate::{
    clock, compile, diagnostic::Key, metrics::Metrics, nodes::Nodes, publish::Outcome, source::kubernetes::Standing,
    world::Settings,
};

pub mod backend;
pub mod condition;
pub mod decide;
pub mod lease;
pub mod parents;
pub mod report;
pub mod route;
mod share;
pub mod untold;
mod write;

use decide::Since;
use lease::Leader;
use report::Report;
use route::Routed;
use share::Shared;
use untold::Told;
use write::{AllWanted, Writer};

/// What changes together is written together: a roll-out reports from every node within this time.
const GATHER: Duration = Duration::from_millis(200);
/// How often others' reports are fetched, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(1);

/// What the writer of statuses works from.
#[derive(Debug)]
pub struct Inputs {
    /// What was compiled last, of which objects.
    pub outcome: watch::Receiver<Arc<Outcome>>,
    /// What stands on the statuses.
    pub standing: watch::Receiver<Arc<Standing>>,
    /// What this replica's nodes have applied.
    pub nodes: Arc<Nodes>,
    /// Dropped when the process stops.
    pub stopping: watch::Receiver<()>,
}

/// Writes statuses while it leads.
pub struct Status {
    /// How the API server is reached.
    pub client: Client,
    /// What holds for the whole mesh: leases stand in the root namespace.
    pub settings: Settings,
    /// Who this replica is among the others; unique to this process.
    pub replica: Arc<str>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Tells that this replica leads, and until when at least.
    pub leading: watch::Sender<Option<Instant>>,
}

impl Status {
    /// Goes on until the process stops; the lease is then given back, so that the next leader need not wait it out.
    pub async fn run(self, mut inputs: Inputs, ended: oneshot::Sender<()>) {
        let mut leader = Leader::new(self.client.clone(), &self.settings.root_namespace, &self.replica);
        let mut shared = Shared::new(self.client.clone(), &self.settings.root_namespace, &self.replica);
        let mut writer = Writer::new(self.client.clone(), &self.replica, self.metrics.clone());
        let mut since = Since::default();
        let mut compiled = Compiled::default();
        let mut told = Told::default();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let until = leader.renew(clock::now()).await;
            self.leading.send_if_modified(|before| std::mem::replace(before, until) != until);
            let outcome = inputs.outcome.borrow_and_update().clone();
            let standing = inputs.standing.borrow_and_update().clone();
            if !Arc::ptr_eq(&compiled.outcome, &outcome) {
                since.learn(&outcome);
                compiled = Compiled::of(outcome, &self.settings);
            }
            let own = Report::of(&since, &inputs.nodes.all());
            shared.tell(&own, clock::now()).await;
            if until.is_some_and(|until| clock::now() < until) {
                let mut reports: BTreeMap<Arc<str>, Report> = shared.others(clock::now()).await;
                reports.insert(self.replica.clone(), own);
                let Compiled { outcome, bound, routed } = &compiled;
                let wanted = AllWanted {
                    policies: decide::decide(outcome, bound, reports.values()),
                    entries: route::decide(outcome, routed, reports.values())
                        .into_iter()
                        .chain(backend::decide(outcome, routed, reports.values()))
                        .collect(),
                };
                writer.write(&wanted, &standing, &outcome.sourced.revisions).await;
                writer.tell_all(&mut told, outcome).await;
            }
            tokio::select! {
                changed = inputs.outcome.changed() => if changed.is_err() { break },
                changed = inputs.standing.changed() => if changed.is_err() { break },
                () = inputs.nodes.changed() => {}
                _ = tick.tick() => continue,
                _ = inputs.stopping.changed() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                _ = inputs.stopping.changed() => break,
            }
        }
        leader.release().await;
        shared.leave().await;
        if ended.send(()).is_err() {
            tracing::debug!("nobody waited for the lease to be given back");
        }
    }
}

/// What was compiled last, the nodes that each policy has pods on and those that routes are for: found once, as it takes a look at
/// every pod.
#[derive(Default)]
struct Compiled {
    outcome: Arc<Outcome>,
    bound: BTreeMap<Key, BTreeSet<Arc<str>>>,
    routed: Routed,
}

impl Compiled {
    fn of(outcome: Arc<Outcome>, settings: &Settings) -> Self {
        let bound = match &outcome.edition {
            Some(edition) => compile::bound_nodes(&outcome.sourced.objects, &edition.snapshot, settings),
            None => BTreeMap::new(),
        };
        Self { routed: Routed::of(&outcome, settings), outcome, bound }
    }
}
