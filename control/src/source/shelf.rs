//! Decides what is in force after the files were read: the good, the last good of what is bad now, and of two with one name the first.
//!
//! Pure. What is in force depends on the files and on what was in force before, never on the order of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_model::Map;

use super::{
    Object, Sourced,
    manifest::{Item, Reading, Readings, StandsFor},
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
    worth: Worth,
}

/// What an object that is in force is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// What somebody wrote, now or before.
    Written,
    /// What holds while what somebody wrote can't be read.
    Instead,
}

impl Shelf {
    /// What is in force once the files say this, given what was in force before; and what to tell.
    pub fn settle(&self, files: &Readings) -> (Self, Sourced) {
        let mut next = BTreeMap::new();
        let mut diagnostics = Vec::new();
        // By name of file, then by position: the first to name an object has it, good or bad.
        let mut claims: BTreeMap<&Key, &Place> = BTreeMap::new();
        for item in files.values().flat_map(|reading| &reading.items) {
            let Item { place, stands_for, object, instead, problems } = item;
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
            let before = self.held.get(key).filter(|before| before.worth == Worth::Written);
            let held = |object: &Object, worth| Held { place: place.clone(), object: object.clone(), worth };
            let (held, effect) = match (object, before, instead) {
                (Some(object), ..) => (Some(held(object, Worth::Written)), Effect::Applied),
                (None, Some(before), _) => (Some(before.clone()), Effect::Kept),
                (None, None, Some(instead)) => (Some(held(instead, Worth::Instead)), Effect::Closed),
                (None, None, None) => (None, Effect::Refused),
            };
            next.extend(held.map(|held| (key.clone(), held)));
            diagnostics.extend(tell(item, problems, effect));
        }
        self.keep_what_may_still_stand(files, &mut next, &mut diagnostics);
        diagnostics.sort();
        diagnostics.dedup();
        let next = Self { held: next };
        let sourced = next.sourced(diagnostics);
        (next, sourced)
    }

    /// As [`Self::settle`], where since the last time some files say otherwise of the very objects they held, and nothing else
    /// changed: costs what those files are, and a copy of what was told. The shelf as it was, where that is not so.
    pub fn again(mut self, before: &Settled, files: &Readings) -> Result<(Self, Sourced), Self> {
        let Some(changed) = self.changed(before, files) else { return Err(self) };
        let mut sourced = before.sourced.clone();
        for item in changed.into_iter().flat_map(|reading| &reading.items) {
            let (StandsFor::Known(key), Some(object)) = (&item.stands_for, &item.object) else { return Err(self) };
            sourced.objects.insert(key, object.clone());
            sourced.places.insert(key.clone(), item.place.clone());
            let (place, object) = (item.place.clone(), object.clone());
            self.held.insert(key.clone(), Held { place, object, worth: Worth::Written });
        }
        Ok((self, sourced))
    }

    /// The files that changed; None where anything about whose an object is could have.
    fn changed<'f>(&self, before: &Settled, files: &'f Readings) -> Option<Vec<&'f Reading>> {
        if files.len() != before.readings.len() {
            return None;
        }
        let mut changed = Vec::new();
        for ((name, was), (also, is)) in before.readings.iter().zip(files) {
            if name != also {
                return None;
            }
            if Arc::ptr_eq(was, is) {
                continue;
            }
            let (had, keys) = (plain(was)?, plain(is)?);
            let holds = |key: &&Key| self.held.get(*key).is_some_and(|held| held.place.file == *name);
            if had != keys || !keys.iter().all(holds) {
                return None;
            }
            // What is told of another object may name the place of one that moved.
            let has_moved = was.items.iter().zip(&is.items).any(|(was, is)| was.place != is.place);
            if has_moved && !before.sourced.diagnostics.is_empty() {
                return None;
            }
            changed.push(&**is);
        }
        Some(changed)
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
        let mut places = Map::new();
        for (key, Held { place, object, worth: _ }) in &self.held {
            objects.insert(key, object.clone());
            places.insert(key.clone(), place.clone());
        }
        Sourced { objects, places, diagnostics, ..Sourced::default() }
    }
}

/// What was settled last: the files, and what came of them.
#[derive(Clone, Debug)]
pub struct Settled {
    /// By name.
    pub readings: Readings,
    /// What was told.
    pub sourced: Sourced,
}

/// The objects of a file that has nothing but good ones, each once.
fn plain(reading: &Reading) -> Option<BTreeSet<&Key>> {
    let mut keys = BTreeSet::new();
    for Item { place: _, stands_for, object, instead: _, problems } in &reading.items {
        let StandsFor::Known(key) = stands_for else { return None };
        if object.is_none() || !problems.is_empty() || !keys.insert(key) {
            return None;
        }
    }
    Some(keys)
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::{Settled, Shelf};
    use crate::{
        source::manifest::{self, Readings},
        world::Settings,
    };

    fn service(name: &str, address: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{clusterIPs: [{address}], ports: [{{port: 80}}]}}}}\n"
        )
    }

    /// The files of `before` with this one changed: the others' readings are the very same.
    fn with(before: &Readings, file: &str, text: &str) -> Readings {
        let settings = Settings { trust_domain: "td".into(), root_namespace: "root".into() };
        let file: Arc<str> = file.into();
        let reading = Arc::new(manifest::read(&file, text.as_bytes(), &settings));
        let mut files = before.clone();
        files.insert(file, reading);
        files
    }

    fn settled(files: &Readings) -> (Shelf, Settled) {
        let (shelf, sourced) = Shelf::default().settle(files);
        (shelf, Settled { readings: files.clone(), sourced })
    }

    #[test]
    fn a_file_that_says_otherwise_of_its_objects_is_settled_as_the_whole_would_be() {
        let files = with(&BTreeMap::new(), "a.yaml", &(service("web", "10.96.0.1") + &service("db", "10.96.0.2")));
        let files = with(&files, "b.yaml", &service("api", "10.96.0.3"));
        let (shelf, before) = settled(&files);
        let now = with(&files, "b.yaml", &service("api", "10.96.0.4"));
        let (whole, all) = shelf.settle(&now);
        let (again, sourced) = shelf.again(&before, &now).unwrap();
        assert_eq!(again, whole);
        assert_eq!((sourced.objects, sourced.places), (all.objects, all.places));
        assert_eq!(sourced.diagnostics, all.diagnostics);
    }

    #[test]
    fn a_file_that_holds_other_objects_is_left_to_the_whole() {
        let files = with(&BTreeMap::new(), "a.yaml", &service("web", "10.96.0.1"));
        let files = with(&files, "b.yaml", &service("api", "10.96.0.3"));
        let others = [
            with(&files, "b.yaml", &service("web", "10.96.0.3")),
            with(&files, "b.yaml", &(service("api", "10.96.0.3") + &service("db", "10.96.0.4"))),
            with(&files, "b.yaml", "---\nkind: [\n"),
            with(&files, "c.yaml", &service("db", "10.96.0.4")),
            with(&files, "b.yaml", ""),
        ];
        for (index, now) in others.into_iter().enumerate() {
            let (shelf, before) = settled(&files);
            assert!(shelf.again(&before, &now).is_err(), "change {index}");
        }
        // The first to name an object has it: what the second says of it changes nothing.
        let twice = with(&files, "c.yaml", &service("web", "10.96.0.9"));
        let (shelf, before) = settled(&twice);
        assert!(shelf.again(&before, &with(&twice, "c.yaml", &service("web", "10.96.0.8"))).is_err());
    }
}
