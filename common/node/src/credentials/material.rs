//! Holds an identity's certificate, key and roots, and carries them between agent and proxy.

use std::fmt;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::wire::{mesh, node};

/// What one identity needs to prove itself and to check its peers.
pub struct KeyMaterial {
    /// Its certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, as PKCS#8.
    pub key: PrivateKeyDer<'static>,
    /// Every root that a peer may chain to.
    pub bundle: Vec<CertificateDer<'static>>,
    /// Whose certificates are not believed although they chain to one.
    pub revoked: Vec<Revoked>,
}

/// A node that was taken out of the mesh: no certificate that was issued to it before then, for itself or for a workload of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// How the serial number of each of them begins.
    pub mark: [u8; MARK],
    /// In seconds since 1970. What was issued later was issued to a node that has joined anew.
    pub before_unix: u64,
}

/// As many bytes of a serial number say to which node a certificate was issued; the rest is random.
pub const MARK: usize = 8;

/// The most that are taken: each is compared with every peer's certificate. A control plane keeps no more.
pub const MAX_REVOKED: usize = 1024;

/// Those of a message. A mark of another length would match nothing, and more than there may be are a fault: the message is
/// refused rather than some peers believed.
pub(super) fn revoked(message: &[mesh::Revoked]) -> Result<Vec<Revoked>, Unusable> {
    if message.len() > MAX_REVOKED {
        return Err(Unusable::Revoked);
    }
    let read = |mesh::Revoked { mark, before_unix }: &mesh::Revoked| {
        let mark = mark.as_slice().try_into().map_err(|_length| Unusable::Revoked)?;
        Ok(Revoked { mark, before_unix: *before_unix })
    };
    message.iter().map(read).collect()
}

/// Why no TLS configuration can be made of some key material.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It has no certificate.
    #[error("no certificate")]
    NoChain,
    /// It has no key.
    #[error("no key")]
    NoKey,
    /// It has no root, so that no peer could be believed.
    #[error("no root certificate")]
    NoRoot,
    /// A root is not a certificate.
    #[error("a root is not a certificate")]
    Root(#[source] webpki::Error),
    /// What it says of revoked nodes can't be read, or is more than may be.
    #[error("the list of revoked nodes is not one of at most {MAX_REVOKED} marks")]
    Revoked,
    /// rustls does not take the certificate and key.
    #[error("certificate and key are not usable together")]
    Tls(#[from] rustls::Error),
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, key: _, bundle, revoked } = self;
        f.debug_struct("KeyMaterial")
            .field("identity", &super::peer_identity(chain).map(String::from))
            .field("n_chain", &chain.len())
            .field("n_bundle", &bundle.len())
            .field("n_revoked", &revoked.len())
            .finish_non_exhaustive()
    }
}

impl Clone for KeyMaterial {
    fn clone(&self) -> Self {
        let Self { chain, key, bundle, revoked } = self;
        Self { chain: chain.clone(), key: key.clone_key(), bundle: bundle.clone(), revoked: revoked.clone() }
    }
}

impl From<&Revoked> for mesh::Revoked {
    fn from(Revoked { mark, before_unix }: &Revoked) -> Self {
        Self { mark: mark.to_vec(), before_unix: *before_unix }
    }
}

impl From<&KeyMaterial> for node::KeyMaterial {
    fn from(material: &KeyMaterial) -> Self {
        let KeyMaterial { chain, key, bundle, revoked } = material;
        let bytes = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|c| c.to_vec().into()).collect();
        Self {
            chain_der: bytes(chain),
            key_pkcs8_der: key.secret_der().to_vec().into(),
            bundle_der: bytes(bundle),
            revoked: revoked.iter().map(mesh::Revoked::from).collect(),
        }
    }
}

impl TryFrom<node::KeyMaterial> for KeyMaterial {
    type Error = Unusable;

    fn try_from(message: node::KeyMaterial) -> Result<Self, Unusable> {
        let node::KeyMaterial { chain_der, key_pkcs8_der, bundle_der, revoked: taken_out } = message;
        if chain_der.is_empty() {
            return Err(Unusable::NoChain);
        }
        if key_pkcs8_der.is_empty() {
            return Err(Unusable::NoKey);
        }
        if bundle_der.is_empty() {
            return Err(Unusable::NoRoot);
        }
        let certificates = |der: Vec<bytes::Bytes>| der.into_iter().map(|c| CertificateDer::from(c.to_vec())).collect();
        Ok(Self {
            chain: certificates(chain_der),
            key: PrivatePkcs8KeyDer::from(key_pkcs8_der.to_vec()).into(),
            bundle: certificates(bundle_der),
            revoked: revoked(&taken_out)?,
        })
    }
}
