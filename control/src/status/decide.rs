//! Decides what stands on each policy: whether it can be read, and on which of the nodes that it is for it is in force. Pure.
//! What stands on a route is `route`'s to decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    condition::{Holds, Wanted},
    report::{Enforcement, Report, enforcement},
};
use crate::{
    diagnostic::{Diagnostic, Effect, Key, Kind, Object},
    publish::Outcome,
    source::kubernetes::Revision,
};

/// Names of nodes, and faults, that a message lists; the rest are counted.
const LISTED: usize = 5;

/// The conditions that should stand on each policy.
pub type Conditions = BTreeMap<Key, Vec<Wanted>>;

/// In which generation each version of a policy was published first.
#[derive(Clone, Debug, Default)]
pub struct Since(BTreeMap<Key, (Revision, u64)>);

impl Since {
    /// One version, published then.
    #[cfg(test)]
    pub(super) fn of(key: Key, revision: Revision, generation: u64) -> Self {
        Self(BTreeMap::from([(key, (revision, generation))]))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &(Revision, u64))> {
        self.0.iter()
    }

    /// Takes in what was compiled: versions that are new are in force with the generation published last.
    pub(super) fn learn(&mut self, outcome: &Outcome) {
        let Some(edition) = &outcome.edition else { return };
        let revisions = &outcome.sourced.revisions;
        self.0.retain(|key, _| revisions.contains_key(key));
        for (key, revision) in &**revisions {
            if self.0.get(key).is_none_or(|(known, _)| known != revision) {
                self.0.insert(key.clone(), (revision.clone(), edition.generation()));
            }
        }
    }
}

/// What should stand on every policy, given the nodes that each has pods on.
pub fn decide<'a>(
    outcome: &Outcome,
    bound: &BTreeMap<Key, BTreeSet<Arc<str>>>,
    reports: impl Iterator<Item = &'a Report> + Clone,
) -> Conditions {
    let faults = by_object(&outcome.diagnostics);
    // Before the first edition nothing is known of any policy.
    if outcome.edition.is_none() {
        return Conditions::new();
    }
    let nobody = BTreeSet::new();
    outcome
        .sourced
        .revisions
        .iter()
        .filter(|(key, _)| key.kind.is_own())
        .map(|(key, revision)| {
            let faults = faults.get(key).map(Vec::as_slice).unwrap_or_default();
            let nodes = bound.get(key).unwrap_or(&nobody);
            let enforced = enforced(key, revision, nodes, reports.clone());
            (key.clone(), vec![accepted(faults), unless_refused(faults, enforced)])
        })
        .collect()
}

fn accepted(faults: &[&Diagnostic]) -> Wanted {
    let (slight, fatal): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        faults.iter().partition(|fault| fault.effect == Effect::Applied);
    let condition = |holds, reason, message| Wanted { name: "Accepted", holds, reason, message };
    match (fatal.as_slice(), slight.as_slice()) {
        ([], []) => condition(Holds::True, "Accepted", "it is understood".to_owned()),
        ([], slight) => condition(Holds::True, "AcceptedWithWarnings", sentences(slight)),
        (fatal, _) => condition(Holds::False, "Invalid", sentences(fatal)),
    }
}

/// What is wrong with each object.
pub(super) fn by_object(diagnostics: &[Diagnostic]) -> BTreeMap<&Key, Vec<&Diagnostic>> {
    let mut faults: BTreeMap<&Key, Vec<&Diagnostic>> = BTreeMap::new();
    for diagnostic in diagnostics {
        if let Object::Known(key) = &diagnostic.object {
            faults.entry(key).or_default().push(diagnostic);
        }
    }
    faults
}

/// The faults, as every other place says them, without naming the object that they stand on.
pub(super) fn sentences(faults: &[&Diagnostic]) -> String {
    let mut text: Vec<String> = faults
        .iter()
        .take(LISTED)
        .map(|fault| {
            let name = format!("{}: ", fault.object);
            let all = fault.to_string();
            all.split_once(&name).map(|(_, rest)| rest.to_owned()).unwrap_or(all)
        })
        .collect();
    if faults.len() > LISTED {
        text.push(format!("And {} more faults.", faults.len() - LISTED));
    }
    text.join(" ")
}

fn unless_refused(faults: &[&Diagnostic], enforced: Wanted) -> Wanted {
    let effect = |effect| faults.iter().any(|fault| fault.effect == effect);
    let not = |message: &str| Wanted {
        holds: Holds::False,
        reason: "NotAccepted",
        message: message.to_owned(),
        ..enforced.clone()
    };
    if effect(Effect::Refused) {
        not("it is not in force on any node")
    } else if effect(Effect::Kept) {
        not("the version read before stays in force where it was read: a replica that starts now has none in force")
    } else {
        enforced
    }
}

pub(super) fn enforced<'a>(
    key: &Key,
    revision: &Revision,
    nodes: &BTreeSet<Arc<str>>,
    reports: impl Iterator<Item = &'a Report> + Clone,
) -> Wanted {
    let mut late = Vec::new();
    let mut away = Vec::new();
    let mut failed = Vec::new();
    for node in nodes {
        match enforcement(reports.clone(), node, key, revision) {
            Enforcement::Done => {}
            Enforcement::Late => late.push(&**node),
            Enforcement::Away => away.push(&**node),
            Enforcement::Failed(why) => failed.push(format!("{node} ({why})")),
        }
    }
    let n_done = nodes.len() - late.len() - away.len() - failed.len();
    let mut message = format!("on {n_done} of {} nodes", nodes.len());
    let failed: Vec<&str> = failed.iter().map(String::as_str).collect();
    for (what, names) in [("; failed on ", &failed), ("; not yet on ", &late), ("; not connected: ", &away)] {
        message += &list(what, names);
    }
    let (holds, reason) = match (nodes.is_empty(), failed.is_empty(), late.is_empty(), away.is_empty()) {
        (true, ..) => (Holds::True, "NothingSelected"),
        (_, false, ..) => (Holds::False, "Failed"),
        (_, _, false, _) => (Holds::False, "Pending"),
        (_, _, _, false) => (Holds::False, "NodesAway"),
        _ => (Holds::True, "Enforced"),
    };
    if nodes.is_empty() {
        let none = if key.kind == Kind::NodeProfile { "it tunes no node" } else { "it selects no pod on any node" };
        none.clone_into(&mut message);
    }
    Wanted { name: "Enforced", holds, reason, message }
}

fn list(what: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<&str> = names.iter().copied().take(LISTED).collect();
    let more = if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    format!("{what}{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests;
