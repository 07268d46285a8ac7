//! Knows the proxies of this node, and what each was given: snapshot, keys, listeners. What it should have and what was
//! sent are compared; the difference goes out. Nothing here waits: a proxy whose queue is full is let go, and comes again.

mod connection;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::{Identity, Membership, ObjectName};
use millrace_node::wire::{
    convert,
    node::{
        Close, Drain, Family, FromAgent, Hello, InForce, Keys, ListenerKind, Listeners, Retire, Settings, Snapshot,
        Sockets, Welcome, from_agent::Kind,
    },
};
use tokio::sync::mpsc;

pub use connection::{Ended, Event, Outgoing, Said, bind, listen};

use crate::{certificates::Certificates, node::Sealed, pods::Pod};

/// The name under which the holder of listeners comes: it is given listeners, and nothing to serve by.
pub const HOLDER: &str = "holder";

/// Proxies known at once: the one that serves, its successor, some that drain, and the holder.
const MAX_PEERS: usize = 8;

/// Messages that wait for one proxy: keys and listeners of the 250 pods of a full node, several times over.
pub const QUEUE: usize = 2048;

/// Messages that wait for one proxy at which it is given no more sockets: each may carry 64, and they stay open in the
/// agent until the proxy reads. What else it is sent shares its descriptors with the agent's own.
const MAX_WAITING: usize = 64;

/// How long a proxy that was replaced may serve what is open. Longer than most requests, shorter than a roll-out's patience.
const DRAIN: Duration = Duration::from_secs(300);

/// Sockets given to one proxy per second: above what one node's pods dial, below what would use up descriptors.
const SOCKETS_PER_SECOND: u32 = 20_000;

/// What every proxy should have.
pub struct Wanted<'w> {
    /// The generation.
    pub generation: u64,
    /// The Snapshot, sealed; None before there is one.
    pub snapshot: Option<&'w Sealed>,
    /// How a proxy shall be tuned: it goes with the Snapshot that says so.
    pub settings: &'w Settings,
    /// The keys of the identities on this node.
    pub keys: &'w Certificates,
    /// The pods with their listeners.
    pub pods: BTreeMap<&'w ObjectName, &'w Pod>,
}

/// The proxies of a node.
#[derive(Default)]
pub struct Proxies {
    peers: BTreeMap<u64, Peer>,
}

/// One proxy.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The generation that it serves by.
    pub applied: u64,
    /// How it is tuned.
    pub in_force: Vec<InForce>,
    phase: Phase,
    outgoing: mpsc::Sender<Outgoing>,
    sent: Sent,
    allowance: Allowance,
}

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It tells which listeners it holds already.
    Opening,
    /// It serves, or will once it has applied what it was sent.
    Serving,
    /// A newer one of its name took over.
    Draining,
    /// It holds listeners and serves nothing.
    Holding,
}

#[derive(Default)]
struct Sent {
    generation: u64,
    takes_differences: bool,
    /// Identity to the sealed key material sent. Kept, so that no other can come to stand in its place and be taken for it.
    keys: BTreeMap<Identity, Arc<OwnedFd>>,
    /// Workload to what it has of it.
    listeners: BTreeMap<ObjectName, Given>,
    /// Workloads of which it brought a listener that was not taken.
    refused: BTreeSet<(ObjectName, Arc<str>)>,
}

/// What a proxy has of a workload.
struct Given {
    uid: Arc<str>,
    /// The namespace that the listeners are in: one that is made anew has others, of the same kinds.
    cookie: Option<u64>,
    kinds: BTreeSet<ListenerKind>,
}

impl Given {
    fn is_of(&self, pod: &Pod) -> bool {
        self.uid == pod.workload.instance && self.cookie == pod.cookie()
    }
}

/// The queue is full, or the proxy has gone.
struct Stuck;

impl Proxies {
    /// A proxy said its name. It is welcomed with `maps`: the original destinations, and the shown clients.
    pub fn join(
        &mut self,
        id: u64,
        Hello { name, version, draining: is_draining, takes_differences }: Hello,
        outgoing: mpsc::Sender<Outgoing>,
        welcome: (&str, [Arc<OwnedFd>; 2]),
    ) {
        if self.peers.len() >= MAX_PEERS {
            tracing::warn!(name, version, "too many proxies: this one is let go");
            return;
        }
        let is_other = |peer: &Peer| ![name.as_str(), HOLDER].contains(&peer.name.as_str());
        if name != HOLDER && self.peers.values().any(is_other) {
            tracing::warn!(name, version, "a proxy of another name serves this node: this one is let go");
            return;
        }
        // One that drains comes back to hear of policies: it gives nothing, and takes nothing over.
        let phase = if is_draining { Phase::Draining } else { Phase::Opening };
        let (sent, allowance) = (Sent { takes_differences, ..Sent::default() }, Allowance::default());
        let peer = Peer { name, version, applied: 0, in_force: Vec::new(), phase, outgoing, sent, allowance };
        let (node, maps) = welcome;
        if peer.send(Kind::Welcome(Welcome { node: node.to_owned() }), maps.into()).is_ok() {
            tracing::info!(name = peer.name, version = peer.version, "a proxy has registered");
            self.peers.insert(id, peer);
        }
    }

    /// A proxy is gone.
    pub fn leave(&mut self, id: u64) -> Option<Peer> {
        self.peers.remove(&id)
    }

    /// A proxy holds this listener already, in the namespace of this cookie.
    pub fn returned(&mut self, id: u64, name: &ObjectName, (uid, cookie): (&Arc<str>, u64), kind: ListenerKind) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let new = || Given { uid: uid.clone(), cookie: Some(cookie), kinds: BTreeSet::new() };
            let held = peer.sent.listeners.entry(name.clone()).or_insert_with(new);
            if held.uid != *uid || held.cookie != Some(cookie) {
                *held = new();
            }
            held.kinds.insert(kind);
        }
    }

    /// A proxy holds a listener of this workload that was not taken: it is told to close it once that is certain to be
    /// nobody's.
    pub fn refused(&mut self, id: u64, name: &ObjectName, uid: &Arc<str>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.sent.refused.insert((name.clone(), uid.clone()));
        }
    }

    /// How a proxy says that it is tuned.
    pub fn tuned(&mut self, id: u64, in_force: Vec<InForce>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.in_force = in_force;
        }
    }

    /// A proxy serves by this generation; the first time, it has told all that it holds.
    pub fn applied(&mut self, id: u64, generation: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.applied = generation;
        match (peer.phase, peer.name.as_str()) {
            (Phase::Opening, HOLDER) => peer.phase = Phase::Holding,
            (Phase::Opening, _) => peer.phase = Phase::Serving,
            (Phase::Serving | Phase::Draining | Phase::Holding, _) => {}
        }
    }

    /// The proxy that serves: the newest that has applied something, else the newest.
    pub fn serving(&self) -> Option<&Peer> {
        let serving = || self.peers.values().rev().filter(|peer| peer.phase == Phase::Serving);
        serving().find(|peer| peer.applied != 0).or_else(|| serving().next())
    }

    /// True where a proxy that serves was given all listeners of the pod.
    pub fn holds(&self, name: &ObjectName, pod: &Pod) -> bool {
        self.peers.values().filter(|peer| peer.phase == Phase::Serving).any(|peer| {
            let given = peer.sent.listeners.get(name).filter(|given| given.is_of(pod));
            given.is_some_and(|given| pod.listeners.keys().all(|kind| given.kinds.contains(kind)))
        })
    }

    /// Sends each proxy what it lacks, and has those drain that were taken over from.
    pub fn update(&mut self, wanted: &Wanted<'_>) {
        self.take_over(wanted.generation);
        self.peers.retain(|_, peer| {
            let updated = peer.update(wanted);
            if updated.is_err() {
                tracing::warn!(name = peer.name, "the proxy does not read what it is sent: it is let go");
            }
            updated.is_ok()
        });
    }

    /// A proxy drains once a newer one serves by this generation, with all listeners of the older one in hand.
    fn take_over(&mut self, generation: u64) {
        let ready = |peer: &&Peer| peer.phase == Phase::Serving && peer.applied == generation && generation != 0;
        let Some((newest, held)) = self.peers.iter().rev().find(|(_, peer)| ready(peer)).map(|(id, peer)| {
            let held: BTreeSet<ObjectName> = peer.sent.listeners.keys().cloned().collect();
            (*id, held)
        }) else {
            return;
        };
        for peer in self.peers.range_mut(..newest).map(|(_, peer)| peer) {
            if peer.phase == Phase::Serving && peer.sent.listeners.keys().all(|name| held.contains(name)) {
                tracing::info!(name = peer.name, version = peer.version, "a newer proxy took over: this one drains");
                peer.phase = Phase::Draining;
                let deadline_ms = u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX);
                // Where its queue is full, the next update lets it go, which it takes as the end as well.
                drop(peer.send(Kind::Drain(Drain { deadline_ms }), Vec::new()));
            }
        }
    }

    /// How many sockets this proxy may have of the `count` it asks for, at `now`.
    pub fn allow(&mut self, id: u64, count: u32, now: Instant) -> usize {
        let reads = |peer: &&mut Peer| peer.outgoing.max_capacity() - peer.outgoing.capacity() < MAX_WAITING;
        self.peers.get_mut(&id).filter(reads).map_or(0, |peer| peer.allowance.take(count, now))
    }

    /// Hands a proxy sockets: those it asked for, or none where they could not be made.
    pub fn give(&mut self, id: u64, (name, uid): (&ObjectName, &str), family: Family, sockets: Vec<OwnedFd>) {
        let count = u32::try_from(sockets.len()).unwrap_or(0);
        let message =
            Sockets { workload: Some(convert::name(name)), uid: uid.to_owned(), family: family.into(), count };
        let sockets = sockets.into_iter().map(Arc::new).collect();
        if self.peers.get_mut(&id).is_some_and(|peer| peer.send(Kind::Sockets(message), sockets).is_err()) {
            self.peers.remove(&id);
        }
    }
}

impl Peer {
    fn update(&mut self, wanted: &Wanted<'_>) -> Result<(), Stuck> {
        match self.phase {
            Phase::Opening => Ok(()),
            Phase::Holding => {
                self.close(wanted)?;
                self.give_listeners(wanted, |_| true)
            }
            // It serves live connections still: they are judged again by each new snapshot.
            Phase::Draining => {
                self.give_snapshot(wanted)?;
                self.give_keys(wanted)?;
                self.close(wanted)
            }
            Phase::Serving => {
                self.give_snapshot(wanted)?;
                self.give_keys(wanted)?;
                self.close(wanted)?;
                let keyed: BTreeSet<Identity> = self.sent.keys.keys().cloned().collect();
                self.give_listeners(wanted, |pod| keyed.contains(&pod.workload.identity))
            }
        }
    }

    fn give_snapshot(&mut self, wanted: &Wanted<'_>) -> Result<(), Stuck> {
        let Some(snapshot) = wanted.snapshot.filter(|_| self.sent.generation != wanted.generation) else {
            return Ok(());
        };
        let (generation, settings) = (wanted.generation, Some(wanted.settings.clone()));
        // Messages come in order: what it was sent is what it will hold.
        let held = Some(self.sent.generation).filter(|_| self.sent.takes_differences);
        let Some((from, memory)) = snapshot.since(held) else { return Ok(()) };
        self.send(Kind::Snapshot(Snapshot { generation, settings, from }), vec![memory])?;
        self.sent.generation = wanted.generation;
        Ok(())
    }

    fn give_keys(&mut self, wanted: &Wanted<'_>) -> Result<(), Stuck> {
        // While a workload's listeners are open, though it left, its tunnels are: they go with its key.
        let is_open =
            |id: &Identity| wanted.pods.values().any(|pod| pod.workload.identity == *id && !pod.listeners.is_empty());
        let retired: Vec<Identity> =
            self.sent.keys.keys().filter(|id| !wanted.keys.contains_key(*id) && !is_open(id)).cloned().collect();
        for identity in retired {
            self.send(Kind::Retire(Retire { identity: identity.to_string() }), Vec::new())?;
            self.sent.keys.remove(&identity);
        }
        for (identity, issued) in wanted.keys {
            if !self.sent.keys.get(identity).is_some_and(|sent| Arc::ptr_eq(sent, &issued.sealed)) {
                let sealed = issued.sealed.clone();
                self.send(Kind::Keys(Keys { identity: identity.to_string() }), vec![sealed.clone()])?;
                self.sent.keys.insert(identity.clone(), sealed);
            }
        }
        Ok(())
    }

    /// Takes back the listeners of workloads that are gone, left the mesh, or were made again under their old name; and
    /// those that were not taken from it, unless their pod may yet turn out to be where they are.
    fn close(&mut self, wanted: &Wanted<'_>) -> Result<(), Stuck> {
        let pod = |name: &ObjectName, uid: &Arc<str>| wanted.pods.get(name).filter(|pod| pod.workload.instance == *uid);
        let is_stale = |(name, uid): &&(ObjectName, Arc<str>)| {
            pod(name, uid).is_none_or(|pod| pod.cookie().is_some() || pod.workload.membership == Membership::Outside)
        };
        let is_gone = |name: &ObjectName, given: &Given| {
            pod(name, &given.uid).is_none_or(|pod| pod.listeners.is_empty() || !given.is_of(pod))
        };
        let Sent { listeners, refused, .. } = &self.sent;
        let gone = listeners.iter().filter(|(name, given)| is_gone(name, given));
        let gone = gone.map(|(name, given)| (name.clone(), given.uid.clone()));
        let gone: BTreeSet<(ObjectName, Arc<str>)> = gone.chain(refused.iter().filter(is_stale).cloned()).collect();
        for (name, uid) in gone {
            self.send(Kind::Close(Close { workload: Some(convert::name(&name)), uid: uid.to_string() }), Vec::new())?;
            self.sent.listeners.retain(|held, given| *held != name || given.uid != uid);
            self.sent.refused.remove(&(name, uid));
        }
        Ok(())
    }

    fn give_listeners(&mut self, wanted: &Wanted<'_>, may: impl Fn(&Pod) -> bool) -> Result<(), Stuck> {
        for (name, pod) in &wanted.pods {
            let kinds: BTreeSet<ListenerKind> = pod.listeners.keys().copied().collect();
            let is_held = self.sent.listeners.get(*name).is_some_and(|given| given.is_of(pod) && given.kinds == kinds);
            if !pod.is_captured() || is_held || !may(pod) {
                continue;
            }
            let message = Listeners {
                workload: Some(convert::name(name)),
                uid: pod.workload.instance.to_string(),
                kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
            };
            self.send(Kind::Listeners(message), pod.listeners.values().cloned().collect())?;
            let given = Given { uid: pod.workload.instance.clone(), cookie: pod.cookie(), kinds };
            self.sent.listeners.insert((*name).clone(), given);
        }
        Ok(())
    }

    fn send(&self, kind: Kind, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), Stuck> {
        let message = FromAgent { kind: Some(kind) };
        self.outgoing.try_send(Outgoing { message, descriptors }).map_err(|_full_or_gone| Stuck)
    }
}

/// How many sockets may still be given within the running second.
#[derive(Default)]
struct Allowance {
    second: Option<Instant>,
    given: u32,
}

impl Allowance {
    fn take(&mut self, count: u32, now: Instant) -> usize {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            *self = Self { second: Some(now), given: 0 };
        }
        let given = count.min(SOCKETS_PER_SECOND - self.given);
        self.given += given;
        usize::try_from(given).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
