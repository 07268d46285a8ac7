//! Holds by what a peer's certificate is believed: the roots, and who was taken out.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Revoked, Unusable, material, peer::parse, tls};
use crate::wire::mesh;

/// The most roots that are taken: two while one takes another's place, and room for meshes that are joined.
const MAX_ROOTS: usize = 16;

/// By what peers are believed, as the control plane says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Every root that a peer may chain to.
    pub bundle: Vec<CertificateDer<'static>>,
    /// The SHA-256 of the root that signs now.
    pub issuer_sha256: [u8; 32],
    /// Whose certificates are not believed although they chain to one.
    pub revoked: Vec<Revoked>,
}

impl Trust {
    /// The hash by which the bundle is named: over the roots' DER, in its order.
    pub fn bundle_sha256(&self) -> [u8; 32] {
        self.bundle.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into()
    }
}

impl TryFrom<mesh::Trust> for Trust {
    type Error = Unusable;

    fn try_from(message: mesh::Trust) -> Result<Self, Unusable> {
        let mesh::Trust { bundle_der, issuer_sha256, revoked } = message;
        if bundle_der.is_empty() || bundle_der.len() > MAX_ROOTS {
            return Err(Unusable::NoRoot);
        }
        let bundle: Vec<CertificateDer<'static>> = bundle_der.into_iter().map(CertificateDer::from).collect();
        for root in &bundle {
            anchor_from_trusted_cert(root).map_err(Unusable::Root)?;
        }
        let issuer_sha256 = issuer_sha256.as_slice().try_into().map_err(|_length| Unusable::NoRoot)?;
        Ok(Self { bundle, issuer_sha256, revoked: material::revoked(&revoked)? })
    }
}

impl From<&Trust> for mesh::Trust {
    fn from(trust: &Trust) -> Self {
        let Trust { bundle, issuer_sha256, revoked } = trust;
        Self {
            bundle_der: bundle.iter().map(|root| root.to_vec()).collect(),
            issuer_sha256: issuer_sha256.to_vec(),
            revoked: revoked.iter().map(mesh::Revoked::from).collect(),
        }
    }
}

/// The SHA-256 of the root in `bundle` that this chain leads to; None where it leads to none of them.
pub fn issuer_sha256(chain: &[CertificateDer<'_>], bundle: &[CertificateDer<'_>]) -> Option<[u8; 32]> {
    let (leaf, others) = chain.split_first()?;
    let not_before = parse(leaf).ok()?.validity().not_before.timestamp();
    // Who signed it does not change as it runs out.
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(not_before).ok()?));
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    let algorithms = tls::provider().signature_verification_algorithms;
    let signed = |root: &&CertificateDer<'_>| {
        anchor_from_trusted_cert(root).is_ok_and(|anchor| {
            let usage = KeyUsage::client_auth();
            leaf.verify_for_usage(algorithms.all, &[anchor], others, at, usage, None, None).is_ok()
        })
    };
    bundle.iter().find(signed).map(|root| Sha256::digest(root).into())
}
