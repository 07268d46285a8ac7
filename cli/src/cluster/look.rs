//! Fetches what is shown of a cluster: Nodes, Leases, and Millrace's own objects.

use std::collections::BTreeMap;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectList},
};
use serde_json::Value;

use super::{ROOT, unasked};
use crate::Failure;

/// Objects in one answer: what the API server's own clients ask for.
const PAGE: u32 = 500;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Nodes by name: the version of the kernel.
    pub(super) nodes: BTreeMap<String, String>,
    /// Leases of the root namespace.
    pub(super) leases: Vec<Lease>,
    /// Millrace's objects that have a status, and their kind. None of a kind that is not defined.
    pub(super) policies: Vec<(String, DynamicObject)>,
    /// Kinds that are not defined.
    pub(super) undefined: Vec<String>,
    /// When it was asked, as the API server's clock said it, in seconds since 1970.
    pub(super) now: i64,
}

/// Asks for all of it.
pub(super) async fn look(client: &Client) -> Result<Found, Failure> {
    let mut found = Found { now: now(client).await?, ..Found::default() };
    let nodes: Vec<Node> = all(&Api::all(client.clone()), "nodes").await?;
    found.nodes = nodes
        .into_iter()
        .map(|node| {
            let kernel = node.status.and_then(|status| status.node_info).map(|info| info.kernel_version);
            (node.metadata.name.unwrap_or_default(), kernel.unwrap_or_default())
        })
        .collect();
    found.leases = all(&Api::namespaced(client.clone(), ROOT), "leases of the mesh").await?;
    for (kind, resource) in kinds() {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match api.list(&ListParams::default().limit(1)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => found.undefined.push(kind),
            Err(why) => return Err(unasked(&kind, &why)),
            Ok(_) => {
                let objects = all(&api, &kind).await?;
                found.policies.extend(objects.into_iter().map(|object| (kind.clone(), object)));
            }
        }
    }
    Ok(found)
}

/// Millrace's kinds, as their definitions name them.
pub(super) fn kinds() -> Vec<(String, ApiResource)> {
    let text = |crd: &Value, path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    millrace_crd::crds()
        .iter()
        .map(|(_, crd)| {
            let (group, kind) = (text(crd, "/spec/group"), text(crd, "/spec/names/kind"));
            let gvk = GroupVersionKind::gvk(&group, &text(crd, "/spec/versions/0/name"), &kind);
            (kind, ApiResource::from_gvk_with_plural(&gvk, &text(crd, "/spec/names/plural")))
        })
        .collect()
}

/// All objects, page by page.
async fn all<K>(api: &Api<K>, what: &str) -> Result<Vec<K>, Failure>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (mut objects, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page: ObjectList<K> = api.list(&params).await.map_err(|why| unasked(what, &why))?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// The API server's own clock, by which the replicas' Leases are judged: this machine's may be off.
async fn now(client: &Client) -> Result<i64, Failure> {
    let asked = http::Request::get("/version").body(Vec::new());
    let asked = asked.map_err(|why| Failure::Failed(format!("the request can't be made: {why}")))?;
    let answer = client.send(asked.map(Into::into)).await.map_err(|why| unasked("its version", &why))?;
    let date = answer.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let parsed = date.and_then(|date| k8s_openapi::jiff::fmt::rfc2822::parse(date).ok());
    Ok(parsed.map_or(0, |zoned| zoned.timestamp().as_second()))
}
