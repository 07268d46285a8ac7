//! A certificate authority, and certificates with something wrong about them.

use millrace_model::Identity;
use millrace_node::credentials::{KeyMaterial, new_key};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

pub(crate) struct Authority {
    pub(crate) root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = new_key().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, identity: &Identity) -> KeyMaterial {
        self.issue_with(identity, |_| ())
    }

    pub(crate) fn issue_with(&self, identity: &Identity, change: impl FnOnce(&mut CertificateParams)) -> KeyMaterial {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().as_str().try_into().unwrap())];
        change(&mut params);
        let key = new_key().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        KeyMaterial {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            bundle: vec![self.root.clone()],
            revoked: Vec::new(),
        }
    }
}
