//! Knows what each node last said of itself, for whoever asks for the status. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::{issue::roots::Trusting, scope::Edition};

/// An agent that is upgraded has two streams for a while; more are a fault of the node.
const MAX_STREAMS: usize = 4;
/// Failures that are shown of one node; the rest are counted by it.
pub const MAX_FAILURES: usize = 64;

/// All nodes that were ever connected.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: Mutex<BTreeMap<Arc<str>, Node>>,
    noted: Notify,
    /// What nodes said of roots to whichever replica they said it; without others, nothing.
    elsewhere: Mutex<BTreeMap<Arc<str>, Trusting>>,
    /// Told whenever it may be otherwise who believes what.
    believed: watch::Sender<()>,
    /// Told whenever a node applied something.
    applied: Notify,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Streams open now.
    pub streams: usize,
    /// The generation it held when it connected last.
    pub have: u64,
    /// The generation last sent.
    pub sent: u64,
    /// The generation that its kernel and proxy hold.
    pub applied: u64,
    /// Pods whose listeners it holds open.
    pub n_listening: usize,
    /// What it could not enforce.
    pub failures: Vec<String>,
    /// By which roots it believes its peers, and under which its certificates are; None before it said so.
    #[serde(skip)]
    pub trusting: Option<Trusting>,
}

impl Nodes {
    /// All of them.
    pub fn all(&self) -> BTreeMap<Arc<str>, Node> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True while the node has a stream open.
    pub fn is_connected(&self, node: &str) -> bool {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).is_some_and(|node| node.streams > 0)
    }

    /// Notes something of a node.
    pub fn note(&self, node: &Arc<str>, note: impl FnOnce(&mut Node)) {
        let believes = |node: &Node| (node.streams > 0, node.trusting.clone());
        let is_news = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            let node = nodes.entry(node.clone()).or_default();
            let before = believes(node);
            note(node);
            believes(node) != before
        };
        self.noted.notify_one();
        if is_news {
            self.believed.send_replace(());
        }
    }

    /// Returns when something was noted since it returned last. For one caller.
    pub async fn changed(&self) {
        self.noted.notified().await;
    }

    /// Told of whatever nodes say of what they believe, here or elsewhere, and of nodes that come and go.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.believed.subscribe()
    }

    /// What every node that matters said of what it holds, here or to another replica: those with pods, and those that are connected.
    /// None for one that is away and known to nobody: its processes may go on with what they have.
    pub fn said(&self, edition: Option<&Edition>, out: &BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, Option<Trusting>> {
        let with_pods = edition.into_iter().flat_map(Edition::nodes).map(|node| (node.clone(), None));
        let elsewhere = self.elsewhere().clone().into_iter().map(|(node, said)| (node, Some(said)));
        let connected = self.all().into_iter().filter(|(_, node)| node.streams > 0);
        // One that is connected and has not said yet is behind.
        let connected = connected.map(|(name, node)| (name, Some(node.trusting.unwrap_or_default())));
        with_pods.chain(elsewhere).chain(connected).filter(|(node, _)| !out.contains(node)).collect()
    }

    /// What the nodes said that are connected here.
    pub fn heard_here(&self) -> BTreeMap<Arc<str>, Trusting> {
        let connected = self.all().into_iter().filter(|(_, node)| node.streams > 0);
        connected.filter_map(|(name, node)| Some((name, node.trusting?))).collect()
    }

    /// What replicas know that this node said.
    pub fn heard_of(&self, node: &str) -> Option<Trusting> {
        self.elsewhere().get(node).cloned()
    }

    /// Notes what a node said to some replica.
    pub fn hear(&self, node: Arc<str>, said: Option<Trusting>) {
        match said {
            Some(said) => drop(self.elsewhere().insert(node, said)),
            None => drop(self.elsewhere().remove(&node)),
        }
        self.believed.send_replace(());
    }

    /// Notes what all nodes said.
    pub fn hear_all(&self, said: BTreeMap<Arc<str>, Trusting>) {
        *self.elsewhere() = said;
        self.believed.send_replace(());
    }

    fn elsewhere(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Trusting>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a node applied, of what this process published: generations of another say nothing here.
    pub fn applied(&self, node: &Arc<str>, generation: u64, mut failures: Vec<String>) {
        failures.truncate(MAX_FAILURES);
        self.note(node, |node| {
            node.applied = generation;
            node.failures = failures;
        });
        self.applied.notify_one();
    }

    /// The generation that a node's kernel and proxy hold, of what this process published; 0 where that is not known.
    pub fn applied_by(&self, node: &str) -> u64 {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(node).map_or(0, |node| node.applied)
    }

    /// Returns when a node has applied something since it returned last. For one caller.
    pub async fn applied_anew(&self) {
        self.applied.notified().await;
    }

    /// Counts a stream until the result is dropped; None where the node has too many.
    pub fn connect(self: &Arc<Self>, node: &Arc<str>, have: u64) -> Option<Connected> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = nodes.entry(node.clone()).or_default();
        if entry.streams >= MAX_STREAMS {
            return None;
        }
        if entry.streams == 0 {
            // A node that comes back says anew what it holds: what it said before may be its predecessor's.
            entry.trusting = None;
        }
        entry.streams += 1;
        entry.have = have;
        Some(Connected { nodes: self.clone(), node: node.clone() })
    }
}

/// A node's stream, while it is open.
#[derive(Debug)]
pub struct Connected {
    nodes: Arc<Nodes>,
    node: Arc<str>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.nodes.note(&self.node, |node| node.streams = node.streams.saturating_sub(1));
    }
}
