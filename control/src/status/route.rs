//! Decides what stands on each route, of each service that it asks to be attached to: whether it is, whether what it names is there,
//! whether all of its rules are in force, and on which of the nodes whose pods' requests it is for it is. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::{Membership, RouteName, Snapshot, route::Filter};

use super::{
    condition::{Holds, Wanted},
    decide::{by_object, enforced, sentences},
    parents::{Entry, PARTIALLY_INVALID, PROGRAMMED},
    report::Report,
};
use crate::{
    compile::{
        backend,
        route::{Standings, standings},
    },
    diagnostic::{Diagnostic, Key},
    publish::Outcome,
    source::{
        kubernetes::{Asked, Revision},
        object,
    },
    world::{
        Objects, Settings, World,
        route::{Parent, Route, RouteFilter},
    },
};

/// The reason of whatever can't be honoured as it is written.
const UNSUPPORTED: &str = "UnsupportedValue";

/// What should stand on each route.
pub type Entries = BTreeMap<Key, Vec<Entry>>;

/// What became of the routes, and the nodes with pods whose requests they are for.
#[derive(Debug, Default)]
pub struct Routed {
    standings: Standings,
    pub(super) backends: backend::Standings,
    everywhere: BTreeSet<Arc<str>>,
    by_namespace: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Routed {
    /// Looks at every pod, and follows every route: once for each outcome.
    pub fn of(outcome: &Outcome, settings: &Settings) -> Self {
        let asks = outcome.sourced.asked.values().any(|asked| !asked.parents.is_empty());
        let Some(edition) = outcome.edition.as_ref().filter(|_| asks) else { return Self::default() };
        let Snapshot { workloads, services, .. } = &*edition.snapshot;
        let from = &outcome.sourced.objects;
        let objects = Objects {
            services: from.services.clone(),
            routes: from.routes.clone(),
            grants: from.grants.clone(),
            backends: from.backends.clone(),
            ..Objects::default()
        };
        let world = World { settings: settings.clone(), objects, listening: BTreeMap::new(), revoked: BTreeSet::new() };
        let backends = backend::standings(&world);
        let mut routed = Self { standings: standings(&world, services), backends, ..Self::default() };
        for (name, workload) in workloads.iter().filter(|(_, one)| one.membership != Membership::Outside) {
            routed.everywhere.insert(workload.node.clone());
            routed.by_namespace.entry(name.namespace.clone()).or_default().insert(workload.node.clone());
        }
        routed
    }

    /// Those with any.
    pub(super) fn everywhere(&self) -> &BTreeSet<Arc<str>> {
        &self.everywhere
    }

    /// The nodes with pods whose requests a route is for: everybody's, or where the service is another namespace's, its own pods'.
    fn nodes(&self, route: &Key, parent: &Parent) -> BTreeSet<Arc<str>> {
        if parent.name.namespace == route.name.namespace {
            self.everywhere.clone()
        } else {
            self.by_namespace.get(&route.name.namespace).cloned().unwrap_or_default()
        }
    }
}

/// What should stand on every route.
pub fn decide<'a>(outcome: &Outcome, routed: &Routed, reports: impl Iterator<Item = &'a Report> + Clone) -> Entries {
    // Before the first edition nothing is known of any route.
    if outcome.edition.is_none() {
        return Entries::new();
    }
    let faults = by_object(&outcome.sourced.diagnostics);
    let all = outcome.sourced.asked.iter().filter(|(key, _)| key.kind.is_route()).filter_map(|(key, asked)| {
        let name = RouteName { kind: object::route_kind(key.kind), name: key.name.clone() };
        let one = One {
            key,
            asked,
            revision: outcome.sourced.revisions.get(key)?,
            faults: faults.get(key).map(Vec::as_slice).unwrap_or_default(),
            in_force: outcome.sourced.objects.routes.get(&name).map(|route| &**route),
        };
        let entry = |parent: &Parent| {
            Some(Entry { parent: parent.clone(), conditions: one.conditions(parent, routed, reports.clone())? })
        };
        Some((key.clone(), asked.parents.iter().filter_map(entry).collect()))
    });
    all.collect()
}

/// One route.
struct One<'o> {
    key: &'o Key,
    asked: &'o Asked,
    revision: &'o Revision,
    /// What is wrong with how it is written.
    faults: &'o [&'o Diagnostic],
    in_force: Option<&'o Route>,
}

impl One<'_> {
    /// Each condition of this parent, and the generation that it is of. None where it is not known yet.
    fn conditions<'a>(
        &self,
        parent: &Parent,
        routed: &Routed,
        reports: impl Iterator<Item = &'a Report> + Clone,
    ) -> Option<Vec<(Wanted, i64)>> {
        let now = self.revision.generation;
        let name = self.in_force.map(|route| &route.name);
        let found = name.and_then(|name| routed.standings.get(name)?.iter().find(|one| one.parent == *parent));
        let is_read = self.asked.in_force == Some(now);
        let ([accepted, resolved], at) = match (found.map(|found| found.conditions.as_slice()), self.asked.in_force) {
            (Some([accepted, resolved]), Some(at)) if is_read || self.is_partly_good() => ([accepted, resolved], at),
            _ if is_read => return None,
            _ => return Some(self.refused()),
        };
        let mut accepted = accepted.clone();
        if accepted.holds == Holds::False {
            let programmed = programmed_not("it is not attached to this parent");
            return Some(vec![(accepted, at), (resolved.clone(), at), (programmed, now)]);
        }
        if is_read && !self.faults.is_empty() {
            accepted.message = format!("{}. {}", accepted.message, sentences(self.faults));
        }
        let mut conditions = vec![(accepted, at), (resolved.clone(), at)];
        let partly = if is_read { self.dropped() } else { Some(self.fallen_back()) };
        conditions.extend(partly.map(|message| {
            (Wanted { name: PARTIALLY_INVALID, holds: Holds::True, reason: UNSUPPORTED, message }, now)
        }));
        let nodes = routed.nodes(self.key, parent);
        let mut programmed = Wanted { name: PROGRAMMED, ..enforced(self.key, self.revision, &nodes, reports) };
        if nodes.is_empty() {
            programmed.reason = "NoCallers";
            "no node has pods whose requests it is for".clone_into(&mut programmed.message);
        } else if programmed.holds == Holds::True {
            programmed.reason = "Programmed";
        }
        conditions.push((programmed, now));
        Some(conditions)
    }

    /// Of a version that can't be taken, where none is in force or what it asks for now has never been.
    fn refused(&self) -> Vec<(Wanted, i64)> {
        let now = self.revision.generation;
        let accepted =
            Wanted { name: "Accepted", holds: Holds::False, reason: UNSUPPORTED, message: sentences(self.faults) };
        let why = match self.asked.in_force {
            None => "it is not in force on any node",
            Some(_) => {
                "the version read before stays in force where it was read: a replica that starts now has none in force"
            }
        };
        vec![(accepted, now), (programmed_not(why), now)]
    }

    /// True where what is wrong is wrong with some of its rules alone.
    fn is_partly_good(&self) -> bool {
        let rule = |fault: &&Diagnostic| fault.field.strip_prefix("spec.rules[")?.split_once(']')?.0.parse().ok();
        let wrong: Option<BTreeSet<usize>> = self.faults.iter().map(rule).collect();
        wrong.is_some_and(|wrong| !wrong.is_empty() && wrong.len() < self.asked.n_rules)
    }

    fn fallen_back(&self) -> String {
        let last = self.asked.in_force.unwrap_or_default();
        format!(
            "Fall Back: generation {last} stays in force where it was read; a replica that starts now has none in force. {}",
            sentences(self.faults)
        )
    }

    /// The rules that get nobody anything but a 500, where others do.
    fn dropped(&self) -> Option<String> {
        let rules = &self.in_force?.rules;
        let refuses = |filter: &RouteFilter| matches!(filter, RouteFilter::Whole(Filter::Refuse(_)));
        let dropped: Vec<String> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.filters.iter().any(refuses))
            .map(|(index, _)| index.to_string())
            .collect();
        let is_partly = !dropped.is_empty() && dropped.len() < rules.len();
        is_partly.then(|| {
            format!("Dropped Rule {}: what falls on it gets a 500. {}", dropped.join(", "), sentences(self.faults))
        })
    }
}

pub(super) fn programmed_not(why: &str) -> Wanted {
    Wanted { name: PROGRAMMED, holds: Holds::False, reason: "NotAccepted", message: why.to_owned() }
}

#[cfg(test)]
mod tests;
