//! Shares among replicas what the nodes listen on: each compiles for all nodes, and hears only those that have a stream to it.
//!
//! The last word of each node stands in a Lease of its own. The replica that hears a node writes it, all watch. `ledger` decides what
//! is passed on to the publisher and what is written, purely; here the API server is watched and written to.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    clock,
    metrics::Metrics,
    nodes::Nodes,
    publish::{REPORTS, Report},
    source::kubernetes::Health,
    world::{Listening, Settings},
};

mod lease;
pub mod ledger;

pub(crate) use lease::owner;

use ledger::{Due, Ledger, Written};

/// Its name among the watches that `/readyz` and `/status` tell of.
const WATCH: &str = "what nodes listen on";
/// Writes under way at once. A write takes some milliseconds: a thousand nodes that come back together are done in a second.
const WRITES: usize = 16;
/// The first wait after a watch that broke, doubled by each further fault.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How long one watch lasts before the next takes over where it ended.
const WATCH_SECONDS: u32 = 60;

/// Who shares.
pub struct Sharing {
    /// How the API server is reached.
    pub client: Client,
    /// Leases stand in the root namespace.
    pub settings: Settings,
    /// Who this replica is among the others.
    pub replica: Arc<str>,
    /// Which nodes have a stream to it.
    pub nodes: Arc<Nodes>,
    /// What is told of the watch.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The nodes with more pods than a Lease has room for, and how many more.
#[derive(Debug, Default)]
struct LeftOut(BTreeMap<Arc<str>, usize>);

impl LeftOut {
    fn note(&mut self, Report { node, listening }: &Report, n: usize, metrics: &Metrics) {
        let before = if n == 0 { self.0.remove(node) } else { self.0.insert(node.clone(), n) };
        if n > 0 && before.is_none() {
            tracing::warn!(
                %node,
                n_pods = listening.len(),
                n_left_out = n,
                "a node listens for more pods than its Lease has room for: other replicas take the rest for not enrolled; \
                 run fewer pods on the node"
            );
        }
        metrics.left_out(self.0.values().sum());
    }
}

/// Where words come from and go to.
#[derive(Debug)]
pub struct Ends {
    /// What this replica's nodes say.
    pub heard: mpsc::Receiver<Report>,
    /// What any node said, for the publisher.
    pub told: mpsc::Sender<Report>,
    /// All that was there at the start: nothing is to be published before.
    pub first: Option<oneshot::Sender<Listening>>,
}

impl Sharing {
    /// Shares until nobody listens.
    pub async fn run(self, mut ends: Ends) {
        // It ends only where nobody listens any more.
        if Box::pin(self.share(&mut ends)).await.is_none() {
            tracing::debug!("what nodes listen on is shared no more");
        }
    }

    /// The end is None.
    async fn share(&self, ends: &mut Ends) -> Option<std::convert::Infallible> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.settings.root_namespace);
        let config = watcher::Config::default().labels(&lease::selector()).timeout(WATCH_SECONDS);
        let mut seen = std::pin::pin!(watcher(leases, config));
        let (mut ledger, mut left_out) = (Ledger::default(), LeftOut::default());
        let mut writes: JoinSet<Written> = JoinSet::new();
        let (mut listed, mut n_faults, mut rests_until) = (Vec::new(), 0, clock::now());
        self.health.note_as(WATCH, |_| {});
        loop {
            while writes.len() < WRITES
                && let Some(due) = ledger.due(clock::now(), |node| self.nodes.is_connected(node))
            {
                let (client, settings, replica) = (self.client.clone(), self.settings.clone(), self.replica.clone());
                match due {
                    Due::Write(word) => {
                        drop(writes.spawn(async move { lease::write(client, &settings, &replica, word).await }));
                    }
                    Due::Pass(report) => ends.pass_on(vec![report]).await?,
                }
            }
            let is_resting = clock::now() < rests_until;
            tokio::select! {
                // Before the first list a node's word waits in its own stream.
                report = ends.heard.recv(), if ends.first.is_none() => {
                    let report = report?;
                    left_out.note(&report, ledger.hear(&report.node, &report.listening), &self.metrics);
                    ends.pass_on(vec![report]).await?;
                }
                event = seen.next(), if !is_resting => match event? {
                    Ok(Event::Init) => listed = Vec::new(),
                    Ok(Event::InitApply(lease)) => listed.extend(lease::word(&lease)),
                    Ok(Event::InitDone) => {
                        n_faults = 0;
                        self.listed();
                        ends.pass_on(ledger.list(std::mem::take(&mut listed))).await?;
                    }
                    Ok(Event::Apply(lease)) => {
                        n_faults = 0;
                        let news = lease::word(&lease).and_then(|word| ledger.see(word));
                        ends.pass_on(news.into_iter().collect()).await?;
                    }
                    // With its node, or by somebody's hand: what the node said stays with the publisher, who forgets nodes
                    // that are gone, and is written again where it is heard.
                    Ok(Event::Delete(lease)) => ledger.gone(&lease::node(&lease)),
                    Err(error) => {
                        listed = Vec::new();
                        rests_until = clock::now() + self.broke(&error, n_faults);
                        n_faults += 1;
                    }
                },
                Some(written) = writes.join_next() => {
                    let news = written.ok().and_then(|written| ledger.written(written, clock::now()));
                    ends.pass_on(news.into_iter().collect()).await?;
                }
                () = until(ledger.rests_until()) => {}
                () = until(Some(rests_until)), if is_resting => {}
            }
        }
    }

    fn listed(&self) {
        self.health.note_as(WATCH, |watch| {
            watch.listed = true;
            watch.fault = None;
            watch.n_lists += 1;
        });
    }

    /// Notes the fault; how long to leave the API server alone.
    fn broke(&self, error: &watcher::Error, n_before: u32) -> Duration {
        if n_before == 0 {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "the watch of what other replicas' nodes listen on broke; what was read stays");
        }
        self.health.note_as(WATCH, |watch| watch.fault = Some(error.to_string()));
        FIRST_WAIT.saturating_mul(1 << n_before.min(8)).min(LAST_WAIT)
    }
}

impl Ends {
    /// What was there first goes out as one, as nobody takes reports before that; later words go one by one. None where nobody listens.
    async fn pass_on(&mut self, reports: Vec<Report>) -> Option<()> {
        if let Some(first) = self.first.take() {
            let all = reports.into_iter().map(|Report { node, listening }| (node, Arc::new(listening)));
            return first.send(all.collect()).ok();
        }
        for report in reports {
            self.told.send(report).await.ok()?;
        }
        Some(())
    }
}

/// A way for what nodes say here to the publisher, by who shares it: where to say it, the ends of who shares, and what is there first.
pub fn by_way_of(told: mpsc::Sender<Report>) -> (mpsc::Sender<Report>, Ends, oneshot::Receiver<Listening>) {
    let (say, heard) = mpsc::channel(REPORTS);
    let (first, first_end) = oneshot::channel();
    (say, Ends { heard, told, first: Some(first) }, first_end)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
