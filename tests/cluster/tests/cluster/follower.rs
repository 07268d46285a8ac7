//! A node that goes from replica to replica: it applies what comes, says that it listens for its pods, and notes whatever turned back.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millrace_control::clock;
use millrace_model::{Membership, ObjectName, Snapshot, service::Readiness};
use millrace_wire::{
    control::{Applied, Have, Listener, Listening, NodeMessage, node_message::Kind},
    convert,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::node::{Node, message};

/// Between two tries: as an agent's first.
const AGAIN: Duration = Duration::from_millis(150);

/// What one node has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What it holds.
    pub(crate) snapshot: Snapshot,
    /// What was there, was not taken away, and was not there in between.
    pub(crate) flaps: Vec<String>,
    /// Streams that it had, and to which replica the last is, while it is open.
    pub(crate) n_streams: usize,
    pub(crate) at: Option<SocketAddr>,
    /// Differences from something that it did not have.
    pub(crate) n_unfitting: usize,
    /// The longest time without a stream.
    pub(crate) longest_away: Duration,
    pub(crate) n_updates: usize,
}

/// A node that follows whichever replica there is.
pub(crate) struct Follower {
    pub(crate) name: Arc<str>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Follows the first of the replicas that takes it, until it is dropped. What turns back of pods named `steady-` is noted.
    pub(crate) fn start(name: &str, node: Node, replicas: watch::Receiver<Vec<SocketAddr>>) -> Self {
        let (name, seen): (Arc<str>, _) = (name.into(), Arc::new(Mutex::new(Seen::default())));
        let (own, noted) = (name.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut lost = None;
            loop {
                let addresses = replicas.borrow().clone();
                for address in addresses {
                    Box::pin(session(&own, &node, address, &noted, &mut lost)).await;
                    if let Some(at) = noted.lock().unwrap().at.take() {
                        lost = Some(clock::now());
                        println!("{own}: its stream to {at} ended");
                        break;
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { name, seen, task }
    }

    /// Asks something of what it has seen.
    pub(crate) fn look<T>(&self, ask: impl FnOnce(&Seen) -> T) -> T {
        ask(&self.seen.lock().unwrap())
    }
}

async fn session(own: &str, node: &Node, address: SocketAddr, seen: &Mutex<Seen>, lost: &mut Option<Instant>) {
    let Ok(mut client) = node.try_client(address).await else { return };
    let (say, said) = mpsc::channel(16);
    let generation = seen.lock().unwrap().snapshot.generation;
    if say.send(message(Kind::Have(Have { generation }))).await.is_err() {
        return;
    }
    let Ok(stream) = client.subscribe(ReceiverStream::new(said)).await else { return };
    let mut updates = stream.into_inner();
    {
        let mut seen = seen.lock().unwrap();
        seen.n_streams += 1;
        seen.at = Some(address);
        seen.longest_away = seen.longest_away.max(lost.take().map_or(Duration::ZERO, |lost| lost.elapsed()));
    }
    let mut told = None;
    while let Ok(Some(update)) = updates.message().await {
        if update.from == update.to {
            continue; // It says by what peers are believed.
        }
        let delta = convert::delta(update).unwrap();
        let messages = {
            let mut seen = seen.lock().unwrap();
            let Ok(next) = seen.snapshot.apply(&delta) else {
                seen.n_unfitting += 1;
                seen.snapshot = Snapshot::default();
                return;
            };
            let mut turned = turned_back(&seen.snapshot, &next);
            seen.flaps.append(&mut turned);
            seen.n_updates += 1;
            seen.snapshot = next;
            let mut messages = vec![Kind::Applied(Applied { generation: delta.to, failures: Vec::new() })];
            let pods = own_pods(own, &seen.snapshot);
            if told.as_ref() != Some(&pods) {
                messages.push(Kind::Listening(listening(&pods)));
                told = Some(pods);
            }
            messages
        };
        for kind in messages {
            if say.send(NodeMessage { kind: Some(kind) }).await.is_err() {
                return;
            }
        }
    }
}

type Pods = BTreeSet<(ObjectName, Arc<str>)>;

fn own_pods(own: &str, snapshot: &Snapshot) -> Pods {
    let own =
        snapshot.workloads.values().filter(|workload| *workload.node == *own && workload.membership.is_captured());
    own.map(|workload| (workload.name.clone(), workload.instance.clone())).collect()
}

fn listening(pods: &Pods) -> Listening {
    let one = |(name, instance): &(ObjectName, Arc<str>)| Listener {
        name: Some(convert::name(name)),
        instance: instance.to_string(),
    };
    Listening { workloads: pods.iter().map(one).collect() }
}

/// Steady pods that were enrolled, or endpoints that were ready, and are no more.
fn turned_back(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let steady = |name: &ObjectName| name.name.starts_with("steady-");
    let mut turned = Vec::new();
    for (name, workload) in before.workloads.iter().filter(|(name, _)| steady(name)) {
        let is_enrolled = |snapshot: &Snapshot| {
            snapshot.workloads.get(name).is_some_and(|one| one.membership == Membership::Enrolled)
        };
        if workload.membership == Membership::Enrolled && !is_enrolled(now) {
            turned.push(format!("{name} is {:?}", now.workloads.get(name).map(|one| one.membership)));
        }
    }
    for (name, endpoints) in before.endpoints.iter().filter(|(name, _)| steady(name)) {
        let n_ready = |snapshot: &Snapshot| {
            let endpoints = snapshot.endpoints.get(name).map(|all| all.endpoints.clone()).unwrap_or_default();
            endpoints.iter().filter(|endpoint| endpoint.readiness == Readiness::Ready).count()
        };
        if n_ready(now) < n_ready(before) {
            turned.push(format!("{name} has {} ready endpoints of {}", n_ready(now), endpoints.endpoints.len()));
        }
    }
    turned
}
