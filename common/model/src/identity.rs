//! Parses and prints workload identities, strictly, as SPIFFE ids.
//!
//! Follows the SPIFFE-ID specification, sections 2.1 to 2.4: scheme, trust domain and path have one
//! spelling each; nothing is decoded, folded or trimmed.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest SPIFFE id accepted, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

/// The mesh's root namespace: policies in it apply everywhere, and the control plane's and the nodes' identities are in it.
/// One constant: a node that joins must know it before anybody it trusts could tell it.
pub const ROOT_NAMESPACE: &str = "millrace-system";

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Identity {
    /// The trust domain, lower case.
    pub trust_domain: Arc<str>,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The service account within the namespace.
    pub service_account: Arc<str>,
}

/// Why a text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Over [`MAX_SPIFFE_ID`] bytes.
    #[error("longer than {MAX_SPIFFE_ID} bytes")]
    TooLong,
    /// Not `spiffe://`, in lower case.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// Empty, or a byte outside `a-z 0-9 . - _`.
    #[error("the trust domain is empty or has a byte other than a-z, 0-9, '.', '-', '_'")]
    TrustDomain,
    /// Not exactly `/ns/<namespace>/sa/<service account>`.
    #[error("the path is not /ns/<namespace>/sa/<service account>")]
    Path,
}

impl Identity {
    /// The identity from its three parts, which are taken as they are.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: service_account.into() }
    }
}

impl FromStr for Identity {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(Malformed::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(Malformed::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(Malformed::Path)?;
        if !is_trust_domain(trust_domain) {
            return Err(Malformed::TrustDomain);
        }
        let mut segments = path.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if is_segment(namespace) && is_segment(account) =>
            {
                Ok(Self::new(trust_domain, namespace, account))
            }
            _ => Err(Malformed::Path),
        }
    }
}

/// True for a trust domain as SPIFFE-ID section 2.1 spells it.
pub fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// Kubernetes names: narrower than SPIFFE's path segments on purpose, so that an id has one spelling.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl TryFrom<String> for Identity {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Malformed};

    #[test]
    fn an_identity_prints_as_it_was_parsed() {
        let text = "spiffe://cluster.local/ns/shop/sa/web";
        assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for (text, why) in [
            ("", Malformed::Scheme),
            ("SPIFFE://td/ns/a/sa/b", Malformed::Scheme),
            ("https://td/ns/a/sa/b", Malformed::Scheme),
            ("spiffe:///ns/a/sa/b", Malformed::TrustDomain),
            ("spiffe://TD/ns/a/sa/b", Malformed::TrustDomain),
            ("spiffe://td:443/ns/a/sa/b", Malformed::TrustDomain),
            ("spiffe://user@td/ns/a/sa/b", Malformed::TrustDomain),
            ("spiffe://td", Malformed::Path),
            ("spiffe://td/", Malformed::Path),
            ("spiffe://td/ns/a/sa/b/", Malformed::Path),
            ("spiffe://td/ns/a/sa/b/c", Malformed::Path),
            ("spiffe://td/ns//sa/b", Malformed::Path),
            ("spiffe://td/ns/a/sa/..", Malformed::Path),
            ("spiffe://td/ns/a%2f/sa/b", Malformed::Path),
            ("spiffe://td/ns/a/sa/b?x", Malformed::Path),
            ("spiffe://td/ns/a/sa/b#x", Malformed::Path),
            ("spiffe://td/ns/a/sa/b\0", Malformed::Path),
            (" spiffe://td/ns/a/sa/b", Malformed::Scheme),
        ] {
            assert_eq!(text.parse::<Identity>(), Err(why), "{text:?}");
        }
    }
}
