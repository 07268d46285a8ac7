//! Holds the root: made at first start, or given as `root.pem` and `root.key`. Signs leaves; is never sent anywhere.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millrace_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use x509_parser::parse_x509_certificate;

use super::secret::Pair;
use crate::{store, world::Settings};

/// The certificates that peers may chain to; the key's own among them. More than one while the root is being changed.
const CERTIFICATES: &str = "root.pem";
/// The root's private key.
const KEY: &str = "root.key";
/// Ten years, as other meshes' roots: a root is changed by adding the next to the bundle, long before.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How far a peer's clock may be behind.
const SKEW: Duration = Duration::from_secs(60);
/// 127 bits: positive, and at most the 20 bytes that RFC 5280, section 4.1.2.2, allows.
const SERIAL: usize = 16;

/// The mesh's certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_not_after: SystemTime,
    bundle: Vec<CertificateDer<'static>>,
    /// What a peer needs to get from a leaf to the root.
    intermediates: Vec<CertificateDer<'static>>,
    leaf_lifetime: Duration,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file can't be read or written.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of the two files is there and the other is not.
    #[error("{there} is there but {missing} is not: give both, or neither to have them made")]
    Half {
        /// The one that is there.
        there: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A signature could not be made.
    #[error("could not sign")]
    Sign(#[from] rcgen::Error),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
}

impl Authority {
    /// The authority of this state directory, which is made if there is none.
    pub fn open(state: &Path, settings: &Settings, leaf_lifetime: Duration, now: Duration) -> Result<Self, Fault> {
        let (certificates, key) = (state.join(CERTIFICATES), state.join(KEY));
        match (exists(&certificates)?, exists(&key)?) {
            (true, true) => Self::load(&certificates, &key, leaf_lifetime),
            (false, false) => {
                make(&certificates, &key, settings, now)?;
                Self::load(&certificates, &key, leaf_lifetime)
            }
            (true, false) => Err(Fault::Half { there: certificates, missing: key }),
            (false, true) => Err(Fault::Half { there: key, missing: certificates }),
        }
    }

    fn load(certificates: &Path, key: &Path, leaf_lifetime: Duration) -> Result<Self, Fault> {
        let unfit = |path: &Path, why: &str| Fault::Unfit { path: path.to_owned(), why: why.to_owned() };
        let pem = read(key)?;
        let pair = KeyPair::from_pem(&pem).map_err(|error| unfit(key, &format!("no private key: {error}")))?;
        let pem = read(certificates)?;
        let bundle: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| unfit(certificates, &format!("not PEM certificates: {error}")))?;
        let spki = pair.subject_public_key_info();
        let mut root = None;
        for der in &bundle {
            let Ok((_, parsed)) = parse_x509_certificate(der) else {
                return Err(unfit(certificates, "it holds something that is no certificate"));
            };
            if !parsed.is_ca() {
                return Err(unfit(certificates, "it holds a certificate that is no authority's"));
            }
            if root.is_none() && parsed.public_key().raw == spki {
                let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
                root = Some((der.clone(), SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
            }
        }
        let Some((root, root_not_after)) = root else {
            return Err(unfit(certificates, "none of its certificates is the key's"));
        };
        let issuer = rcgen::Issuer::from_ca_cert_der(&root, pair)?;
        Ok(Self { issuer, root, root_not_after, bundle, intermediates: Vec::new(), leaf_lifetime })
    }

    /// The authority of a key that was given: a root, or an intermediate with what leads from it to one of `authorities`.
    pub fn given(pair: &Pair, leaf_lifetime: Duration) -> Result<Self, Fault> {
        let place = || PathBuf::from("the Secret");
        let unfit = |why: String| Fault::Unfit { path: place(), why };
        let key = KeyPair::from_pem(&pair.key).map_err(|error| unfit(format!("tls.key is no private key: {error}")))?;
        let chain = certificates(&pair.certificates).map_err(|why| unfit(format!("tls.crt {why}")))?;
        let bundle = certificates(&pair.authorities).map_err(|why| unfit(format!("ca.crt {why}")))?;
        let signer = chain.first().ok_or_else(|| unfit("tls.crt holds no certificate".to_owned()))?;
        let root = bundle.first().ok_or_else(|| unfit("ca.crt holds no certificate".to_owned()))?.clone();
        let (_, parsed) = parse_x509_certificate(signer).map_err(|error| unfit(format!("tls.crt: {error}")))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unfit("the first certificate in tls.crt is not the key's".to_owned()));
        }
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let issuer = rcgen::Issuer::from_ca_cert_der(signer, key)?;
        let intermediates = chain.iter().filter(|one| !bundle.contains(one)).cloned().collect();
        let root_not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(Self { issuer, root, root_not_after, bundle, intermediates, leaf_lifetime })
    }

    /// A new root, as it is kept in a Secret.
    pub fn new_root(settings: &Settings, now: Duration) -> Result<Pair, Fault> {
        let (certificates, key) = make_pem(settings, now)?;
        Ok(Pair { authorities: certificates.clone(), certificates, key })
    }

    /// What stands between a leaf and the root, nearest to the leaf first.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The root that peers and joining nodes know.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What tokens pin.
    pub fn root_sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.root).into()
    }

    /// Every certificate that peers may chain to.
    pub fn bundle(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// When the root runs out, in seconds since 1970.
    pub fn root_expires_unix(&self) -> u64 {
        self.root_not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// How long a leaf lives.
    pub fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }

    /// A certificate that says: who holds this key is `identity`. For both ends of TLS, from a minute ago.
    pub fn leaf(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        now: Duration,
    ) -> Result<CertificateDer<'static>, Fault> {
        let now = SystemTime::UNIX_EPOCH + now;
        let mut params = CertificateParams::default();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + self.leaf_lifetime).min(self.root_not_after).into();
        params.serial_number = Some(serial()?);
        // The subject is empty, so the SAN is critical (RFC 5280, section 4.2.1.6); and the only one (X509-SVID, section 2).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.into())
    }
}

/// Authorities' certificates in PEM, or what is wrong with them.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM certificates: {error}"))?;
    let is_authority = |der: &CertificateDer<'_>| parse_x509_certificate(der).is_ok_and(|(_, parsed)| parsed.is_ca());
    if all.iter().all(is_authority) { Ok(all) } else { Err("holds a certificate that is no authority's".to_owned()) }
}

fn make(certificates: &Path, key: &Path, settings: &Settings, now: Duration) -> Result<(), Fault> {
    let (root, pair) = make_pem(settings, now)?;
    // The key first: a crash between the two is found at the next start, and told.
    write(key, pair.as_bytes())?;
    write(certificates, root.as_bytes())
}

/// A new root and its key.
fn make_pem(settings: &Settings, now: Duration) -> Result<(String, String), Fault> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let now = SystemTime::UNIX_EPOCH + now;
    let mut params = CertificateParams::default();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Millrace");
    params.distinguished_name.push(DnType::CommonName, &*settings.trust_domain);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{}", settings.trust_domain).try_into()?)];
    // It signs leaves and nothing that signs.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&pair)?;
    Ok((root.pem(), pair.serialize_pem()))
}

fn serial() -> Result<SerialNumber, Fault> {
    let mut bytes = [0; SERIAL];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes).map_err(|_none| Fault::Random)?;
    if let Some(first) = bytes.first_mut() {
        // Positive, and of full length.
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn exists(path: &Path) -> Result<bool, Fault> {
    path.try_exists().map_err(|source| Fault::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|source| Fault::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    store::write(path, bytes).map_err(|source| Fault::File { path: path.to_owned(), source })
}
