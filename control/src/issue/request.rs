//! Reads a certificate request for its public key, and for nothing else: what it asks to be named is not even looked at.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

/// A request with a P-256 key and nothing else is some 250 bytes.
const MAX_REQUEST: usize = 4096;

/// A public key whose owner showed that it has the private one.
#[derive(Debug)]
pub struct PublicKey(SubjectPublicKeyInfo);

/// Why a request is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Too long.
    #[error("longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// Not PKCS #10.
    #[error("not a PKCS #10 certificate request")]
    Malformed,
    /// Signed by another key than the one it carries.
    #[error("its signature is not by its own key")]
    Signature,
    /// Another kind of key.
    #[error("its key is not ECDSA P-256")]
    Key,
}

impl PublicKey {
    /// The key of this request, in DER.
    pub fn of_request(der: &[u8]) -> Result<Self, Unfit> {
        if der.len() > MAX_REQUEST {
            return Err(Unfit::TooLong);
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(Unfit::Malformed) };
        let key = request.certification_request_info.subject_pki.raw;
        let Ok(key) = SubjectPublicKeyInfo::from_der(key) else { return Err(Unfit::Key) };
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 {
            return Err(Unfit::Key);
        }
        match request.verify_signature() {
            Ok(()) => Ok(Self(key)),
            Err(_) => Err(Unfit::Signature),
        }
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}
