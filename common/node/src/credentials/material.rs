//! Holds an identity's certificate, key and roots, and carries them between agent and proxy.

use std::fmt;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::wire::node;

/// What one identity needs to prove itself and to check its peers.
pub struct KeyMaterial {
    /// Its certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, as PKCS#8.
    pub key: PrivateKeyDer<'static>,
    /// Every root that a peer may chain to.
    pub bundle: Vec<CertificateDer<'static>>,
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
    /// rustls does not take the certificate and key.
    #[error("certificate and key are not usable together")]
    Tls(#[from] rustls::Error),
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, key: _, bundle } = self;
        f.debug_struct("KeyMaterial")
            .field("identity", &super::peer_identity(chain).map(String::from))
            .field("n_chain", &chain.len())
            .field("n_bundle", &bundle.len())
            .finish_non_exhaustive()
    }
}

impl Clone for KeyMaterial {
    fn clone(&self) -> Self {
        let Self { chain, key, bundle } = self;
        Self { chain: chain.clone(), key: key.clone_key(), bundle: bundle.clone() }
    }
}

impl From<&KeyMaterial> for node::KeyMaterial {
    fn from(material: &KeyMaterial) -> Self {
        let KeyMaterial { chain, key, bundle } = material;
        let bytes = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|c| c.to_vec().into()).collect();
        Self { chain_der: bytes(chain), key_pkcs8_der: key.secret_der().to_vec().into(), bundle_der: bytes(bundle) }
    }
}

impl TryFrom<node::KeyMaterial> for KeyMaterial {
    type Error = Unusable;

    fn try_from(message: node::KeyMaterial) -> Result<Self, Unusable> {
        let node::KeyMaterial { chain_der, key_pkcs8_der, bundle_der } = message;
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
        })
    }
}
