//! Names every reason for which a peer's certificates are refused.

use std::{error::Error, io, sync::Arc};

use millrace_model::{Identity, identity};
use rustls::{CertificateError, OtherError};

use super::verify::MAX_CHAIN;

/// Why a peer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It showed none.
    #[error("no certificate")]
    NoCertificate,
    /// It showed more than any chain of ours is long.
    #[error("a chain of more than {MAX_CHAIN} certificates")]
    ChainTooLong,
    /// Its chain ends at no root that is trusted, or a signature in it is wrong.
    #[error("the certificate does not chain to a trusted root")]
    NotChained,
    /// Issued to a node that was taken out since.
    #[error("the certificate was issued to a node that is revoked")]
    Revoked,
    /// Past its time.
    #[error("the certificate has expired")]
    Expired,
    /// Before its time: likely a clock is wrong.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// A root or intermediate shown as a peer's own.
    #[error("a CA's certificate is not a workload's")]
    CaAsLeaf,
    /// Made for another purpose than this end of TLS.
    #[error("the certificate is not for this purpose")]
    Purpose,
    /// Broken in some other way; what webpki says of it.
    #[error("the certificate is not valid: {0}")]
    Invalid(String),
    /// Not a certificate.
    #[error("not an X.509 certificate")]
    Unparsable,
    /// Without a URI, it names nobody.
    #[error("the certificate has no URI name")]
    NoUri,
    /// With two, it could be read as either (X509-SVID, section 2).
    #[error("the certificate has {0} URI names, not one")]
    ManyUris(usize),
    /// Its URI is no identity.
    #[error("the certificate's URI is no SPIFFE id of a workload")]
    NotSpiffe(#[source] identity::Malformed),
    /// Of another trust domain.
    #[error("the trust domain is {got}, not {expected}")]
    OtherTrustDomain {
        /// Whose certificates are taken.
        expected: Arc<str>,
        /// What the certificate says.
        got: Arc<str>,
    },
    /// Valid, but somebody else's.
    #[error("the peer is {got}, not {expected}")]
    OtherIdentity {
        /// Who was to be there.
        expected: Identity,
        /// Who is.
        got: Identity,
    },
    /// Valid, but not the control plane's.
    #[error("the peer is {0}, which is not a control plane")]
    NotControl(Identity),
    /// The chain has no root with the pinned hash.
    #[error("the chain has no root of the pinned hash")]
    NotPinned,
}

impl Refusal {
    /// One word for it, as it stands in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong => "chain_too_long",
            Self::NotChained => "not_chained",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::CaAsLeaf => "ca_as_leaf",
            Self::Purpose => "purpose",
            Self::Invalid(_) => "invalid",
            Self::Unparsable => "unparsable",
            Self::NoUri => "no_uri",
            Self::ManyUris(_) => "many_uris",
            Self::NotSpiffe(_) => "not_spiffe",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::OtherIdentity { .. } => "other_identity",
            Self::NotControl(_) => "not_control",
            Self::NotPinned => "not_pinned",
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// The Refusal behind a failed handshake, from rustls's error or the `io::Error` around it; None where the
/// handshake failed for another reason, or the refusal was the other side's.
pub fn refusal<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        next = match (error.downcast_ref::<rustls::Error>(), error.downcast_ref::<io::Error>()) {
            (Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))), _) => {
                return why.downcast_ref::<Refusal>();
            }
            (Some(rustls::Error::NoCertificatesPresented), _) => return Some(&Refusal::NoCertificate),
            // An io::Error's source() is its inner error's source: it skips the inner error itself.
            (_, Some(io)) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            _ => error.source(),
        };
    }
    None
}
