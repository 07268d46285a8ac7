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
};
use crate::{
    diagnostic::Key,
    metrics::Metrics,
    source::kubernetes::{Revision, Revisions, Standing, resource},
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

/// Writes what should stand on the policies.
pub(super) struct Writer {
    client: Client,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// What was written, until the watch shows something else than what stood there then.
    written: BTreeMap<Key, Written>,
}

struct Written {
    over: Option<Arc<Vec<Condition>>>,
    conditions: Vec<Condition>,
}

struct Write {
    key: Key,
    revision: Revision,
    conditions: Vec<Condition>,
    over: Option<Arc<Vec<Condition>>>,
    event: Option<Event>,
}

impl Writer {
    pub(super) fn new(client: Client, replica: &str, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter { controller: "millrace-control".into(), instance: Some(replica.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder, metrics, written: BTreeMap::new() }
    }

    /// Writes what differs from what stands.
    pub(super) async fn write(&mut self, wanted: &Conditions, standing: &Standing, revisions: &Revisions) {
        self.written.retain(|key, written| wanted.contains_key(key) && same(standing.get(key), written.over.as_ref()));
        let now = lease::timestamp();
        let mut writes = Vec::new();
        for (key, wanted) in wanted {
            let Some(revision) = revisions.get(key) else { continue };
            let stands = match self.written.get(key) {
                Some(written) => written.conditions.as_slice(),
                None => standing.get(key).map(|list| list.as_slice()).unwrap_or_default(),
            };
            let Some(conditions) = condition::change(wanted, stands, revision.generation, now) else { continue };
            writes.push(Write {
                key: key.clone(),
                revision: revision.clone(),
                event: news(wanted, stands),
                conditions,
                over: standing.get(key).cloned(),
            });
            if writes.len() >= ROUND {
                break;
            }
        }
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
        let Write { key, revision, conditions, over, event } = write;
        let resource = resource(key.kind);
        let api: Api<DynamicObject> = if key.kind.is_cluster_scoped() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource)
        };
        let status = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            // With the uid it is refused where another object took the name.
            "metadata": {"name": &*key.name.name, "uid": &*revision.uid},
            "status": {"conditions": &conditions},
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&status);
        let patched = api.patch_status(&key.name.name, &params, &patch);
        match tokio::time::timeout(CALL, patched).await {
            Ok(Ok(_)) => self.metrics.status_written("written"),
            // It is gone, or another has its name: the watch will say so.
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
        }
        if let Some(event) = event {
            Box::pin(self.tell(&key, &revision, event)).await;
        }
        Some((key, Written { over, conditions }))
    }

    async fn tell(&self, key: &Key, revision: &Revision, event: Event) {
        let about = ObjectReference {
            api_version: Some(key.kind.api_version().to_owned()),
            kind: Some(key.kind.name().to_owned()),
            name: Some(key.name.name.to_string()),
            namespace: Some(key.name.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            uid: Some(revision.uid.to_string()),
            ..ObjectReference::default()
        };
        let published = self.recorder.publish(&event, &about);
        if let Ok(Err(error)) = tokio::time::timeout(CALL, published).await {
            tracing::debug!(object = %key, error = &error as &dyn std::error::Error, "an event can't be written");
        }
    }
}

fn same(a: Option<&Arc<Vec<Condition>>>, b: Option<&Arc<Vec<Condition>>>) -> bool {
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
        let is_fault = *holds == Holds::False && (*name == "Accepted" || *reason == "Failed");
        let was_fault =
            before.is_some_and(|one| one.status == "False" && (*name == "Accepted" || one.reason == "Failed"));
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
