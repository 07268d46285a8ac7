//! Keeps what the watches read: the good, the last good of what is bad now, and of a new list only where it differs. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::BitOrAssign,
    sync::Arc,
};

use millrace_model::{Map, ObjectName};

use super::{AllAsked, Asked, Revision, Revisions, Standing, Stands, Uids};
use crate::{
    diagnostic::{self, Diagnostic, Effect, Key, Kind, Problem},
    source::{Object, Sourced},
    world::Objects,
};

/// What one watch is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The kind.
    pub kind: Kind,
    /// The namespace; None for all.
    pub namespace: Option<Arc<str>>,
}

/// One object as the API server has it.
#[derive(Clone, Debug)]
pub struct Read {
    /// Its kind and name.
    pub key: Key,
    /// Which version of it.
    pub revision: Revision,
    /// What stands on its status, where the mesh writes one.
    pub stands: Option<Stands>,
    /// What it asks for, of a route.
    pub asked: Option<Asked>,
    /// What the World holds of it, where it is fit for use.
    pub object: Option<Object>,
    /// What the World holds in its place where it is not, and never was.
    pub instead: Option<Object>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What a watch has seen.
#[derive(Clone, Debug)]
pub enum Seen {
    /// All there is.
    Whole(Id, Vec<Read>),
    /// One that is new, or another than before.
    Put(Id, Box<Read>),
    /// One that is gone.
    Gone(Id, Key),
}

/// What a sight changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What is in force, or wrong, or of which version.
    pub objects: bool,
    /// What stands on a status.
    pub standing: bool,
}

impl BitOrAssign for Change {
    fn bitor_assign(&mut self, other: Self) {
        self.objects |= other.objects;
        self.standing |= other.standing;
    }
}

/// What all watches have read.
#[derive(Debug, Default)]
pub struct Cabinet {
    /// Watches that have not shown a whole list yet.
    waiting: BTreeSet<Id>,
    /// The names that each watch knows.
    names: BTreeMap<Id, BTreeSet<ObjectName>>,
    objects: Objects,
    faults: BTreeMap<Key, (Vec<Problem>, Effect)>,
    revisions: Arc<Revisions>,
    uids: Arc<Uids>,
    asked: Arc<AllAsked>,
    standing: Standing,
}

impl Cabinet {
    /// An empty one, to be filled by these watches.
    pub fn new(watches: BTreeSet<Id>) -> Self {
        Self { waiting: watches, ..Self::default() }
    }

    /// True once every watch has shown a whole list: less would look like objects deleted.
    pub fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What stands on the statuses.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// All of it, as a source says it.
    pub fn sourced(&self) -> Sourced {
        let told = self.faults.iter().flat_map(|(key, (problems, effect))| {
            problems.iter().map(move |Problem { field, problem, mend, weight: _ }| Diagnostic {
                place: None,
                object: diagnostic::Object::Known(key.clone()),
                field: field.clone(),
                problem: problem.clone(),
                mend: mend.clone(),
                effect: *effect,
            })
        });
        let mut diagnostics: Vec<Diagnostic> = told.collect();
        diagnostics.sort();
        diagnostics.dedup();
        Sourced {
            objects: self.objects.clone(),
            places: Map::new(),
            diagnostics,
            revisions: self.revisions.clone(),
            uids: self.uids.clone(),
            asked: self.asked.clone(),
        }
    }

    /// Takes in what a watch saw.
    pub fn take(&mut self, seen: Seen) -> Change {
        match seen {
            Seen::Put(id, read) => {
                self.names.entry(id).or_default().insert(read.key.name.clone());
                self.put(*read)
            }
            Seen::Gone(id, key) => {
                self.names.entry(id).or_default().remove(&key.name);
                self.remove(&key)
            }
            Seen::Whole(id, reads) => {
                let now: BTreeSet<ObjectName> = reads.iter().map(|read| read.key.name.clone()).collect();
                let mut change = Change { objects: self.waiting.remove(&id), standing: false };
                let before = self.names.insert(id.clone(), now.clone()).unwrap_or_default();
                for read in reads {
                    change |= self.put(read);
                }
                for gone in before.difference(&now) {
                    change |= self.remove(&Key { kind: id.kind, name: gone.clone() });
                }
                change
            }
        }
    }

    fn put(&mut self, read: Read) -> Change {
        let Read { key, revision, stands, asked, object, instead, problems } = read;
        let mut change = Change::default();
        let before = self.objects.get(&key);
        // Another object of the same name is no later version of it: what the first one said does not hold for the second.
        let known = self.revisions.get(&key).map(|known| &known.uid).or_else(|| self.uids.get(&key));
        let is_successor = known.is_some_and(|known| *known != revision.uid);
        // Nor is what held in place of one that could not be read an earlier version of it.
        let is_instead = self.faults.get(&key).is_some_and(|(_, effect)| *effect == Effect::Closed);
        let effect = match (&object, &before, &instead) {
            (Some(_), ..) => Effect::Applied,
            (None, Some(_), _) if !is_successor && !is_instead => Effect::Kept,
            (None, _, Some(_)) => Effect::Closed,
            (None, _, None) => Effect::Refused,
        };
        let object = object.or(instead.filter(|_| effect == Effect::Closed));
        match object {
            Some(object) if before.as_ref() != Some(&object) => {
                self.objects.insert(&key, object);
                change.objects = true;
            }
            None if effect == Effect::Refused => change.objects |= self.objects.remove(&key),
            Some(_) | None => {}
        }
        if stands.is_none() {
            change.objects |= self.know(&key, &revision.uid, !problems.is_empty());
        }
        let fault = (!problems.is_empty()).then_some((problems, effect));
        if self.faults.get(&key) != fault.as_ref() {
            change.objects = true;
            match fault {
                Some(fault) => drop(self.faults.insert(key.clone(), fault)),
                None => drop(self.faults.remove(&key)),
            }
        }
        if let Some(mut asked) = asked {
            let before = self.asked.get(&key);
            asked.in_force = match effect {
                Effect::Applied => Some(revision.generation),
                Effect::Kept => before.and_then(|before| before.in_force),
                Effect::Closed | Effect::Refused => None,
            };
            if before != Some(&asked) {
                change.objects = true;
                Arc::make_mut(&mut self.asked).insert(key.clone(), asked);
            }
        }
        if let Some(stands) = stands {
            if self.revisions.get(&key) != Some(&revision) {
                change.objects = true;
                Arc::make_mut(&mut self.revisions).insert(key.clone(), revision);
            }
            if self.standing.get(&key).is_none_or(|known| **known != stands) {
                change.standing = true;
                self.standing.insert(key, Arc::new(stands));
            }
        }
        change
    }

    /// Notes which object of that name it is, where an event may have to say so; true if it is another than before.
    fn know(&mut self, key: &Key, uid: &Arc<str>, is_faulty: bool) -> bool {
        let before = self.uids.get(key);
        // Of the others the name is enough: pods and endpoints come by the ten thousand.
        if before == Some(uid) || before.is_none() && !is_faulty && key.kind != Kind::NetworkPolicy {
            return false;
        }
        Arc::make_mut(&mut self.uids).insert(key.clone(), uid.clone());
        true
    }

    fn remove(&mut self, key: &Key) -> Change {
        let known = self.objects.remove(key);
        let faulty = self.faults.remove(key).is_some();
        let revised = self.revisions.contains_key(key);
        if revised {
            Arc::make_mut(&mut self.revisions).remove(key);
        }
        if self.uids.contains_key(key) {
            Arc::make_mut(&mut self.uids).remove(key);
        }
        if self.asked.contains_key(key) {
            Arc::make_mut(&mut self.asked).remove(key);
        }
        Change { objects: known || faulty || revised, standing: self.standing.remove(key).is_some() }
    }
}

#[cfg(test)]
mod tests;
