//! Writes conditions and events, a few at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;

use super::{
    condition::{self, Holds, Wanted},
    decide::Conditions,
    lease,
    parents::{self, Entry, Fields, PARTIALLY_INVALID},
    route::Entries,
    untold::{News, Told},
};
use crate::{
    diagnostic::Key,
    metrics::Metrics,
    publish::Outcome,
    source::kubernetes::{Revision, Revisions, Standing, Stands, resource},
};

/// As whom fields of a status are managed.
const MANAGER: &str = "millrace";
/// Writes under way at once: the API server serves others too.
const AT_ONCE: usize = 8;
/// Writes of one round; the next follows within a second.
const ROUND: usize = 500;
/// A write that takes longer has failed.
const CALL: Duration = Duration::from_secs(5);
/// The longest note that an Event holds.
const MAX_NOTE: usize = 1000;

/// What should stand on all objects that have a status of ours.
pub(super) struct AllWanted {
    pub(super) policies: Conditions,
    pub(super) entries: Entries,
}

/// Writes what should stand on the policies and routes.
pub(super) struct Writer {
    client: Client,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// What was written, until the watch shows something else than what stood there then.
    written: BTreeMap<Key, Written>,
}

struct Written {
    over: Option<Arc<Stands>>,
    stands: Stands,
}

struct Write {
    key: Key,
    revision: Revision,
    /// What will stand.
    next: Stands,
    over: Option<Arc<Stands>>,
    event: Option<Event>,
}

impl Writer {
    pub(super) fn new(client: Client, replica: &str, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter { controller: "millrace-control".into(), instance: Some(replica.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder, metrics, written: BTreeMap::new() }
    }

    /// Writes what differs from what stands.
    pub(super) async fn write(&mut self, wanted: &AllWanted, standing: &Standing, revisions: &Revisions) {
        let AllWanted { policies, entries } = wanted;
        let is_wanted = |key: &Key| policies.contains_key(key) || entries.contains_key(key);
        self.written.retain(|key, written| is_wanted(key) && same(standing.get(key), written.over.as_ref()));
        let now = lease::timestamp();
        let stands = |key: &Key| match self.written.get(key) {
            Some(written) => Some(&written.stands),
            None => standing.get(key).map(|stands| &**stands),
        };
        let of_policies = policies.iter().filter_map(|(key, wanted)| {
            let stood = match stands(key) {
                Some(Stands::Conditions(list)) => list.as_slice(),
                Some(Stands::Parents { .. }) | None => &[],
            };
            let next = condition::change(wanted, stood, revisions.get(key)?.generation, now)?;
            Some((key, Stands::Conditions(next), news(wanted, stood)))
        });
        let of_entries = entries.iter().filter_map(|(key, wanted)| {
            // One that no watch has shown is not there to be written over.
            let Some(Stands::Parents { parents, version }) = stands(key) else { return None };
            let fields = Fields::of(key.kind);
            let next = parents::change(fields, wanted, parents, now)?;
            Some((
                key,
                Stands::Parents { parents: next, version: version.clone() },
                news_of_parents(fields, wanted, parents),
            ))
        });
        let write = |(key, next, event): (&Key, Stands, Option<Event>)| {
            let (revision, over) = (revisions.get(key)?.clone(), standing.get(key).cloned());
            Some(Write { key: key.clone(), revision, next, over, event })
        };
        let writes: Vec<Write> = of_policies.chain(of_entries).filter_map(write).take(ROUND).collect();
        let this = &*self;
        let done: Vec<(Key, Written)> = stream::iter(writes)
            .map(|write| Box::pin(this.one(write)))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        self.written.extend(done);
    }

    async fn one(&self, write: Write) -> Option<(Key, Written)> {
        let Write { key, revision, next, over, event } = write;
        let resource = resource(key.kind);
        let api: Api<DynamicObject> = if key.kind.is_cluster_scoped() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource)
        };
        // With the uid it is refused where another object took the name.
        let (name, uid) = (&*key.name.name, &*revision.uid);
        let (meta, status) = match &next {
            Stands::Conditions(conditions) => (json!({"name": name, "uid": uid}), json!({"conditions": conditions})),
            // And with the version, where others' entries were put there since they were read.
            Stands::Parents { parents, version } => (
                json!({"name": name, "uid": uid, "resourceVersion": &**version}),
                json!({Fields::of(key.kind).list: parents}),
            ),
        };
        let status = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&status);
        let patched = api.patch_status(&key.name.name, &params, &patch);
        let version = match tokio::time::timeout(CALL, patched).await {
            Ok(Ok(object)) => {
                self.metrics.status_written("written");
                object.metadata.resource_version.unwrap_or_default()
            }
            // It is gone, or another has its name, or somebody else wrote meanwhile: the watch will say so.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => {
                self.metrics.status_written("gone");
                return None;
            }
            Ok(Err(error)) => {
                self.metrics.status_written("failed");
                tracing::warn!(object = %key, error = &error as &dyn std::error::Error, "its status can't be written");
                return None;
            }
            Err(_) => {
                self.metrics.status_written("failed");
                tracing::warn!(object = %key, "its status can't be written in time");
                return None;
            }
        };
        if let Some(event) = event {
            // One that can't be written is not tried again: what it says stands on the status.
            Box::pin(self.tell(&key, &revision.uid, event)).await;
        }
        let stands = match next {
            Stands::Conditions(_) => next,
            Stands::Parents { parents, .. } => Stands::Parents { parents, version: version.into() },
        };
        Some((key, Written { over, stands }))
    }

    /// Tells what was not told yet of objects that bear no status; what can't be told is tried again.
    pub(super) async fn tell_all(&self, told: &mut Told, outcome: &Outcome) {
        told.forget(outcome);
        for (key, news, words) in told.untold(outcome) {
            let type_ = match news {
                News::Fault => EventType::Warning,
                News::Mended => EventType::Normal,
            };
            let event = event(type_, words.reason, &words.message);
            if !Box::pin(self.tell(&key, &words.uid, event)).await {
                return;
            }
            told.told(key, news, words);
        }
    }

    /// Writes an event; true if it stands.
    async fn tell(&self, key: &Key, uid: &str, event: Event) -> bool {
        let about = ObjectReference {
            api_version: Some(key.kind.api_version().to_owned()),
            kind: Some(key.kind.name().to_owned()),
            name: Some(key.name.name.to_string()),
            namespace: Some(key.name.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let published = self.recorder.publish(&event, &about);
        match tokio::time::timeout(CALL, published).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(object = %key, error = &error as &dyn std::error::Error, "an event can't be written");
                false
            }
            Err(_) => {
                tracing::debug!(object = %key, "an event can't be written in time");
                false
            }
        }
    }
}

fn same(a: Option<&Arc<Stands>>, b: Option<&Arc<Stands>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What a person should see: a policy that is not taken, or that a node can't enforce, and when that is mended. What merely takes its
/// time is on the status and no news.
fn news(wanted: &[Wanted], stands: &[Condition]) -> Option<Event> {
    let stood = |name: &str| stands.iter().find(|one| one.type_ == name);
    for Wanted { name, holds, reason, message } in wanted {
        let before = stood(name);
        let is_fault = is_fault(name, *holds == Holds::True, reason);
        let was_fault = before.is_some_and(|one| self::is_fault(name, one.status == "True", &one.reason));
        let is_new = before.is_none_or(|one| one.reason != *reason || one.message != *message);
        if is_fault && is_new {
            return Some(event(EventType::Warning, reason, message));
        }
        if !is_fault && was_fault {
            return Some(event(EventType::Normal, reason, message));
        }
    }
    None
}

/// What stands of the other parents is told too, one event at a time: the first that is news.
fn news_of_parents(fields: Fields, wanted: &[Entry], standing: &[serde_json::Value]) -> Option<Event> {
    wanted.iter().find_map(|Entry { parent, conditions }| {
        let wanted: Vec<Wanted> = conditions.iter().map(|(one, _)| one.clone()).collect();
        news(&wanted, &parents::of(fields, parent, standing))
    })
}

/// Whether a condition is one that a person should mend something for.
fn is_fault(name: &str, holds: bool, reason: &str) -> bool {
    match name {
        "Accepted" | "ResolvedRefs" => !holds,
        PARTIALLY_INVALID => holds,
        _ => !holds && reason == "Failed",
    }
}

fn event(type_: EventType, reason: &str, message: &str) -> Event {
    let end = (0..=message.len().min(MAX_NOTE)).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    Event {
        type_,
        reason: reason.to_owned(),
        note: message.get(..end).map(str::to_owned),
        action: "Compile".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::{EventType, news};
    use crate::status::condition::{Holds, Wanted, change};

    fn wanted(name: &'static str, holds: Holds, reason: &'static str) -> [Wanted; 1] {
        [Wanted { name, holds, reason, message: String::new() }]
    }

    #[test]
    fn a_person_hears_of_a_fault_once_and_of_its_mending() {
        let bad = wanted("Accepted", Holds::False, "Invalid");
        let good = wanted("Accepted", Holds::True, "Accepted");
        assert!(news(&good, &[]).is_none(), "that all is well is no news");
        assert!(matches!(news(&bad, &[]).map(|event| event.type_), Some(EventType::Warning)));
        let standing = change(&bad, &[], 1, Timestamp::UNIX_EPOCH).unwrap();
        assert!(news(&bad, &standing).is_none());
        assert!(matches!(news(&good, &standing).map(|event| event.type_), Some(EventType::Normal)));
    }

    #[test]
    fn a_node_that_takes_its_time_is_no_news_and_one_that_fails_is() {
        assert!(news(&wanted("Enforced", Holds::False, "Pending"), &[]).is_none());
        assert!(news(&wanted("Enforced", Holds::False, "Failed"), &[]).is_some());
    }
}
