//! Answers who asks of roots and of revoked nodes, and who changes them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, json as answer, text};
use crate::{
    clock,
    issue::roots::{Nodes, Trusting, Unchanged, bundle_sha256},
    source::object::meta::is_dns_subdomain,
};

/// The body of `POST /root`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    step: Step,
    #[serde(default)]
    force: bool,
}

/// What is done to the roots.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    Add,
    Activate,
    Retire,
    Reload,
}

/// The body of `POST /revoked`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Standing {
    Revoke(String),
    Readmit(String),
}

impl Admin {
    /// The roots, and which nodes believe them.
    pub(super) fn root(&self) -> Response<Full<Bytes>> {
        let authority = self.issuer.roots.authority();
        let signs = authority.root_sha256();
        let bundle = bundle_sha256(authority.bundle());
        let next = authority.next().map(|next| sha256(next));
        let roots: Vec<Value> = authority
            .bundle()
            .iter()
            .map(|root| {
                let sha256 = sha256(root);
                let part = if sha256 == hex(&signs) {
                    "signs"
                } else if Some(&sha256) == next.as_ref() {
                    "next"
                } else {
                    "former"
                };
                json!({ "sha256": sha256, "part": part })
            })
            .collect();
        let nodes: BTreeMap<String, Value> = self
            .said()
            .into_iter()
            .map(|(node, said)| {
                let said = said.map(|said| {
                    json!({
                        "believes_all": said.bundle_sha256 == bundle,
                        "shows_only_the_one_that_signs": said.issuers_sha256.iter().all(|issuer| *issuer == signs),
                    })
                });
                (node.to_string(), said.unwrap_or(Value::Null))
            })
            .collect();
        answer(
            StatusCode::OK,
            &json!({ "roots": roots, "expires_unix": authority.root_expires_unix(), "nodes": nodes }),
        )
    }

    /// Takes one step of a change of roots.
    pub(super) fn change_root(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let Change { step, force } = match serde_json::from_slice(body) {
            Ok(change) => change,
            Err(error) => {
                return text(StatusCode::BAD_REQUEST, format!("the body is not {{\"step\": \"add\"}}: {error}\n"));
            }
        };
        let said = self.said();
        let nodes = if force { Nodes::Forced } else { Nodes::Known(&said) };
        let roots = &self.issuer.roots;
        let done = match step {
            Step::Add => roots.add(clock::unix_time()),
            Step::Activate => roots.activate(&nodes),
            Step::Retire => roots.retire(&nodes),
            Step::Reload => roots.reload().map(drop),
        };
        match done {
            Ok(()) => {
                tracing::info!(?step, force, "the roots were changed");
                self.root()
            }
            Err(why) => unchanged(&why),
        }
    }

    /// The nodes that were taken out.
    pub(super) fn revoked(&self) -> Response<Full<Bytes>> {
        let revoked = self.issuer.roots.revoked();
        let nodes: serde_json::Map<String, Value> = revoked
            .iter()
            .map(|(node, revoked)| (node.to_string(), serde_json::to_value(revoked).unwrap_or_default()))
            .collect();
        answer(StatusCode::OK, &Value::Object(nodes))
    }

    /// Takes a node out, or lets it in again.
    pub(super) async fn revoke(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let wanted: Standing = match serde_json::from_slice(body) {
            Ok(wanted) => wanted,
            Err(error) => {
                return text(StatusCode::BAD_REQUEST, format!("the body is not {{\"revoke\": \"node\"}}: {error}\n"));
            }
        };
        if let Standing::Revoke(node) = &wanted
            && !is_dns_subdomain(node)
        {
            return text(StatusCode::BAD_REQUEST, format!("{node:?} is no node's name\n"));
        }
        let issuer = self.issuer.clone();
        let told = format!("{wanted:?}");
        let done = tokio::task::spawn_blocking(move || match &wanted {
            Standing::Revoke(node) => {
                // Whoever stole the node may have stolen a token that waits there.
                issuer.tokens.forget(node).map_err(Unchanged::Tokens)?;
                issuer.roots.revoke(node, clock::unix_time())
            }
            Standing::Readmit(node) => issuer.roots.readmit(node),
        });
        match done.await {
            Ok(Ok(())) => {
                tracing::warn!(wanted = told, "who is in the mesh was changed");
                self.revoked()
            }
            Ok(Err(why)) => unchanged(&why),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn said(&self) -> BTreeMap<Arc<str>, Option<Trusting>> {
        let out = self.issuer.roots.revoked().out();
        self.nodes.said(self.history.borrow().now().map(|edition| &**edition), &out)
    }
}

fn unchanged(why: &Unchanged) -> Response<Full<Bytes>> {
    let status = match why {
        Unchanged::Fault(_) | Unchanged::Kept(_) | Unchanged::Tokens(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Unchanged::NotTaken(_) => StatusCode::SERVICE_UNAVAILABLE,
        Unchanged::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Unchanged::NextWaits
        | Unchanged::NoNext
        | Unchanged::NothingToRetire
        | Unchanged::Given
        | Unchanged::Behind(_)
        | Unchanged::InUse(_)
        | Unchanged::NotRevoked(_) => StatusCode::CONFLICT,
    };
    tracing::warn!(error = why as &dyn std::error::Error, "roots and revoked nodes are as before");
    text(status, format!("{}\n", with_causes(why)))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn sha256(der: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(der))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
