//! Decides what of the nodes' words is passed on, and what is written for other replicas. Pure.
//!
//! A word that was heard here counts at once and is written until that is done. What is seen in the API server meanwhile is older, or
//! one's own, and is not passed on. After that whatever another replica writes is newer: the node went there. It is never
//! fought: only something new that the node says here is written over it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{publish::Report, world::Listener};

/// How long to wait after a write that failed: the API server is away, or slow.
const AGAIN: Duration = Duration::from_secs(1);
/// The most that a word takes as it is written: an object's annotations may have 256 KiB in all, their names too.
const MAX_WORD: usize = 250 * 1024;
/// What stands around the names of one pod: quotes, a colon, a comma, the slash behind its namespace.
const AROUND: usize = 7;

/// A node's word, as a Lease says it, or is to say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The node.
    pub node: Arc<str>,
    /// All that it listens for.
    pub listening: BTreeSet<Listener>,
    /// The version of the Lease that says so, or that is to be replaced; None where there is none yet.
    pub version: Option<String>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands there, in this version.
    Done(Arc<str>, String),
    /// Somebody wrote before: this stands there.
    Overtaken(Word),
    /// There was no Lease any more.
    Missing(Arc<str>),
    /// The API server did not take it.
    Failed(Arc<str>),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Write this.
    Write(Word),
    /// Pass this on: what was heard here is given up for it.
    Pass(Report),
}

/// What is known of each node.
#[derive(Debug, Default)]
pub struct Ledger(BTreeMap<Arc<str>, Entry>);

#[derive(Debug, Default)]
struct Entry {
    /// What the Lease says.
    stands: Option<Word>,
    /// What was heard here and does not stand there yet.
    unwritten: Option<BTreeSet<Listener>>,
    /// What is on its way.
    writing: Option<Writing>,
    /// The version of one's own write, until it is seen: what comes before it is older.
    awaited: Option<String>,
    /// Not before this time is it tried again.
    rests_until: Option<Instant>,
    /// What was heard here last, to be written again where the Lease is taken away.
    heard: Option<BTreeSet<Listener>>,
}

/// What is being written, and what was seen since that began.
type Writing = (BTreeSet<Listener>, Vec<Word>);

impl Entry {
    fn says(&self, listening: &BTreeSet<Listener>) -> bool {
        self.stands.as_ref().is_some_and(|stands| stands.listening == *listening)
    }
}

/// As many as a word has room for, the first by name, and how many are left out. What was said before stays before: a pod that
/// comes takes no other's place unless its name does.
fn fitting(listening: &BTreeSet<Listener>) -> (BTreeSet<Listener>, usize) {
    let mut room = MAX_WORD;
    let fits = |pod: &&Listener| {
        let Listener { name, instance } = pod;
        let takes = name.namespace.len() + name.name.len() + instance.len() + AROUND;
        let left = room.checked_sub(takes);
        room = left.unwrap_or_default();
        left.is_some()
    };
    let kept: BTreeSet<Listener> = listening.iter().take_while(fits).cloned().collect();
    let n_left_out = listening.len() - kept.len();
    (kept, n_left_out)
}

impl Ledger {
    /// A node said this here. How many of its pods no Lease has room for: other replicas take them for not enrolled, while this one
    /// goes by what it heard.
    pub fn hear(&mut self, node: &Arc<str>, listening: &BTreeSet<Listener>) -> usize {
        let (listening, n_left_out) = fitting(listening);
        let listening = &listening;
        let entry = self.0.entry(node.clone()).or_default();
        let is_there = match &entry.writing {
            Some((writing, _)) => writing == listening,
            None => entry.says(listening),
        };
        entry.unwritten = (!is_there).then(|| listening.clone());
        entry.heard = Some(listening.clone());
        entry.rests_until = None;
        n_left_out
    }

    /// A Lease says this now; what to pass on of it.
    pub fn see(&mut self, word: Word) -> Option<Report> {
        let entry = self.0.entry(word.node.clone()).or_default();
        if let Some((_, meanwhile)) = &mut entry.writing {
            meanwhile.push(word);
            return None;
        }
        if let Some(awaited) = &entry.awaited {
            if word.version.as_ref() == Some(awaited) {
                entry.awaited = None;
            }
            return None;
        }
        let is_news = !entry.says(&word.listening) && entry.unwritten.is_none();
        let report = Report { node: word.node.clone(), listening: word.listening.clone() };
        entry.stands = Some(word);
        is_news.then_some(report)
    }

    /// All Leases say this now; what to pass on.
    pub fn list(&mut self, words: Vec<Word>) -> Vec<Report> {
        let listed: BTreeSet<Arc<str>> = words.iter().map(|word| word.node.clone()).collect();
        let gone: Vec<Arc<str>> = self.0.keys().filter(|node| !listed.contains(*node)).cloned().collect();
        gone.iter().for_each(|node| self.gone(node));
        // A list is newer than any write that was answered before it.
        self.0.values_mut().for_each(|entry| entry.awaited = None);
        words.into_iter().filter_map(|word| self.see(word)).collect()
    }

    /// The Lease of this node is there no more.
    pub fn gone(&mut self, node: &str) {
        if let Some(entry) = self.0.get_mut(node) {
            entry.stands = None;
            entry.awaited = None;
            if entry.writing.is_none() && entry.unwritten.is_none() {
                entry.unwritten = entry.heard.clone();
            }
        }
    }

    /// What is due now, if anything. What a node said here that has no stream here any more is given up: it says the same elsewhere,
    /// or something newer.
    pub fn due(&mut self, now: Instant, is_connected: impl Fn(&str) -> bool) -> Option<Due> {
        for (node, entry) in &mut self.0 {
            if entry.writing.is_some() || entry.rests_until.is_some_and(|until| now < until) {
                continue;
            }
            let Some(listening) = entry.unwritten.take() else { continue };
            let stands = entry.stands.clone();
            if is_connected(node) {
                entry.writing = Some((listening.clone(), Vec::new()));
                let version = stands.and_then(|stands| stands.version);
                return Some(Due::Write(Word { node: node.clone(), listening, version }));
            }
            if let Some(Word { node, listening, version: _ }) = stands {
                return Some(Due::Pass(Report { node, listening }));
            }
        }
        None
    }

    /// When something is due that rests now.
    pub fn rests_until(&self) -> Option<Instant> {
        let waits = self.0.values().filter(|entry| entry.unwritten.is_some() && entry.writing.is_none());
        waits.filter_map(|entry| entry.rests_until).min()
    }

    /// A write ended; what to pass on.
    pub fn written(&mut self, written: Written, now: Instant) -> Option<Report> {
        let node = match &written {
            Written::Done(node, _) | Written::Missing(node) | Written::Failed(node) => node,
            Written::Overtaken(word) => &word.node,
        };
        let node = node.clone();
        let entry = self.0.get_mut(&node)?;
        let (wrote, mut meanwhile) = entry.writing.take()?;
        match written {
            Written::Done(_, version) => {
                let version = Some(version);
                let own = meanwhile.iter().position(|word| word.version == version);
                entry.stands = Some(Word { node, listening: wrote, version: version.clone() });
                match own {
                    // Seen before the answer came, and what was seen after it is newer.
                    Some(own) => drop(meanwhile.drain(..=own)),
                    None => {
                        entry.awaited = version;
                        meanwhile.clear();
                    }
                }
            }
            Written::Overtaken(word) => {
                entry.unwritten.get_or_insert(wrote);
                entry.stands = Some(word);
            }
            Written::Missing(_) => {
                entry.unwritten.get_or_insert(wrote);
                entry.stands = None;
            }
            Written::Failed(_) => {
                entry.unwritten.get_or_insert(wrote);
                entry.rests_until = Some(now + AGAIN);
            }
        }
        let news = meanwhile.into_iter().filter_map(|word| self.see(word)).last();
        if let Some(entry) = news.as_ref().and_then(|report| self.0.get_mut(&report.node)) {
            entry.unwritten = None;
        }
        news
    }
}

#[cfg(test)]
mod tests;
