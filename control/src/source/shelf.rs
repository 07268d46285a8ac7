//! Decides what is in force after the files were read: the good, the last good of what is bad now, and of two with one name the first.
//!
//! Pure. What is in force depends on the files and on what was in force before, never on the order of events.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Object, Sourced,
    manifest::{Item, Readings, StandsFor},
};
use crate::{
    diagnostic::{Diagnostic, Effect, Key, Place, Problem, Weight},
    world::Objects,
};

/// What is in force, and where it stood when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    held: BTreeMap<Key, Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    place: Place,
    object: Object,
}

impl Shelf {
    /// What is in force once the files say this, given what was in force before; and what to tell.
    pub fn settle(&self, files: &Readings) -> (Self, Sourced) {
        let mut next = BTreeMap::new();
        let mut diagnostics = Vec::new();
        // By name of file, then by position: the first to name an object has it, good or bad.
        let mut claims: BTreeMap<&Key, &Place> = BTreeMap::new();
        for item in files.values().flat_map(|reading| &reading.items) {
            let Item { place, stands_for, object, problems } = item;
            let StandsFor::Known(key) = stands_for else {
                diagnostics.extend(tell(item, problems, Effect::Refused));
                continue;
            };
            if let Some(first) = claims.get(key) {
                let twice = Problem {
                    field: "metadata.name".to_owned(),
                    problem: format!("the object stands in {first} already, which holds"),
                    mend: "remove one of the two, or rename it".to_owned(),
                    weight: Weight::Fatal,
                };
                diagnostics.extend(tell(item, &[twice], Effect::Refused));
                continue;
            }
            claims.insert(key, place);
            let effect = match (object, self.held.get(key)) {
                (Some(object), _) => {
                    next.insert(key.clone(), Held { place: place.clone(), object: object.clone() });
                    Effect::Applied
                }
                (None, Some(before)) => {
                    next.insert(key.clone(), before.clone());
                    Effect::Kept
                }
                (None, None) => Effect::Refused,
            };
            diagnostics.extend(tell(item, problems, effect));
        }
        self.keep_what_may_still_stand(files, &mut next, &mut diagnostics);
        diagnostics.sort();
        diagnostics.dedup();
        let next = Self { held: next };
        let sourced = next.sourced(diagnostics);
        (next, sourced)
    }

    /// An object that no file names any more is gone, unless its file has a document that may be it and can't be read.
    fn keep_what_may_still_stand(
        &self,
        files: &Readings,
        next: &mut BTreeMap<Key, Held>,
        diagnostics: &mut [Diagnostic],
    ) {
        for (key, held) in &self.held {
            if next.contains_key(key) {
                continue;
            }
            let Some(reading) = files.get(&held.place.file) else { continue };
            let may_be =
                |item: &&Item| matches!(item.stands_for, StandsFor::Maybe { .. }) && item.stands_for.may_be(key);
            let Some(item) = reading.items.iter().find(may_be) else { continue };
            next.insert(key.clone(), held.clone());
            for diagnostic in diagnostics.iter_mut().filter(|d| d.place.as_ref() == Some(&item.place)) {
                diagnostic.effect = Effect::Kept;
            }
        }
    }

    fn sourced(&self, diagnostics: Vec<Diagnostic>) -> Sourced {
        let mut objects = Objects::default();
        let mut places = BTreeMap::new();
        for (key, Held { place, object }) in &self.held {
            objects.insert(key, object.clone());
            places.insert(key.clone(), place.clone());
        }
        Sourced { objects, places, diagnostics, revisions: Arc::default() }
    }
}

fn tell<'a>(item: &'a Item, problems: &'a [Problem], effect: Effect) -> impl Iterator<Item = Diagnostic> + 'a {
    problems.iter().map(move |Problem { field, problem, mend, weight: _ }| Diagnostic {
        place: Some(item.place.clone()),
        object: item.stands_for.described(),
        field: field.clone(),
        problem: problem.clone(),
        mend: mend.clone(),
        effect,
    })
}
