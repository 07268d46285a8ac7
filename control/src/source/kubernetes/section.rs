//! Lists and watches one kind, and reads each object where it comes in.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Resource as _,
    core::{ApiResource, DynamicObject, DynamicResourceScope, PartialObjectMeta},
    runtime::watcher::{self, Event, watcher},
};
use millrace_model::ObjectName;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Health, Revision,
    cabinet::{Id, Read, Seen},
    raw::Raw,
    resource::{Depth, depth, plural, resource},
};
use crate::{
    diagnostic::{Kind, Problem},
    metrics::Metrics,
    source::object,
    world::Settings,
};

/// Objects in one answer to a list: what the API server's own clients ask for.
const PAGE: u32 = 500;
/// How long one watch lasts before the next takes over where it ended. A connection whose other end vanished is noticed by then.
const WATCH_SECONDS: u32 = 60;
/// The first wait after a fault, doubled by each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// An API server that was away shall not wait long for us, and one that struggles not be pressed.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How often it is looked whether somebody defined a kind meanwhile: a person who did looks at the result by then.
const UNDEFINED: Duration = Duration::from_secs(3);

/// One kind, in one namespace or all.
pub(super) struct Section {
    pub(super) id: Id,
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
}

impl Section {
    /// Watches until nobody takes what it sees.
    pub(super) async fn follow(self, seen: mpsc::Sender<Seen>) {
        self.health.note(&self.id, |_| {});
        let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        match depth(self.id.kind) {
            Depth::Whole => {
                let events = watcher(self.api::<Raw>(), config);
                Box::pin(self.take(events, &seen, |section, raw| section.read(raw))).await;
            }
            Depth::Metadata => {
                let events = watcher(self.api::<PartialObjectMeta<DynamicObject>>(), config);
                Box::pin(self.take(events, &seen, |section, meta| section.read(labels_only(&meta)))).await;
            }
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        let resource = resource(self.id.kind);
        match &self.id.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn take<T>(
        &self,
        events: impl futures_util::Stream<Item = watcher::Result<Event<T>>>,
        seen: &mpsc::Sender<Seen>,
        read: impl Fn(&Self, T) -> Option<Read>,
    ) {
        let mut events = std::pin::pin!(events);
        let mut incoming = Vec::new();
        let mut n_faults = 0;
        while let Some(event) = events.next().await {
            let sight = match event {
                Ok(Event::Init) => {
                    incoming = Vec::new();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    incoming.extend(read(self, object));
                    continue;
                }
                Ok(Event::InitDone) => {
                    self.listed();
                    Seen::Whole(self.id.clone(), std::mem::take(&mut incoming))
                }
                Ok(Event::Apply(object)) => {
                    let Some(read) = read(self, object) else { continue };
                    Seen::Put(self.id.clone(), Box::new(read))
                }
                Ok(Event::Delete(object)) => {
                    let Some(Read { key, .. }) = read(self, object) else { continue };
                    Seen::Gone(self.id.clone(), key)
                }
                Err(error) => {
                    incoming = Vec::new();
                    self.failed(&error, n_faults).await;
                    n_faults += 1;
                    if !self.is_undefined(&error).await {
                        continue;
                    }
                    // Nobody defined the kind here, so there is no object of it.
                    self.listed();
                    if seen.send(Seen::Whole(self.id.clone(), Vec::new())).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(UNDEFINED).await;
                    continue;
                }
            };
            n_faults = 0;
            self.health.note(&self.id, |watch| watch.fault = None);
            if seen.send(sight).await.is_err() {
                return;
            }
        }
    }

    fn listed(&self) {
        self.metrics.listed(self.id.kind.name());
        self.health.note(&self.id, |watch| {
            watch.listed = true;
            watch.n_lists += 1;
        });
    }

    /// Notes the fault, and waits longer with each that follows another.
    async fn failed(&self, error: &watcher::Error, n_before: u32) {
        let why = chain(error);
        self.metrics.watch_failed(self.id.kind.name());
        if n_before == 0 {
            tracing::warn!(kind = self.id.kind.name(), error = why, "the watch broke; what was read stays in force");
        }
        self.health.note(&self.id, |watch| watch.fault = Some(why));
        let wait = FIRST_WAIT.saturating_mul(1 << n_before.min(8)).min(LAST_WAIT);
        tokio::time::sleep(wait).await;
    }

    /// True where the kind has no definition. An API server that starts says "not found" of kinds that it does know soon:
    /// only the definition's own absence tells.
    async fn is_undefined(&self, error: &watcher::Error) -> bool {
        let not_found =
            matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404);
        if !not_found || !(self.id.kind.is_own() || self.id.kind.is_gateway()) {
            return false;
        }
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = format!("{}.{}", plural(self.id.kind), resource(self.id.kind).group);
        match definitions.get_metadata_opt(&name).await {
            Ok(found) => found.is_none(),
            Err(error) => {
                tracing::debug!(%error, name, "can't tell whether the kind is defined");
                false
            }
        }
    }

    fn read(&self, raw: impl Into<Raw>) -> Option<Read> {
        let raw = raw.into();
        let meta = raw.meta();
        let revision = Revision {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation.unwrap_or_default(),
        };
        let namespace = if self.id.kind.is_cluster_scoped() { "" } else { meta.namespace.as_deref()? };
        let key =
            crate::diagnostic::Key { kind: self.id.kind, name: ObjectName::new(namespace, meta.name.as_deref()?) };
        let stands = raw.stands(self.id.kind);
        let asked = self.id.kind.has_entries().then(|| object::asked(&key, &raw.value));
        let instead = object::instead(&key, &raw.value);
        let (object, mut problems) = object::read(&key, raw.value, &self.settings);
        // The API server is newer than this program, or it would not have taken the field: nobody misspelt it. Of a route and of what a
        // NetworkPolicy lets through it is told all the same, since what it asks for is not done.
        let is_told = |problem: &Problem| {
            self.id.kind.is_gateway() || self.id.kind == Kind::NetworkPolicy && problem.field.starts_with("spec.")
        };
        problems.retain(|problem| is_told(problem) || !object::is_unknown_field(problem));
        let instead = instead.filter(|_| object.is_none());
        Some(Read { key, revision, stands, asked, object, instead, problems })
    }
}

/// Of an object of which only the metadata was asked for, what is read.
fn labels_only(meta: &PartialObjectMeta<DynamicObject>) -> Raw {
    let meta = &meta.metadata;
    Raw::from(json!({"metadata": {
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "generation": meta.generation,
        "labels": meta.labels.clone().unwrap_or_default(),
    }}))
}

/// The error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
