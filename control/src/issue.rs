//! Issues certificates: to a node for its token, to an identity for the node it runs on. What a certificate says comes from the
//! authenticated node and the World; of a request only the public key is read.

use std::{sync::Arc, time::Duration};

use millrace_model::{Identity, identity};

use crate::{scope::Edition, world::Settings};

pub mod authority;
pub mod bundle;
pub mod given;
pub mod request;
pub mod review;
pub mod revocation;
pub mod roots;
pub mod secret;
pub mod token;

use authority::{Lifetimes, Wanted};
use request::PublicKey;
use roots::Roots;
use token::Tokens;

/// A node's service account is this and its name; Kubernetes allows it, and a user has no reason to choose it.
const NODE_PREFIX: &str = "node.";
/// The control plane's service account.
const CONTROL_ACCOUNT: &str = "millrace-control";

/// Why a request is refused. Each is told to the caller, logged and counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A call that needs a node's certificate came without any.
    #[error("this call needs the node's certificate")]
    NoCertificate,
    /// Its certificate is no node's.
    #[error("{0} is no node")]
    NotANode(Identity),
    /// The node was taken out of the mesh.
    #[error("node {0} is revoked; it joins again with a new token")]
    NodeRevoked(Arc<str>),
    /// The token is no token.
    #[error("the token is not v1.<node>.<root>.<secret>")]
    TokenMalformed,
    /// The token is for a mesh with another root.
    #[error("the token was made under another root certificate than this control plane's")]
    TokenOtherRoot,
    /// Nobody made this token, or it expired long since.
    #[error("this token is not known")]
    TokenUnknown,
    /// The token was made for another node than it names.
    #[error("the token was made for another node than {0}")]
    TokenOtherNode(Arc<str>),
    /// It was used.
    #[error("the token was used before")]
    TokenUsed,
    /// It is too late.
    #[error("the token has expired")]
    TokenExpired,
    /// The API server does not vouch for the token.
    #[error("the token is no service account's token for audience {}", review::AUDIENCE)]
    TokenNotAuthentic,
    /// It is another service account's.
    #[error("the token is {0}'s, and not the agent's")]
    TokenOfAnother(Arc<str>),
    /// It is bound to no pod on a node.
    #[error("the token is bound to no pod on a node; mount a projected one into the agent's pod")]
    TokenOfNoNode,
    /// The certificate request is none, or of another kind of key.
    #[error("the certificate request: {0}")]
    Request(#[from] request::Unfit),
    /// The identity asked for is none.
    #[error("the identity asked for: {0}")]
    IdentityMalformed(identity::Malformed),
    /// It is a node's or the control plane's: a pod that runs as it makes its node no other node.
    #[error("{0} is the mesh's own, whatever runs as it")]
    Reserved(Identity),
    /// No pod with this identity runs on the node, as far as the control plane knows.
    #[error("no pod on node {node} runs as {identity}")]
    NotHere {
        /// Who asked.
        node: Arc<str>,
        /// For what.
        identity: Identity,
    },
    /// Pods with this identity run there, none of them in the mesh.
    #[error("no pod of the mesh on node {node} runs as {identity}")]
    OutsideTheMesh {
        /// Who asked.
        node: Arc<str>,
        /// For what.
        identity: Identity,
    },
    /// The stream does not begin with `have`, or says what may not be said.
    #[error("the stream: {0}")]
    Stream(&'static str),
    /// The node has as many streams open as it may.
    #[error("node {0} has too many streams open")]
    TooManyStreams(Arc<str>),
    /// The control plane itself failed.
    #[error("the control plane failed: {0}")]
    Internal(String),
}

impl Refusal {
    /// Its name in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotANode(_) => "not_a_node",
            Self::NodeRevoked(_) => "node_revoked",
            Self::TokenMalformed => "token_malformed",
            Self::TokenOtherRoot => "token_other_root",
            Self::TokenUnknown => "token_unknown",
            Self::TokenOtherNode(_) => "token_other_node",
            Self::TokenUsed => "token_used",
            Self::TokenExpired => "token_expired",
            Self::TokenNotAuthentic => "token_not_authentic",
            Self::TokenOfAnother(_) => "token_of_another",
            Self::TokenOfNoNode => "token_of_no_node",
            Self::Request(_) => "certificate_request",
            Self::IdentityMalformed(_) => "identity_malformed",
            Self::Reserved(_) => "identity_reserved",
            Self::NotHere { .. } => "identity_not_here",
            Self::OutsideTheMesh { .. } => "identity_outside_the_mesh",
            Self::Stream(_) => "stream",
            Self::TooManyStreams(_) => "too_many_streams",
            Self::Internal(_) => "internal",
        }
    }
}

/// The identity of the control plane.
pub fn control_identity(settings: &Settings) -> Identity {
    Identity::new(&settings.trust_domain, &settings.root_namespace, CONTROL_ACCOUNT)
}

/// The identity of a node.
pub fn node_identity(settings: &Settings, node: &str) -> Identity {
    Identity::new(&settings.trust_domain, &settings.root_namespace, &format!("{NODE_PREFIX}{node}"))
}

/// The node whose identity this is.
pub fn node_of(settings: &Settings, identity: &Identity) -> Option<Arc<str>> {
    let Identity { trust_domain, namespace, service_account } = identity;
    let node = service_account.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty())?;
    (*trust_domain == settings.trust_domain && *namespace == settings.root_namespace).then(|| node.into())
}

/// True for an identity that no pod is given a certificate of.
pub fn is_reserved(settings: &Settings, identity: &Identity) -> bool {
    node_of(settings, identity).is_some() || *identity == control_identity(settings)
}

/// A certificate, just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Whom it names.
    pub identity: Identity,
    /// Leaf first, then what stands between it and the root: nothing, where the root signs itself.
    pub chain_der: Vec<Vec<u8>>,
}

/// Issues certificates.
#[derive(Debug)]
pub struct Issuer {
    /// What holds for the whole mesh.
    pub settings: Settings,
    /// The root that signs, those that are believed, and the nodes that are not.
    pub roots: Roots,
    /// What nodes join with.
    pub tokens: Tokens,
}

impl Issuer {
    /// A joining node's certificate, for a token that is spent by it. A request that is unfit spends none.
    pub fn join(&self, token: &str, csr: &[u8], now: Duration) -> Result<Issued, Refusal> {
        let key = PublicKey::of_request(csr)?;
        // The node pins the root that signed what it was shown: a token from before another root took over is of no use to it.
        let node = self.tokens.spend(token, self.roots.authority().root_sha256(), now)?;
        // A new token is a person's word that the node is to be trusted again; its old certificates are not.
        if self.roots.revoked().is_out(&node) {
            self.roots.readmit(&node).map_err(|error| Refusal::Internal(error.to_string()))?;
        }
        self.leaf(node_identity(&self.settings, &node), &node, &key, now)
    }

    /// A joining node's certificate, where somebody else said which node it is. That is no person's word: who was taken out stays out.
    pub fn join_as(&self, node: &str, csr: &[u8], now: Duration) -> Result<Issued, Refusal> {
        let key = PublicKey::of_request(csr)?;
        if self.roots.revoked().is_out(node) {
            return Err(Refusal::NodeRevoked(node.into()));
        }
        self.leaf(node_identity(&self.settings, node), node, &key, now)
    }

    /// A certificate for an identity that runs on `node` by this edition; the node's own, renewed, where none is asked for.
    pub fn issue(
        &self,
        node: &Arc<str>,
        identity: &str,
        csr: &[u8],
        (edition, now): (Option<&Edition>, Duration),
    ) -> Result<Issued, Refusal> {
        let key = PublicKey::of_request(csr)?;
        let own = node_identity(&self.settings, node);
        let identity = match identity {
            "" => own,
            text => {
                let asked: Identity = text.parse().map_err(Refusal::IdentityMalformed)?;
                if asked != own {
                    if is_reserved(&self.settings, &asked) {
                        return Err(Refusal::Reserved(asked));
                    }
                    runs_here(edition, node, &asked)?;
                }
                asked
            }
        };
        self.leaf(identity, node, &key, now)
    }

    fn leaf(&self, identity: Identity, node: &str, key: &PublicKey, now: Duration) -> Result<Issued, Refusal> {
        let (authority, revoked) = (self.roots.authority(), self.roots.revoked());
        let Lifetimes { leaf, node: own } = authority.lifetimes();
        let lifetime = if identity == node_identity(&self.settings, node) { own } else { leaf };
        let (mark, not_before_unix) = (revocation::mark(node), revoked.before_unix(node));
        let leaf = authority.leaf(&Wanted { identity: &identity, mark, lifetime, not_before_unix, now }, key);
        let leaf = leaf.map_err(|error| Refusal::Internal(error.to_string()))?;
        let chain = [leaf].into_iter().chain(authority.intermediates().iter().cloned());
        Ok(Issued { identity, chain_der: chain.map(|certificate| certificate.to_vec()).collect() })
    }
}

fn runs_here(edition: Option<&Edition>, node: &Arc<str>, identity: &Identity) -> Result<(), Refusal> {
    let own = edition.and_then(|edition| edition.on(node)).into_iter().flatten();
    let mut here = own.map(|(_, workload)| workload).filter(|workload| workload.identity == *identity).peekable();
    if here.peek().is_none() {
        return Err(Refusal::NotHere { node: node.clone(), identity: identity.clone() });
    }
    if here.all(|workload| !workload.membership.is_captured()) {
        return Err(Refusal::OutsideTheMesh { node: node.clone(), identity: identity.clone() });
    }
    Ok(())
}
