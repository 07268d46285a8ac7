//! Knows what each node last said of itself, for whoever asks for the status. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio::sync::Notify;

use crate::issue::roots::Trusting;

/// An agent that is upgraded has two streams for a while; more are a fault of the node.
const MAX_STREAMS: usize = 4;
/// Failures that are shown of one node; the rest are counted by it.
pub const MAX_FAILURES: usize = 64;

/// All nodes that were ever connected.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<BTreeMap<Arc<str>, Node>>, Notify);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True while the node has a stream open.
    pub fn is_connected(&self, node: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).is_some_and(|node| node.streams > 0)
    }

    /// Notes something of a node.
    pub fn note(&self, node: &Arc<str>, note: impl FnOnce(&mut Node)) {
        note(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(node.clone()).or_default());
        self.1.notify_one();
    }

    /// Returns when something was noted since it returned last. For one caller.
    pub async fn changed(&self) {
        self.1.notified().await;
    }

    /// Notes what a node applied, of what this process published: generations of another say nothing here.
    pub fn applied(&self, node: &Arc<str>, generation: u64, mut failures: Vec<String>) {
        failures.truncate(MAX_FAILURES);
        self.note(node, |node| {
            node.applied = generation;
            node.failures = failures;
        });
    }

    /// Counts a stream until the result is dropped; None where the node has too many.
    pub fn connect(self: &Arc<Self>, node: &Arc<str>, have: u64) -> Option<Connected> {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
