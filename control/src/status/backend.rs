//! Decides what stands on each XBackendTrafficPolicy, of each service that it names: that is its ancestor here, since a policy is in force for the
//! requests to a service and nowhere else. Pure.

use super::{
    condition::{Holds, Wanted},
    decide::{by_object, enforced, sentences},
    parents::{Entry, PROGRAMMED},
    report::Report,
    route::{Entries, Routed, programmed_not},
};
use crate::{
    diagnostic::{Diagnostic, Effect},
    publish::Outcome,
    world::route::Parent,
};

/// What should stand on every policy.
pub fn decide<'a>(outcome: &Outcome, routed: &Routed, reports: impl Iterator<Item = &'a Report> + Clone) -> Entries {
    // Before the first edition nothing is known of any.
    if outcome.edition.is_none() {
        return Entries::new();
    }
    let faults = by_object(&outcome.sourced.diagnostics);
    let policies = outcome.sourced.asked.iter().filter(|(key, _)| !key.kind.is_route());
    let all = policies.filter_map(|(key, asked)| {
        let revision = outcome.sourced.revisions.get(key)?;
        let faults = faults.get(key).map(Vec::as_slice).unwrap_or_default();
        let is_read = asked.in_force == Some(revision.generation);
        let entry = |parent: &Parent| {
            let conditions = if !is_read {
                refused(faults)
            } else {
                let found = routed.backends.get(&key.name).and_then(|found| found.get(&parent.name));
                let mut accepted = found?.clone();
                if !faults.is_empty() {
                    accepted.message = format!("{}. {}", accepted.message, sentences(faults));
                }
                let programmed = if accepted.holds == Holds::False {
                    programmed_not("it is not in force for this Service")
                } else {
                    programmed(enforced(key, revision, routed.everywhere(), reports.clone()))
                };
                vec![accepted, programmed]
            };
            let conditions = conditions.into_iter().map(|one| (one, revision.generation)).collect();
            Some(Entry { parent: parent.clone(), conditions })
        };
        Some((key.clone(), asked.parents.iter().filter_map(entry).collect()))
    });
    all.collect()
}

fn programmed(enforced: Wanted) -> Wanted {
    let reason = match enforced.reason {
        "Enforced" => "Programmed",
        "NothingSelected" => "NoCallers",
        other => other,
    };
    Wanted { name: PROGRAMMED, reason, ..enforced }
}

/// Of a version that can't be read.
fn refused(faults: &[&Diagnostic]) -> Vec<Wanted> {
    let accepted = Wanted { name: "Accepted", holds: Holds::False, reason: "Invalid", message: sentences(faults) };
    let why = if faults.iter().any(|fault| fault.effect == Effect::Kept) {
        "the version read before stays in force where it was read: a replica that starts now has none in force"
    } else {
        "it is not in force on any node"
    };
    vec![accepted, programmed_not(why)]
}
