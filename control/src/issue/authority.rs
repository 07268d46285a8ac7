//! Holds the root: made at first start, or given as `root.pem` and `root.key`. Signs leaves; is never sent anywhere. Its successor
//! waits beside it as `next.key`, until it takes its place.

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

use super::{revocation::MARK, secret::Pair};
use crate::{store, world::Settings};

/// The certificates that peers may chain to; the key's own among them. More than one while the root is being changed.
const CERTIFICATES: &str = "root.pem";
/// The root's private key.
const KEY: &str = "root.key";
/// The key of the root that will sign next. Its certificate is in the bundle.
const NEXT: &str = "next.key";
/// Ten years, as other meshes' roots: a root is changed by adding the next to the bundle, long before.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How far a peer's clock may be behind.
pub(super) const SKEW: Duration = Duration::from_secs(60);
/// 127 bits: positive, and at most the 20 bytes that RFC 5280, section 4.1.2.2, allows. A leaf's begins with its node's mark; 64
/// random bits follow.
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
    next: Option<CertificateDer<'static>>,
    lifetimes: Lifetimes,
}

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A workload's.
    pub leaf: Duration,
    /// A node's own: as long as it may be away, and need no new token.
    pub node: Duration,
}

impl Lifetimes {
    /// The longest that any certificate lives.
    pub fn longest(&self) -> Duration {
        self.leaf.max(self.node)
    }
}

/// What a leaf is to say.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Whom it names.
    pub identity: &'w Identity,
    /// The mark of the node that it is issued to.
    pub mark: [u8; MARK],
    /// How long it lives.
    pub lifetime: Duration,
    /// It holds from no earlier than this, in seconds since 1970: what is older may be revoked.
    pub not_before_unix: u64,
    /// The time.
    pub now: Duration,
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
    /// More than nodes take.
    #[error("{0} roots would be believed at one time, of at most {max}", max = super::given::MAX_ROOTS)]
    TooManyRoots(usize),
}

impl Authority {
    /// The authority of this state directory, which is made if there is none.
    pub fn open(state: &Path, settings: &Settings, lifetimes: Lifetimes, now: Duration) -> Result<Self, Fault> {
        let (certificates, key) = (state.join(CERTIFICATES), state.join(KEY));
        match (exists(&certificates)?, exists(&key)?) {
            (true, true) => Self::load(state, lifetimes),
            (false, false) => {
                make(&certificates, &key, settings, now)?;
                Self::load(state, lifetimes)
            }
            (true, false) => Err(Fault::Half { there: certificates, missing: key }),
            (false, true) => Err(Fault::Half { there: key, missing: certificates }),
        }
    }

    /// The authority that is in this state directory.
    pub fn load(state: &Path, lifetimes: Lifetimes) -> Result<Self, Fault> {
        let (path, key) = (&state.join(CERTIFICATES), &state.join(KEY));
        let unfit = |why: String| Fault::Unfit { path: path.clone(), why };
        let key = key_of(key)?;
        let bundle = certificates(&read(path)?).map_err(|why| unfit(format!("it {why}")))?;
        let signer = |spki: &[u8]| bundle.iter().find(|root| is_of_key(root, spki)).cloned();
        let root = signer(&key.subject_public_key_info());
        let root = root.ok_or_else(|| unfit("none of its certificates is the key's".to_owned()))?;
        let next = state.join(NEXT);
        // A key without its certificate is what a crash left: it is made anew.
        let next = if exists(&next)? { signer(&key_of(&next)?.subject_public_key_info()) } else { None };
        let root_not_after = not_after(&root);
        let issuer = rcgen::Issuer::from_ca_cert_der(&root, key)?;
        Ok(Self { issuer, root, root_not_after, bundle, intermediates: Vec::new(), next, lifetimes })
    }

    /// The authority of a key that was given: a root, or an intermediate with what leads from it to one of `authorities`.
    pub fn given(pair: &Pair, lifetimes: Lifetimes) -> Result<Self, Fault> {
        let unfit = |why: String| Fault::Unfit { path: PathBuf::from("the Secret"), why };
        let key = KeyPair::from_pem(&pair.key).map_err(|error| unfit(format!("tls.key is no private key: {error}")))?;
        let chain = certificates(&pair.certificates).map_err(|why| unfit(format!("tls.crt {why}")))?;
        let bundle = certificates(&pair.authorities).map_err(|why| unfit(format!("ca.crt {why}")))?;
        let signer = chain.first().ok_or_else(|| unfit("tls.crt holds no certificate".to_owned()))?;
        if !is_of_key(signer, &key.subject_public_key_info()) {
            return Err(unfit("the first certificate in tls.crt is not the key's".to_owned()));
        }
        let intermediates: Vec<_> = chain.iter().filter(|one| !bundle.contains(one)).cloned().collect();
        let root = match intermediates.last() {
            None => Some(signer),
            Some(last) => bundle.iter().find(|root| has_signed(root, last)),
        };
        let root = root
            .ok_or_else(|| unfit("no certificate in ca.crt has signed the last one in tls.crt".to_owned()))?
            .clone();
        let root_not_after = not_after(signer).min(not_after(&root));
        let issuer = rcgen::Issuer::from_ca_cert_der(signer, key)?;
        Ok(Self { issuer, root, root_not_after, bundle, intermediates, next: None, lifetimes })
    }

    /// A new root, as it is kept in a Secret.
    pub fn new_root(settings: &Settings, now: Duration) -> Result<Pair, Fault> {
        let (key, root) = root(settings, now)?;
        Ok(Pair { authorities: root.pem(), certificates: root.pem(), key: key.serialize_pem() })
    }

    /// What stands between a leaf and the root, nearest to the leaf first.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// True where the same roots are believed, and the same one signs.
    pub fn is_same(&self, other: &Self) -> bool {
        self.signs_as(other) && self.bundle == other.bundle && self.next == other.next
    }

    /// True where the same key signs, under the same root.
    pub fn signs_as(&self, other: &Self) -> bool {
        let key = |one: &Self| one.issuer.key().public_key_raw().to_vec();
        key(self) == key(other) && self.root == other.root && self.intermediates == other.intermediates
    }

    /// The root that will sign once it is activated.
    pub fn next(&self) -> Option<&CertificateDer<'static>> {
        self.next.as_ref()
    }

    /// The root that peers and joining nodes know, of those in the bundle: what is signed now chains to it.
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

    /// How long certificates live.
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// A certificate that says: who holds this key is `identity`. For both ends of TLS, from a minute ago. Its serial number begins
    /// with the mark of the node that it is issued to.
    pub fn leaf(&self, wanted: &Wanted<'_>, key: &impl PublicKeyData) -> Result<CertificateDer<'static>, Fault> {
        let Wanted { identity, mark, lifetime, not_before_unix, now } = *wanted;
        let at = |since: Duration| SystemTime::UNIX_EPOCH + since;
        let mut params = CertificateParams::default();
        params.not_before = at(now.saturating_sub(SKEW).max(Duration::from_secs(not_before_unix))).into();
        params.not_after = at(now + lifetime).min(self.root_not_after).into();
        params.serial_number = Some(serial(Some(mark))?);
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

/// Puts a next root beside those in the bundle: its key, and once that is on the disk its certificate.
pub(super) fn add_next(
    state: &Path,
    bundle: &[CertificateDer<'static>],
    settings: &Settings,
    now: Duration,
) -> Result<(), Fault> {
    let (pair, root) = root(settings, now)?;
    write(&state.join(NEXT), pair.serialize_pem().as_bytes())?;
    let all: Vec<CertificateDer<'static>> = bundle.iter().cloned().chain([root.der().clone()]).collect();
    write(&state.join(CERTIFICATES), pem(&all).as_bytes())
}

/// Has the next root's key take the place of the key that signs, which is then gone.
pub(super) fn activate_next(state: &Path) -> Result<(), Fault> {
    let next = state.join(NEXT);
    store::rename(&next, &state.join(KEY)).map_err(|source| Fault::File { path: next, source })
}

/// Leaves these in the bundle.
pub(super) fn keep_only(state: &Path, kept: &[CertificateDer<'static>]) -> Result<(), Fault> {
    write(&state.join(CERTIFICATES), pem(kept).as_bytes())
}

/// Certificates, in PEM.
pub(crate) fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<pem::Pem> = certificates.iter().map(|c| pem::Pem::new("CERTIFICATE", c.to_vec())).collect();
    pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

fn key_of(path: &Path) -> Result<KeyPair, Fault> {
    let unfit = |error: rcgen::Error| Fault::Unfit { path: path.to_owned(), why: format!("no private key: {error}") };
    KeyPair::from_pem(&read(path)?).map_err(unfit)
}

/// Authorities' certificates in PEM, or what is wrong with them.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM certificates: {error}"))?;
    let is_authority = |der: &CertificateDer<'_>| parse_x509_certificate(der).is_ok_and(|(_, parsed)| parsed.is_ca());
    if all.iter().all(is_authority) { Ok(all) } else { Err("holds a certificate that is no authority's".to_owned()) }
}

fn is_of_key(certificate: &CertificateDer<'_>, spki: &[u8]) -> bool {
    parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| parsed.public_key().raw == spki)
}

fn has_signed(root: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let (Ok((_, root)), Ok((_, signed))) = (parse_x509_certificate(root), parse_x509_certificate(certificate)) else {
        return false;
    };
    root.subject().as_raw() == signed.issuer().as_raw() && signed.verify_signature(Some(root.public_key())).is_ok()
}

fn not_after(certificate: &CertificateDer<'_>) -> SystemTime {
    let seconds = parse_x509_certificate(certificate).map(|(_, parsed)| parsed.validity().not_after.timestamp());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.ok().and_then(|at| u64::try_from(at).ok()).unwrap_or_default())
}

fn make(certificates: &Path, key: &Path, settings: &Settings, now: Duration) -> Result<(), Fault> {
    let (pair, root) = root(settings, now)?;
    // The key first: a crash between the two is found at the next start, and told.
    write(key, pair.serialize_pem().as_bytes())?;
    write(certificates, root.pem().as_bytes())
}

fn root(settings: &Settings, now: Duration) -> Result<(KeyPair, rcgen::Certificate), Fault> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let now = SystemTime::UNIX_EPOCH + now;
    let mut params = CertificateParams::default();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial(None)?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Millrace");
    params.distinguished_name.push(DnType::CommonName, &*settings.trust_domain);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{}", settings.trust_domain).try_into()?)];
    // It signs leaves and nothing that signs.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&pair)?;
    Ok((pair, root))
}

fn serial(mark: Option<[u8; MARK]>) -> Result<SerialNumber, Fault> {
    let mut bytes = [0; SERIAL];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes).map_err(|_none| Fault::Random)?;
    if let Some(first) = bytes.first_mut() {
        // Positive, and of full length.
        *first = (*first & 0x7f) | 0x40;
    }
    for (byte, of_mark) in bytes.iter_mut().zip(mark.into_iter().flatten()) {
        *byte = of_mark;
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
