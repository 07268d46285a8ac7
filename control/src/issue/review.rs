//! Knows a node by the token of its agent's service account: the API server says whose it is, and on which node its pod runs.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use super::Refusal;
use crate::world::Settings;

/// What the agent's token is made for: one that was made for another service opens nothing here.
pub const AUDIENCE: &str = "millrace.dev/control";
/// The agent's service account, in the root namespace.
const ACCOUNT: &str = "millrace-agent";
/// Where the API server says which node the token's pod runs on.
const NODE: &str = "authentication.kubernetes.io/node-name";
/// A longer text is no token: an API server's are one to two kilobytes.
const MAX_TOKEN: usize = 16 * 1024;
/// A review that takes longer has failed.
const CALL: Duration = Duration::from_secs(5);

/// Asks the API server about tokens.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    user: String,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("user", &self.user).finish_non_exhaustive()
    }
}

/// True for a text that may be a service account's token: three parts, which a join token has not.
pub fn may_be_token(text: &str) -> bool {
    text.len() <= MAX_TOKEN && !text.starts_with("v1.") && text.split('.').count() == 3
}

impl Reviewer {
    /// One that takes tokens of the agent's service account in the mesh's root namespace.
    pub fn new(client: Client, settings: &Settings) -> Self {
        Self { client, user: format!("system:serviceaccount:{}:{ACCOUNT}", settings.root_namespace) }
    }

    /// The node that this token's pod runs on.
    pub async fn node_of(&self, token: &str) -> Result<Arc<str>, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = timeout(CALL, reviews.create(&params, &review)).await;
        let away = |why: String| Refusal::Internal(format!("the API server did not review the token: {why}"));
        let reviewed = answer.map_err(|_late| away("it took too long".to_owned()))?.map_err(|e| away(e.to_string()))?;
        node_in(&reviewed.status.unwrap_or_default(), &self.user)
    }
}

/// The node, by what the API server says of the token. Pure.
fn node_in(status: &TokenReviewStatus, account: &str) -> Result<Arc<str>, Refusal> {
    if status.authenticated != Some(true) {
        return Err(Refusal::TokenNotAuthentic);
    }
    // An API server that knows no audiences answers with none: it has not checked what the token is for.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::TokenNotAuthentic);
    }
    let user = status.user.clone().unwrap_or_default();
    if user.username.as_deref() != Some(account) {
        return Err(Refusal::TokenOfAnother(user.username.unwrap_or_default().into()));
    }
    let node = user.extra.as_ref().and_then(|extra| extra.get(NODE)).map(Vec::as_slice);
    match node {
        Some([node]) if !node.is_empty() => Ok(node.as_str().into()),
        Some(_) | None => Err(Refusal::TokenOfNoNode),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{AUDIENCE, NODE, TokenReviewStatus, may_be_token, node_in};
    use crate::issue::Refusal;

    const AGENT: &str = "system:serviceaccount:millrace-system:millrace-agent";

    fn node(status: &Value) -> Result<std::sync::Arc<str>, Refusal> {
        let status: TokenReviewStatus = serde_json::from_value(status.clone()).unwrap_or_default();
        node_in(&status, AGENT)
    }

    fn good() -> Value {
        json!({"authenticated": true, "audiences": [AUDIENCE], "user": {"username": AGENT, "extra": {NODE: ["a"]}}})
    }

    fn with(path: &str, value: Value) -> Value {
        let mut status = good();
        *status.pointer_mut(path).unwrap() = value;
        status
    }

    #[test]
    fn an_agents_token_names_the_node_of_its_pod() {
        assert_eq!(node(&good()), Ok("a".into()));
    }

    #[test]
    fn every_other_token_is_refused_by_name() {
        assert_eq!(node(&with("/authenticated", json!(false))), Err(Refusal::TokenNotAuthentic));
        assert_eq!(node(&with("/audiences", json!(["other"]))), Err(Refusal::TokenNotAuthentic));
        assert_eq!(node(&with("/audiences", json!(null))), Err(Refusal::TokenNotAuthentic));
        let other = "system:serviceaccount:shop:web";
        assert_eq!(node(&with("/user/username", json!(other))), Err(Refusal::TokenOfAnother(other.into())));
        assert_eq!(node(&with("/user/extra", json!({}))), Err(Refusal::TokenOfNoNode));
    }

    #[test]
    fn a_join_token_is_no_service_accounts_token() {
        assert!(may_be_token("eyJhbGciOi.eyJhdWQiOi.c2lnbmF0dXJl"));
        assert!(!may_be_token("v1.a.root.secret") && !may_be_token("v1.a.secret") && !may_be_token("x"));
    }
}
