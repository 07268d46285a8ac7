//! Has all replicas agree on who signs, whom the mesh believes, and who was taken out: one Secret says so, and every replica watches it.
//!
//! Whoever gives the root writes another Secret, which is watched too. `issue::given` decides what of it is next, from what the nodes
//! of all replicas said; here it is written, over the version that it was decided from. What a replica wrote or saw is in force there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::{mpsc, watch};

use crate::{
    clock,
    issue::{
        Issuer,
        authority::{self, Authority},
        given::{self, Moment, Step},
        roots::{Ask, Change, Trusting, Unchanged},
        secret::{self, Pair},
    },
    nodes::Nodes,
    publish::History,
    source::kubernetes::Health,
    world::Settings,
};

pub mod kept;
mod word;

use kept::{Kept, Written};

/// The Secret that the mesh's root is kept in, or that an intermediate is given in.
pub const ROOT: &str = "millrace-root";
/// Their names among the watches that `/readyz` and `/status` tell of.
const WATCH: &str = "roots and revoked nodes";
const WISH: &str = "the root that is given";
const WORDS: &str = "what nodes believe";
/// How often time alone is reason to look: for nodes that are away, and for what the API server did not take.
const LOOK: Duration = Duration::from_secs(5);
/// Words of nodes that are written at once, a few milliseconds each.
const WRITES: usize = 16;
/// Others who write at the same time are overtaken within this many tries.
const TRIES: usize = 8;
/// The first wait after a watch that broke, doubled by each further fault.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How long one watch lasts before the next takes over where it ended.
const WATCH_SECONDS: u32 = 60;
/// Revocations that wait: a person makes them.
pub const ASKS: usize = 16;

/// Who takes part.
pub struct Agreement {
    /// How the API server is reached.
    pub client: Client,
    /// The objects stand in the root namespace.
    pub settings: Settings,
    /// What is signed and judged by.
    pub issuer: Arc<Issuer>,
    /// What nodes say here.
    pub nodes: Arc<Nodes>,
    /// Which nodes have pods.
    pub history: watch::Receiver<Arc<History>>,
    /// What is told of the watch.
    pub health: Arc<Health>,
}

/// What this replica knows.
struct Known {
    /// What is in force.
    kept: Kept,
    /// The version of one's own write, until it is seen: what comes before it is older.
    awaited: Option<String>,
    /// It is not there any more, or can't be used: what is in force is to be written again.
    is_lost: bool,
    /// What the Secret wants; None before it was read.
    wanted: Option<Pair>,
    /// What was told last of why it is not in force.
    told: Option<String>,
    /// Whether it was read what nodes said to other replicas.
    are_heard: bool,
    /// What nodes said here that other replicas know of.
    shared: BTreeMap<Arc<str>, Trusting>,
}

impl Agreement {
    /// Takes part until nobody asks any more.
    pub async fn run(self, kept: Kept, mut asks: mpsc::Receiver<Ask>) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.root_namespace);
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.settings.root_namespace);
        let mut wishes = std::pin::pin!(of_name(secrets.clone(), ROOT));
        let mut changes = std::pin::pin!(of_name(secrets.clone(), kept::NAME));
        let words = watcher::Config::default().labels(&word::selector()).timeout(WATCH_SECONDS);
        let mut words = std::pin::pin!(watcher(leases, words).backoff(Rest::default()));
        let mut said = self.nodes.watch();
        let mut known = Known {
            kept,
            awaited: None,
            is_lost: false,
            wanted: None,
            told: None,
            are_heard: false,
            shared: BTreeMap::new(),
        };
        let mut listed = BTreeMap::new();
        [WATCH, WISH, WORDS].iter().for_each(|watch| self.health.note_as(watch, |_| {}));
        loop {
            said.mark_unchanged();
            while self.step(&secrets, &mut known).await {}
            let goes_on = self.share(&mut known).await;
            tokio::select! {
                Some(event) = wishes.next() => self.wish(event, &mut known),
                Some(event) = changes.next() => self.see(event, &mut known).await,
                Some(event) = words.next() => self.hear(event, &mut listed, &mut known),
                ask = asks.recv() => {
                    let Some(Ask { change, told }) = ask else { return };
                    let done = Box::pin(self.change(&secrets, &change, &mut known)).await;
                    if told.send(done).is_err() {
                        tracing::debug!("nobody waited for what became of a revocation");
                    }
                }
                Ok(()) = said.changed() => {}
                () = std::future::ready(()), if goes_on => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// What the Secret of the root wants now.
    fn wish(&self, event: watcher::Result<Event<Secret>>, known: &mut Known) {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => known.wanted = Some(secret::pair(&secret)),
            Ok(Event::Delete(_)) => {
                tracing::warn!(secret = ROOT, "the Secret of the root is gone: what is in force stays");
                known.wanted = None;
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => self.listed(WISH),
            Err(error) => self.broke(WISH, &error),
        }
    }

    /// What is in force now, by another replica or by somebody's hand.
    async fn see(&self, event: watcher::Result<Event<Secret>>, known: &mut Known) {
        let (secret, is_listed) = match event {
            Ok(Event::Apply(secret)) => (secret, false),
            // A list is newer than any write that was answered before it.
            Ok(Event::InitApply(secret)) => (secret, true),
            Ok(Event::Delete(_)) => {
                known.is_lost = true;
                known.kept.version = None;
                known.awaited = None;
                return;
            }
            Ok(Event::Init) => return,
            Ok(Event::InitDone) => return self.listed(WATCH),
            Err(error) => return self.broke(WATCH, &error),
        };
        if !is_listed && let Some(awaited) = &known.awaited {
            if secret.metadata.resource_version.as_ref() == Some(awaited) {
                known.awaited = None;
            }
            return;
        }
        known.awaited = None;
        self.read(&secret, known).await;
    }

    /// Takes in what stands there; what can't be used is written over.
    async fn read(&self, secret: &Secret, known: &mut Known) {
        let kept = match kept::read(secret) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(
                    secret = kept::NAME,
                    error = &*error,
                    "what is in force can't be read, and is written again"
                );
                known.kept.version.clone_from(&secret.metadata.resource_version);
                known.is_lost = true;
                return;
            }
        };
        let version = kept.version.clone();
        if self.take(kept, known).await.is_err() {
            known.kept.version = version;
            known.is_lost = true;
        }
    }

    /// Puts it in force here.
    async fn take(&self, kept: Kept, known: &mut Known) -> Result<(), ()> {
        let roots = &self.issuer.roots;
        let authority = match Authority::given(&kept.pair, roots.authority().lifetimes()) {
            Ok(authority) => authority,
            Err(why) => {
                let error = &why as &dyn std::error::Error;
                tracing::error!(secret = kept::NAME, error, "what is in force can't be used, and is written again");
                return Err(());
            }
        };
        let before = roots.revoked().out();
        roots.replace(authority, kept.revoked.clone());
        known.kept = kept;
        self.forget_tokens(&before).await;
        Ok(())
    }

    /// Has no join token that waits here readmit a node that was taken out elsewhere.
    async fn forget_tokens(&self, before: &BTreeSet<Arc<str>>) {
        let out = self.issuer.roots.revoked().out();
        let newly: Vec<Arc<str>> = out.difference(before).cloned().collect();
        if newly.is_empty() {
            return;
        }
        let issuer = self.issuer.clone();
        let forgotten =
            tokio::task::spawn_blocking(move || newly.iter().try_for_each(|node| issuer.tokens.forget(node)));
        if let Ok(Err(error)) = forgotten.await {
            tracing::error!(%error, "join tokens of a revoked node can't be forgotten: tokens.json can't be written");
        }
    }

    /// Writes down the next step, if there is one; true where that is done.
    async fn step(&self, secrets: &Api<Secret>, known: &mut Known) -> bool {
        if known.is_lost {
            let kept = known.kept.clone();
            return self.write(secrets, kept, known).await.is_ok();
        }
        let edition = self.history.borrow().now().cloned();
        // Before it is known which nodes there are, and what they said, none would be waited for.
        let (Some(wanted), Some(edition), true) = (&known.wanted, edition, known.are_heard) else { return false };
        let roots = &self.issuer.roots;
        let said = self.nodes.said(Some(&edition), &roots.revoked().out());
        let now = clock::unix_time();
        let moment = Moment { said: &said, since: known.kept.since, now };
        let pair = match given::next(&roots.authority(), wanted, &moment) {
            Ok(Step::Rest) => return known.tell(None),
            Ok(Step::Believe(roots)) => Pair { authorities: authority::pem(&roots), ..known.kept.pair.clone() },
            Ok(Step::Sign) => Pair { authorities: known.kept.pair.authorities.clone(), ..wanted.clone() },
            Ok(Step::WaitToSign(nodes)) => {
                return known.tell(Some(format!("these nodes do not believe its root yet: {}", nodes.join(", "))));
            }
            Ok(Step::WaitToRetire(nodes)) => {
                let nodes = nodes.join(", ");
                return known.tell(Some(format!("these nodes may show certificates of a former root: {nodes}")));
            }
            Err(why) => return known.tell(Some(format!("it can't be used: {why}"))),
        };
        let kept = Kept { pair, since: now, ..known.kept.clone() };
        match self.write(secrets, kept, known).await {
            Ok(()) => {
                tracing::info!(n_roots = roots.authority().bundle().len(), "a step from one root to another was made");
                true
            }
            Err(why) => known.tell(Some(why)),
        }
    }

    /// Writes it, and puts it in force here.
    async fn write(&self, secrets: &Api<Secret>, kept: Kept, known: &mut Known) -> Result<(), String> {
        match kept::write(secrets, kept).await {
            Written::Done(kept) => {
                known.awaited.clone_from(&kept.version);
                known.is_lost = false;
                self.take(kept, known).await.map_err(|()| "it can't be used".to_owned())
            }
            Written::Overtaken => {
                match kept::again(secrets).await? {
                    Some(secret) => {
                        known.awaited = None;
                        self.read(&secret, known).await;
                    }
                    None => {
                        known.kept.version = None;
                        known.is_lost = true;
                    }
                }
                Err(OVERTAKEN.to_owned())
            }
            Written::Failed(why) => Err(format!("the API server does not take it: {why}")),
        }
    }

    /// Takes a node out, or lets it in again: everywhere, or not at all.
    async fn change(&self, secrets: &Api<Secret>, change: &Change, known: &mut Known) -> Result<(), Unchanged> {
        let lifetime = self.issuer.roots.authority().lifetimes().longest();
        let mut why = String::new();
        for _ in 0..TRIES {
            let before = &known.kept.revoked;
            let revoked = match change {
                Change::Revoke(node) => before.with(node, lifetime, clock::unix_time()).ok_or(Unchanged::TooMany)?,
                Change::Readmit(node) => {
                    before.readmitting(node).ok_or_else(|| Unchanged::NotRevoked(node.to_string()))?
                }
            };
            let kept = Kept { revoked, ..known.kept.clone() };
            match self.write(secrets, kept, known).await {
                Ok(()) => return Ok(()),
                Err(failed) if failed == OVERTAKEN => why = failed,
                Err(failed) => return Err(Unchanged::NotTaken(failed)),
            }
        }
        Err(Unchanged::NotTaken(why))
    }

    /// What a node said to any replica.
    fn hear(&self, event: watcher::Result<Event<Lease>>, listed: &mut BTreeMap<Arc<str>, Trusting>, known: &mut Known) {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(lease)) => listed.extend(word::word(&lease).map(|said| (word::node(&lease), said))),
            Ok(Event::InitDone) => {
                // What is not listed is to be written again by whoever hears the node.
                known.shared.retain(|node, _| listed.contains_key(node));
                self.nodes.hear_all(std::mem::take(listed));
                known.are_heard = true;
                self.listed(WORDS);
            }
            Ok(Event::Apply(lease)) => self.nodes.hear(word::node(&lease), word::word(&lease)),
            Ok(Event::Delete(lease)) => {
                let node = word::node(&lease);
                known.shared.remove(&node);
                self.nodes.hear(node, None);
            }
            Err(error) => self.broke(WORDS, &error),
        }
    }

    fn listed(&self, name: &str) {
        self.health.note_as(name, |watch| {
            watch.listed = true;
            watch.fault = None;
            watch.n_lists += 1;
        });
    }

    fn broke(&self, name: &str, error: &watcher::Error) {
        tracing::debug!(error = error as &dyn std::error::Error, "the watch of {name} broke; what was read stays");
        let text = error.to_string();
        self.health.note_as(name, |watch| watch.fault = Some(text));
    }

    /// Tells other replicas what some nodes said here; true where more did, and these were told.
    async fn share(&self, known: &mut Known) -> bool {
        let mut news = self.nodes.heard_here();
        // One that went to another replica, and comes back, may have said otherwise there.
        known.shared.retain(|node, _| news.contains_key(node));
        news.retain(|node, said| known.shared.get(node) != Some(said));
        let is_more = news.len() > WRITES;
        let mut are_told = true;
        let written = stream::iter(news.into_iter().take(WRITES)).map(|(node, said)| async {
            // It says the same as it said to another replica: nobody is to be woken for that.
            let is_known = self.nodes.heard_of(&node).as_ref() == Some(&said);
            let done = is_known || word::write(&self.client, &self.settings, &node, &said).await;
            done.then_some((node, said))
        });
        let mut written = std::pin::pin!(written.buffer_unordered(WRITES));
        while let Some(done) = written.next().await {
            are_told &= done.is_some();
            known.shared.extend(done);
        }
        is_more && are_told
    }
}

/// Of a write that somebody else's came before.
const OVERTAKEN: &str = "others write at the same time";

impl Known {
    /// Logs why what is wanted is not in force, once. False: no step was made.
    fn tell(&mut self, why: Option<String>) -> bool {
        if self.told != why {
            match &why {
                Some(why) => tracing::warn!(secret = ROOT, why, "the root that is given is not wholly in force"),
                None => tracing::info!(secret = ROOT, "the root that is given is wholly in force"),
            }
            self.told = why;
        }
        false
    }
}

fn of_name<K>(api: Api<K>, name: &str) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    watcher(api, config).backoff(Rest::default())
}

/// How long to leave the API server alone after each fault in a row.
#[derive(Default)]
struct Rest(u32);

impl Iterator for Rest {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST_WAIT.saturating_mul(1 << self.0.min(8)).min(LAST_WAIT);
        self.0 += 1;
        Some(wait)
    }
}

impl Backoff for Rest {
    fn reset(&mut self) {
        self.0 = 0;
    }
}
