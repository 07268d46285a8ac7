//! Decides what is told in Events of objects that bear no status of the mesh: what is wrong with a NetworkPolicy, say, once, and once it is
//! mended. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::decide::sentences;
use crate::{
    diagnostic::{Diagnostic, Effect, Key, Object},
    publish::Outcome,
};

/// Events of one look; the next follows within a second. A fault that very many objects share is no news after the first of them.
const ROUND: usize = 20;
/// Faulty objects that are told of at a time; `/diagnostics` has all.
const MAX_TOLD: usize = 1_000;

/// What this replica told of each object that has a fault. One that comes to lead tells all of it once more: whether its forerunner came to
/// it is not known, and the API server forgets events within the hour.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<Key, Words>);

/// What is to be told of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Which object of that name.
    pub uid: Arc<str>,
    /// Why, in one word, as on the condition `Accepted` of a policy.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

/// Whether a person should do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Yes.
    Fault,
    /// No longer.
    Mended,
}

impl Told {
    /// What is to be told and was not yet.
    pub fn untold(&self, outcome: &Outcome) -> Vec<(Key, News, Words)> {
        let now = faulty(outcome);
        let faults = now.iter().filter(|(key, words)| self.0.get(*key) != Some(*words));
        let faults = faults.map(|(key, words)| (key.clone(), News::Fault, words.clone()));
        // Of one that is gone, or whose name another has, nothing is said.
        let stands = |key: &Key, words: &Words| outcome.sourced.uids.get(key) == Some(&words.uid);
        let mended = self.0.iter().filter(|(key, words)| !now.contains_key(*key) && stands(key, words));
        let mended = mended.map(|(key, words)| {
            let words = Words { reason: "Accepted", message: "it is understood".to_owned(), uid: words.uid.clone() };
            (key.clone(), News::Mended, words)
        });
        faults.chain(mended).take(ROUND).collect()
    }

    /// Notes that somebody was told.
    pub fn told(&mut self, key: Key, news: News, words: Words) {
        match news {
            News::Fault => drop(self.0.insert(key, words)),
            News::Mended => drop(self.0.remove(&key)),
        }
    }

    /// Forgets objects that are gone.
    pub fn forget(&mut self, outcome: &Outcome) {
        self.0.retain(|key, words| outcome.sourced.uids.get(key) == Some(&words.uid));
    }
}

/// What there is to tell now.
fn faulty(outcome: &Outcome) -> BTreeMap<Key, Words> {
    let mut faults: BTreeMap<&Key, Vec<&Diagnostic>> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for diagnostic in &*outcome.diagnostics {
        let Object::Known(key) = &diagnostic.object else { continue };
        if !outcome.sourced.uids.contains_key(key) {
            continue;
        }
        if faults.len() >= MAX_TOLD && !faults.contains_key(key) {
            left_out.insert(key);
            continue;
        }
        faults.entry(key).or_default().push(diagnostic);
    }
    if !left_out.is_empty() {
        tracing::debug!(n_objects = left_out.len(), "so many objects are faulty that no event is written of these");
    }
    let words = |(key, faults): (&Key, Vec<&Diagnostic>)| {
        let uid = outcome.sourced.uids.get(key)?.clone();
        let is_slight = faults.iter().all(|fault| fault.effect == Effect::Applied);
        let reason = if is_slight { "AcceptedWithWarnings" } else { "Invalid" };
        Some((key.clone(), Words { uid, reason, message: sentences(&faults) }))
    };
    faults.into_iter().filter_map(words).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_model::ObjectName;

    use super::{News, Told};
    use crate::{
        diagnostic::{self, Diagnostic, Effect, Key, Kind},
        publish::Outcome,
        source::Sourced,
    };

    fn key() -> Key {
        Key { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", "guard") }
    }

    fn outcome(uid: Option<&str>, faults: &[(Effect, &str)]) -> Outcome {
        let uids = uid.map(|uid| (key(), Arc::from(uid))).into_iter().collect::<Vec<_>>();
        let diagnostics = faults.iter().map(|(effect, problem)| Diagnostic {
            place: None,
            object: diagnostic::Object::Known(key()),
            field: "spec".to_owned(),
            problem: (*problem).to_owned(),
            mend: "mend it".to_owned(),
            effect: *effect,
        });
        let sourced = Sourced { uids: Arc::new(uids.into_iter().collect()), ..Sourced::default() };
        Outcome { sourced: Arc::new(sourced), diagnostics: Arc::new(diagnostics.collect()), ..Outcome::default() }
    }

    /// What is told of it, all of it taken.
    fn tell(told: &mut Told, outcome: &Outcome) -> Vec<(News, &'static str, String)> {
        let all = told.untold(outcome);
        for (key, news, words) in all.clone() {
            told.told(key, news, words);
        }
        told.forget(outcome);
        all.into_iter().map(|(_, news, words)| (news, words.reason, words.message)).collect()
    }

    #[test]
    fn a_fault_is_told_once_and_again_when_it_is_another_and_when_it_is_mended() {
        let mut told = Told::default();
        assert_eq!(tell(&mut told, &outcome(Some("1"), &[])), []);
        let bad = outcome(Some("1"), &[(Effect::Closed, "it is odd")]);
        let closed = "spec: it is odd; mend it. Until it can be read, the pods that it selects are closed.";
        assert_eq!(tell(&mut told, &bad), [(News::Fault, "Invalid", closed.to_owned())]);
        assert_eq!(tell(&mut told, &bad), []);
        let other = tell(&mut told, &outcome(Some("1"), &[(Effect::Applied, "it is strange")]));
        assert!(matches!(&*other, [(News::Fault, "AcceptedWithWarnings", _)]), "{other:?}");
        let mended = outcome(Some("1"), &[]);
        assert!(matches!(&*tell(&mut told, &mended), [(News::Mended, "Accepted", _)]));
        assert_eq!(tell(&mut told, &mended), []);
    }

    #[test]
    fn of_one_that_is_gone_nothing_is_said_and_of_its_successor_all() {
        let mut told = Told::default();
        let bad = |uid| outcome(Some(uid), &[(Effect::Closed, "it is odd")]);
        assert_eq!(tell(&mut told, &bad("1")).len(), 1);
        assert_eq!(tell(&mut told, &outcome(None, &[])), []);
        assert_eq!(tell(&mut told, &bad("2")).len(), 1);
        assert_eq!(tell(&mut told, &bad("3")).len(), 1);
    }

    #[test]
    fn an_object_that_bears_a_status_is_told_of_there() {
        let mut told = Told::default();
        assert_eq!(tell(&mut told, &outcome(None, &[(Effect::Refused, "it is odd")])), []);
    }
}
