//! Knows how each watch is, for whoever asks. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use super::cabinet::Id;

/// How the watches are.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<String, Watch>>);

/// One watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// Whether it has shown a whole list.
    pub listed: bool,
    /// What it failed with last; None while it goes on.
    pub fault: Option<String>,
    /// How often it listed all objects.
    pub n_lists: u64,
}

impl Health {
    /// All of them, by kind and namespace.
    pub fn all(&self) -> BTreeMap<String, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that keep the mesh from being published: kind, and why.
    pub fn missing(&self) -> Vec<String> {
        let unlisted = |(id, watch): (String, Watch)| {
            let why = watch.fault.map_or_else(String::new, |fault| format!(": {fault}"));
            (!watch.listed).then(|| format!("{id} not listed yet{why}"))
        };
        self.all().into_iter().filter_map(unlisted).collect()
    }

    /// Notes something of a watch.
    pub(super) fn note(&self, id: &Id, note: impl FnOnce(&mut Watch)) {
        let name = match &id.namespace {
            Some(namespace) => format!("{} in {namespace}", id.kind.name()),
            None => id.kind.name().to_owned(),
        };
        self.note_as(&name, note);
    }

    /// Notes something of a watch of this name, which may be of what is no part of the World.
    pub fn note_as(&self, name: &str, note: impl FnOnce(&mut Watch)) {
        note(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default());
    }
}
