//! Reads and writes the Lease that says by which roots a node believes its peers, and under which its certificates are.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{issue::roots::Trusting, listening::owner, status::lease::now, world::Settings};

/// Marks the Leases that hold such words.
const LABEL: &str = "millrace.dev/trusting";
/// Where the word stands.
const WORD: &str = "millrace.dev/trusting";
/// A Lease's name is this and its node's.
const PREFIX: &str = "trust.";
/// As whom the fields are managed.
const MANAGER: &str = "millrace-control";
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(3);

#[derive(Debug, Deserialize, Serialize)]
struct Word {
    believes: String,
    shows: Vec<String>,
}

/// What selects the Leases.
pub(super) fn selector() -> String {
    format!("{LABEL}=true")
}

/// The node that a Lease is of.
pub(super) fn node(lease: &Lease) -> Arc<str> {
    lease.metadata.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or_default().into()
}

/// What a Lease says; None where it can't be read: then the node has not said.
pub(super) fn word(lease: &Lease) -> Option<Trusting> {
    let text = lease.metadata.annotations.as_ref()?.get(WORD)?;
    let Word { believes, shows } = serde_json::from_str(text).ok()?;
    let issuers = shows.iter().map(|issuer| bytes(issuer));
    Some(Trusting { bundle_sha256: bytes(&believes)?, issuers_sha256: issuers.collect::<Option<_>>()? })
}

/// Writes what a node said, over whatever stands there: it is said to one replica at a time. True where that is done.
pub(super) async fn write(client: &Client, settings: &Settings, node: &Arc<str>, said: &Trusting) -> bool {
    match tokio::time::timeout(CALL, try_write(client, settings, node, said)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%node, error = &error as &dyn std::error::Error, "what a node believes is not taken");
            false
        }
        Err(_) => {
            tracing::debug!(%node, "what a node believes is not taken in time");
            false
        }
    }
}

async fn try_write(client: &Client, settings: &Settings, node: &str, said: &Trusting) -> kube::Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &settings.root_namespace);
    let Trusting { bundle_sha256, issuers_sha256 } = said;
    let shows = issuers_sha256.iter().map(|issuer| text(issuer)).collect();
    let word = serde_json::to_string(&Word { believes: text(bundle_sha256), shows }).unwrap_or_default();
    let name = format!("{PREFIX}{node}");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "labels": {LABEL: "true"}, "annotations": {WORD: word},
            // Gone with its node.
            "ownerReferences": owner(client.clone(), node).await?.into_iter().collect::<Vec<_>>(),
        },
        "spec": {"renewTime": now()},
    });
    leases.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&lease)).await.map(drop)
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit)).collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::{Lease, Trusting, WORD, node, text, word};

    fn lease(text: &str) -> Lease {
        let metadata = ObjectMeta {
            name: Some("trust.a.example".to_owned()),
            annotations: Some([(WORD.to_owned(), text.to_owned())].into()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: None }
    }

    #[test]
    fn a_word_is_read_as_it_is_written_and_what_is_none_is_nobodys() {
        let said = Trusting { bundle_sha256: vec![0xa7; 32], issuers_sha256: vec![vec![1; 32], vec![255; 32]] };
        let shows: Vec<String> = said.issuers_sha256.iter().map(|issuer| text(issuer)).collect();
        let written = serde_json::json!({"believes": text(&said.bundle_sha256), "shows": shows});
        let lease_of = lease(&written.to_string());
        assert_eq!((word(&lease_of), &*node(&lease_of)), (Some(said), "a.example"));
        for unfit in ["", "{}", "{\"believes\":\"a7\",\"shows\":[]}", "{\"believes\":\"\",\"shows\":[\"zz\"]}"] {
            assert_eq!(word(&lease(unfit)), None, "{unfit}");
        }
    }
}
