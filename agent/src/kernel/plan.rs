//! Turns the difference between what the kernel holds and what it should hold into an order of writes in which no
//! step lets through what both ends forbid. Reads top down: [`plan`], then the four phases. Does no IO; see `reconcile`.
//!
//! The rules that the order keeps, each stated by a property test:
//! - a pair of caller and callee that is refused before and after is refused at every step between;
//! - a service draws from its whole old table or its whole new one;
//! - a backend of the mesh is never taken for one outside it.
//!
//! A pair that is allowed before and after stays allowed too, save where one generation both moves a workload between
//! groups of policies that others have, and edits those groups: then safety comes first, and the pair is refused until
//! the last write of `add`. An edit of policies alone, or of who is bound by them, interrupts nobody.

mod part;
mod rests;
mod strangers;
mod want;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use millrace_abi::{ServiceKey, ServiceValue, SlotKey, SlotValue, Verdict, VerdictKey};

pub use part::{Aim, Basis, Part};
pub use rests::{Ground, gives, instead, judges, rests_on};
pub use want::{Namespace, Namespaces, View, addr, listener_keys, want, want_by};

use super::state::{State, Write};

/// Writes, in the order in which they are safe: phase by phase, and within each as listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Forbids what shall be forbidden: verdicts that turn to deny, callers that are gone.
    pub tighten: Vec<Write>,
    /// Adds what nothing draws from yet, then moves addresses and callers to what was added.
    pub add: Vec<Write>,
    /// Turns each changed service to its new table, by one value.
    pub flip: Vec<Write>,
    /// Removes what nothing refers to any more.
    pub sweep: Vec<Write>,
}

impl Plan {
    /// Every write, in order.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        let Self { tighten, add, flip, sweep } = self;
        tighten.iter().chain(add).chain(flip).chain(sweep)
    }

    /// True where nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.writes().next().is_none()
    }
}

/// The writes that make `want` of `have`. Table numbers in `want` are its own; unchanged tables keep theirs.
pub fn plan(have: &State, want: &State) -> Plan {
    let held = have.services.values().map(|value| value.table).collect();
    planned(have, want, fresh(&have.slots, held))
}

/// The writes that make of a part of `have` what it should be: the very same as [`plan`] would name for the whole.
pub fn plan_part(have: &State, part: &Part) -> Plan {
    // Whom no part was made of holds no table without slots: see [`tables`].
    planned(&part.have, &part.want, fresh(&have.slots, BTreeSet::new()))
}

fn planned(have: &State, want: &State, fresh: impl Iterator<Item = u32>) -> Plan {
    let Judged { pinned, denied, early, late } = verdicts(have, want);
    let revoked = revoked(have, want).into_iter().map(Write::RemoveVerdict).collect();
    let Tables { services, slots, flip } = tables(have, want, fresh);
    let strangers = strangers::strangers(have, want);
    Plan {
        tighten: [pinned, callers_gone(have, want), probes_gone(have, want), denied, revoked, strangers.denied]
            .concat(),
        add: [
            slots,
            early,
            strangers.early,
            dests(have, want),
            callers(have, want),
            late,
            strangers.late,
            probes(have, want),
        ]
        .concat(),
        flip,
        sweep: sweep(have, want, &services),
    }
}

/// Callers that are gone, or whose namespace is another's now: nobody is spoken for by what was written for another.
fn callers_gone(have: &State, want: &State) -> Vec<Write> {
    let stays = |cookie, id| want.pods.get(cookie).is_some_and(|pod| pod.id == id);
    let gone = have.pods.iter().filter(|(cookie, pod)| !stays(*cookie, pod.id));
    gone.map(|(cookie, _)| Write::RemovePod(*cookie)).collect()
}

/// Before addresses change hands: what one pod's probes name opens no port of another that has its address now.
fn probes_gone(have: &State, want: &State) -> Vec<Write> {
    have.probes.difference(&want.probes).map(|key| Write::RemoveProbe(*key)).collect()
}

fn probes(have: &State, want: &State) -> Vec<Write> {
    want.probes.difference(&have.probes).map(|key| Write::SetProbe(*key)).collect()
}

fn callers(have: &State, want: &State) -> Vec<Write> {
    let changed = want.pods.iter().filter(|(cookie, pod)| have.pods.get(cookie) != Some(*pod));
    changed.map(|(cookie, pod)| Write::SetPod(*cookie, *pod)).collect()
}

/// New and changed addresses. Each is one write, so that id, group and kind change together.
fn dests(have: &State, want: &State) -> Vec<Write> {
    let changed = want.dests.iter().filter(|(addr, dest)| have.dests.get(*addr) != Some(*dest));
    changed.map(|(addr, dest)| Write::SetDest(*addr, *dest)).collect()
}

/// Verdict writes, by when they are safe.
#[derive(Default)]
struct Judged {
    /// Allows that state what was allowed before without an entry: they change nothing, and go before the denials that would.
    pinned: Vec<Write>,
    denied: Vec<Write>,
    /// Allows that speak for nobody who is about to leave.
    early: Vec<Write>,
    /// Allows in a group of some address that is about to change: it may leave the group, or cease to be reachable.
    late: Vec<Write>,
}

fn verdicts(have: &State, want: &State) -> Judged {
    let leaving: BTreeSet<u64> = have
        .dests
        .iter()
        .filter(|(addr, dest)| want.dests.get(*addr).is_some_and(|next| next != *dest))
        .map(|(_, dest)| dest.group)
        .collect();
    let callers: BTreeSet<u64> = have.pods.values().map(|pod| pod.id).collect();
    let mut judged = Judged::default();
    for (key, verdict) in want.verdicts.iter().filter(|(key, verdict)| have.verdicts.get(*key) != Some(*verdict)) {
        let settled = !leaving.contains(&key.group) || !callers.contains(&key.source);
        let phase = match (verdict.allow == 1, allows(&have.verdicts, key), settled) {
            (false, _, _) => &mut judged.denied,
            (true, true, _) => &mut judged.pinned,
            (true, false, true) => &mut judged.early,
            (true, false, false) => &mut judged.late,
        };
        phase.push(Write::SetVerdict(*key, *verdict));
    }
    judged
}

/// Allows without which the answer is no, of callers and groups that are there still.
fn revoked(have: &State, want: &State) -> BTreeSet<VerdictKey> {
    let callers: BTreeSet<u64> = want.pods.values().map(|pod| pod.id).collect();
    let groups: BTreeSet<u64> = want.dests.values().map(|dest| dest.group).collect();
    have.verdicts
        .iter()
        .filter(|(key, _)| callers.contains(&key.source) && groups.contains(&key.group))
        .filter(|(key, _)| !want.verdicts.contains_key(key))
        .filter(|(key, verdict)| verdict.allow == 1 && !allows(&want.verdicts, key))
        .map(|(key, _)| *key)
        .collect()
}

/// What the kernel would answer: the entry for the port, else the one for every port, else no.
fn allows(verdicts: &BTreeMap<VerdictKey, Verdict>, key: &VerdictKey) -> bool {
    let every_port = VerdictKey { port: [0; 2], ..*key };
    verdicts.get(key).or_else(|| verdicts.get(&every_port)).is_some_and(|verdict| verdict.allow == 1)
}

/// Services with the kernel's table numbers, and the writes that make them so.
struct Tables {
    services: BTreeMap<ServiceKey, ServiceValue>,
    slots: Vec<Write>,
    flip: Vec<Write>,
}

/// Numbers of tables that are not in use, where services hold `held`.
fn fresh(slots: &BTreeMap<SlotKey, SlotValue>, held: BTreeSet<u32>) -> impl Iterator<Item = u32> {
    let filled = slots.last_key_value().map_or(0, |(key, _)| key.table);
    let last = filled.max(held.last().copied().unwrap_or(0));
    let is_filled = |table| slots.range(slots_of(table)).next().is_some();
    // Upwards first, so that a number is used again only after all others were.
    (last..=u32::MAX).chain(1..last).filter(move |table| *table != 0 && !held.contains(table) && !is_filled(*table))
}

/// Every slot of a table.
fn slots_of(table: u32) -> RangeInclusive<SlotKey> {
    SlotKey { table, slot: 0 }..=SlotKey { table, slot: u32::MAX }
}

/// Once they are written, each service that has slots has a table of its own, and each that has none has none.
fn tables(have: &State, want: &State, mut fresh: impl Iterator<Item = u32>) -> Tables {
    let mut taken = BTreeSet::from([0]);
    let mut made = Tables { services: BTreeMap::new(), slots: Vec::new(), flip: Vec::new() };
    for (key, wanted) in &want.services {
        let n_slots = wanted.n_slots;
        let is_same =
            |held: &&ServiceValue| held.n_slots == n_slots && contents(have, **held).eq(contents(want, *wanted));
        let held = have.services.get(key);
        let table = match held.filter(is_same) {
            _ if n_slots == 0 => Some(0),
            Some(held) if taken.insert(held.table) => Some(held.table),
            Some(_) | None => {
                let table = fresh.next();
                let slots = contents(want, *wanted)
                    .filter_map(|(slot, value)| Some(Write::SetSlot(SlotKey { table: table?, slot }, *value)));
                made.slots.extend(slots);
                table
            }
        };
        let Some(table) = table else { continue };
        let value = ServiceValue { table, ..*wanted };
        if held != Some(&value) {
            made.flip.push(Write::SetService(*key, value));
        }
        made.services.insert(*key, value);
    }
    made
}

/// The slots that a draw can fall on, by number.
fn contents(state: &State, value: ServiceValue) -> impl Iterator<Item = (u32, &SlotValue)> {
    let ServiceValue { table, n_slots, affinity_s: _, flags: _ } = value;
    let range = SlotKey { table, slot: 0 }..SlotKey { table, slot: n_slots };
    state.slots.range(range).map(|(key, slot)| (key.slot, slot))
}

/// What nothing in `want` needs, where `services` is what SERVICES holds for the services of `want`.
///
/// After a write failed, `have` is what was reached and `services` what it holds: a table that is still drawn from stays.
pub fn sweep(have: &State, want: &State, services: &BTreeMap<ServiceKey, ServiceValue>) -> Vec<Write> {
    let live: BTreeSet<u32> =
        services.iter().filter(|(key, _)| want.services.contains_key(*key)).map(|(_, value)| value.table).collect();
    let services =
        have.services.keys().filter(|key| !want.services.contains_key(*key)).map(|k| Write::RemoveService(*k));
    let slots = have.slots.keys().filter(|key| !live.contains(&key.table)).map(|key| Write::RemoveSlot(*key));
    let dests = have.dests.keys().filter(|addr| !want.dests.contains_key(*addr)).map(|a| Write::RemoveDest(*a));
    let listeners = have.listeners.difference(&want.listeners).map(|key| Write::RemoveListener(*key));
    let revoked = revoked(have, want);
    // In order of key: the entry for every port goes before the denials that except ports from it.
    let verdicts = have
        .verdicts
        .keys()
        .filter(|key| !want.verdicts.contains_key(*key) && !revoked.contains(*key))
        .map(|key| Write::RemoveVerdict(*key));
    let strangers =
        have.strangers.keys().filter(|k| !want.strangers.contains_key(*k)).map(|k| Write::RemoveStranger(*k));
    services.chain(slots).chain(dests).chain(listeners).chain(verdicts).chain(strangers).collect()
}

#[cfg(test)]
mod tests;
