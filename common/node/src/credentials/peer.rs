//! Reads from a certificate whom it names and when it holds. Says nothing of whether to believe it.

use std::time::{Duration, SystemTime};

use millrace_model::Identity;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::Refusal;

/// Whom the first certificate of `chain` names: its one URI, parsed strictly. Ask after the chain was verified.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
    let leaf = parse(chain.first().ok_or(Refusal::NoCertificate)?)?;
    let names = leaf.subject_alternative_name().map_err(|why| Refusal::Invalid(why.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => uri.parse().map_err(Refusal::NotSpiffe),
        [] => Err(Refusal::NoUri),
        [_, _, ..] => Err(Refusal::ManyUris(uris.len())),
    }
}

/// From when until when a certificate holds.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Refusal> {
    let parsed = parse(certificate)?;
    let at = |seconds: i64| {
        let offset = Duration::from_secs(seconds.unsigned_abs());
        let time = match seconds {
            0.. => SystemTime::UNIX_EPOCH.checked_add(offset),
            _ => SystemTime::UNIX_EPOCH.checked_sub(offset),
        };
        time.ok_or_else(|| Refusal::Invalid("a time out of bounds".to_owned()))
    };
    let validity = parsed.validity();
    Ok((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
}

pub(super) fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Refusal> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(Refusal::Unparsable),
    }
}
