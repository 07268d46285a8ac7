//! Reads and writes the Lease of a node's word.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use millrace_model::ObjectName;
use serde_json::json;

use super::ledger::{Word, Written};
use crate::{
    status::lease::now,
    world::{Listener, Settings},
};

/// Marks the Leases that hold nodes' words.
const LABEL: &str = "millrace.dev/listening";
/// Where the word stands: JSON, the instance of each pod by its name. Some 60 bytes for a pod; an object's annotations may have 256 KiB.
const WORD: &str = "millrace.dev/listening";
/// A Lease's name is this and its node's.
const PREFIX: &str = "node.";
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(3);

/// What selects the Leases.
pub(super) fn selector() -> String {
    format!("{LABEL}=true")
}

/// The node that a Lease is of.
pub(super) fn node(lease: &Lease) -> Arc<str> {
    lease.metadata.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default().into()
}

/// The word that a Lease holds; None where it can't be read, which leaves the node's word as it was.
pub(super) fn word(lease: &Lease) -> Option<Word> {
    let text = lease.metadata.annotations.as_ref()?.get(WORD)?;
    let pods: BTreeMap<ObjectName, Arc<str>> = match serde_json::from_str(text) {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(node = %node(lease), %error, "a Lease of what a node listens on can't be read");
            return None;
        }
    };
    let listening = pods.into_iter().map(|(name, instance)| Listener { name, instance });
    Some(Word { node: node(lease), listening: listening.collect(), version: lease.metadata.resource_version.clone() })
}

/// Writes the word over the version that it names, or anew.
pub(super) async fn write(client: Client, settings: &Settings, replica: &str, word: Word) -> Written {
    let node = word.node.clone();
    match tokio::time::timeout(CALL, try_write(client, settings, replica, word)).await {
        Ok(Ok(written)) => written,
        Ok(Err(error)) => {
            tracing::debug!(%node, error = &error as &dyn std::error::Error, "what a node listens on is not taken");
            Written::Failed(node)
        }
        Err(_) => {
            tracing::debug!(%node, "what a node listens on is not taken in time");
            Written::Failed(node)
        }
    }
}

async fn try_write(client: Client, settings: &Settings, replica: &str, said: Word) -> kube::Result<Written> {
    let Word { node, listening, version } = said;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.root_namespace);
    let name = format!("{PREFIX}{node}");
    let pods: BTreeMap<&ObjectName, &str> = listening.iter().map(|pod| (&pod.name, &*pod.instance)).collect();
    let text = serde_json::to_string(&pods).unwrap_or_default();
    let spec = LeaseSpec { holder_identity: Some(replica.to_owned()), renew_time: Some(now()), ..LeaseSpec::default() };
    let annotations: BTreeMap<String, String> = [(WORD.to_owned(), text)].into();
    let written = match version {
        None => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
                annotations: Some(annotations),
                // Gone with its node.
                owner_references: owner(client, &node).await?.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            };
            leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
        Some(version) => {
            let change = json!({"metadata": {"annotations": annotations, "resourceVersion": version}, "spec": spec});
            leases.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await
        }
    };
    match written {
        Ok(lease) => Ok(Written::Done(node, lease.metadata.resource_version.unwrap_or_default())),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Written::Missing(node)),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let Some(lease) = leases.get_opt(&name).await? else { return Ok(Written::Missing(node)) };
            let version = lease.metadata.resource_version.clone();
            // One that can't be read says nothing, and is written over.
            Ok(Written::Overtaken(word(&lease).unwrap_or(Word { node, listening: [].into(), version })))
        }
        Err(error) => Err(error),
    }
}

/// What has an object of a node's gone with it; None where there is no such Node.
pub(crate) async fn owner(client: Client, node: &str) -> kube::Result<Option<OwnerReference>> {
    let found = Api::<Node>::all(client).get_metadata_opt(node).await?;
    Ok(found.and_then(|found| found.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid,
        ..OwnerReference::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::{LABEL, Lease, ObjectMeta, WORD, word};

    fn lease(text: &str) -> Lease {
        let metadata = ObjectMeta {
            name: Some("node.a.example".to_owned()),
            labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([(WORD.to_owned(), text.to_owned())].into()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: None }
    }

    #[test]
    fn a_word_is_read_as_it_is_written_and_what_is_none_is_nobodys() {
        let read = word(&lease("{\"shop/web\":\"00ff\"}")).unwrap();
        assert_eq!((&*read.node, read.listening.len()), ("a.example", 1));
        assert!(word(&lease("{\"web\":3}")).is_none() && word(&lease("")).is_none());
    }
}
