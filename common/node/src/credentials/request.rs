//! Makes keys and certificate requests, and says when to ask again.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

/// How far from the half of a certificate's life its renewal may fall, as a part of that life: enough to spread
/// what was issued in one burst over an hour or two of a day.
const SPREAD: f64 = 0.05;

/// A new ECDSA P-256 key.
pub fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// A certificate request for `key`, DER. It names nobody: who it is for is decided by who asks.
pub fn csr(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// When to renew a certificate: at half its life, give or take a twentieth of it by `jitter` from 0 to 1.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
    not_before + life.mul_f64(0.5 + SPREAD * (2.0 * jitter - 1.0))
}
