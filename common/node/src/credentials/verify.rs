//! Verifies a peer's certificates: its chain by webpki, then whom it names.

use millrace_model::{Identity, identity::ROOT_NAMESPACE};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Expect, Refusal, Revoked, Unusable, peer::parse, peer_identity};

/// The longest chain looked at: leaf, two intermediates, and room for old and new root while they rotate.
pub(super) const MAX_CHAIN: usize = 6;

/// The service account that a control plane's certificate names. Whoever may make one elsewhere than in the root namespace could call one like it.
const CONTROL: &str = "millrace-control";

/// Checks a peer, at either end of TLS.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// What is known of the peer before it speaks.
#[derive(Debug)]
pub(super) enum Trust {
    /// The roots, who is not believed although they vouch for it, and whom they must vouch for.
    Roots(Vec<TrustAnchor<'static>>, Vec<Revoked>, Expect),
    /// That it is a control plane, under one of these roots.
    ControlOf(Vec<TrustAnchor<'static>>),
    /// That it is a control plane, under a root whose DER has this SHA-256.
    ControlUnder([u8; 32]),
}

/// The roots as anchors.
pub(super) fn anchors(bundle: &[CertificateDer<'_>]) -> Result<Vec<TrustAnchor<'static>>, Unusable> {
    if bundle.is_empty() {
        return Err(Unusable::NoRoot);
    }
    bundle.iter().map(|root| Ok(anchor_from_trusted_cert(root).map_err(Unusable::Root)?.to_owned())).collect()
}

/// What a peer shows, when, and for which end.
struct Shown<'c> {
    leaf: &'c CertificateDer<'c>,
    others: &'c [CertificateDer<'c>],
    usage: KeyUsage,
    now: UnixTime,
}

impl Verifier {
    fn check(&self, shown: &Shown<'_>) -> Result<(), Refusal> {
        if shown.others.len() >= MAX_CHAIN {
            return Err(Refusal::ChainTooLong);
        }
        match &self.trust {
            Trust::Roots(roots, revoked, expect) => {
                let identity = self.identity(shown, roots)?;
                is_not_revoked(shown.leaf, revoked)?;
                is_expected(identity, expect)
            }
            Trust::ControlOf(roots) => is_control(self.identity(shown, roots)?),
            Trust::ControlUnder(sha256) => {
                let hash = |c: &CertificateDer<'_>| <[u8; 32]>::from(Sha256::digest(c.as_ref()));
                let root = shown.others.iter().find(|c| hash(c) == *sha256).ok_or(Refusal::NotPinned)?;
                if !parse(root)?.is_ca() {
                    return Err(Refusal::NotPinned);
                }
                let anchor = anchor_from_trusted_cert(root).map_err(named)?;
                is_control(self.identity(shown, &[anchor])?)
            }
        }
    }

    /// Whom the leaf names, once it is shown to chain to one of `roots`.
    fn identity(&self, shown: &Shown<'_>, roots: &[TrustAnchor<'_>]) -> Result<Identity, Refusal> {
        let Shown { leaf, others, usage, now } = shown;
        let certificate = EndEntityCert::try_from(*leaf).map_err(named)?;
        certificate.verify_for_usage(self.algorithms.all, roots, others, *now, *usage, None, None).map_err(named)?;
        peer_identity(std::slice::from_ref(*leaf))
    }

    fn signed(&self, message: &[u8], by: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Signed {
        verify_tls13_signature(message, by, dss, &self.algorithms)
    }
}

type Signed = Result<HandshakeSignatureValid, Error>;

/// Ask after the chain was verified: a serial number says something of whom it was issued to by who signed it alone.
pub fn is_not_revoked(leaf: &CertificateDer<'_>, revoked: &[Revoked]) -> Result<(), Refusal> {
    if revoked.is_empty() {
        return Ok(());
    }
    let leaf = parse(leaf)?;
    let not_before = u64::try_from(leaf.validity().not_before.timestamp()).unwrap_or_default();
    let is_of = |revoked: &Revoked| leaf.raw_serial().starts_with(&revoked.mark) && not_before < revoked.before_unix;
    if revoked.iter().any(is_of) { Err(Refusal::Revoked) } else { Ok(()) }
}

fn is_expected(got: Identity, expect: &Expect) -> Result<(), Refusal> {
    let domain = match expect {
        Expect::Identity(identity) => &identity.trust_domain,
        Expect::AnyInTrustDomain(domain) => domain,
    };
    if got.trust_domain != *domain {
        return Err(Refusal::OtherTrustDomain { expected: domain.clone(), got: got.trust_domain });
    }
    match expect {
        Expect::Identity(expected) if *expected != got => {
            Err(Refusal::OtherIdentity { expected: expected.clone(), got })
        }
        Expect::Identity(_) | Expect::AnyInTrustDomain(_) => Ok(()),
    }
}

/// Every workload's certificate chains to the pinned root: without this, a pod in between could take the node's token.
fn is_control(got: Identity) -> Result<(), Refusal> {
    if *got.service_account == *CONTROL && *got.namespace == *ROOT_NAMESPACE {
        Ok(())
    } else {
        Err(Refusal::NotControl(got))
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "webpki's enum is open, and its own words serve for the rest")]
fn named(error: webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => Refusal::Expired,
        E::CertNotValidYet { .. } => Refusal::NotYetValid,
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Refusal::NotChained,
        E::CaUsedAsEndEntity => Refusal::CaAsLeaf,
        E::RequiredEkuNotFoundContext(_) => Refusal::Purpose,
        E::BadDer => Refusal::Unparsable,
        other => Refusal::Invalid(other.to_string()),
    }
}

/// Not reached: no configuration of ours offers TLS 1.2.
fn not_tls12() -> Signed {
    Err(Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(&Shown { leaf, others, usage: KeyUsage::server_auth(), now })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Signed {
        not_tls12()
    }

    fn verify_tls13_signature(&self, text: &[u8], by: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Signed {
        self.signed(text, by, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a hint would only tell a scanner what we are.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(&Shown { leaf, others, usage: KeyUsage::client_auth(), now })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Signed {
        not_tls12()
    }

    fn verify_tls13_signature(&self, text: &[u8], by: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Signed {
        self.signed(text, by, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
