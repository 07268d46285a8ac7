//! Makes certificates that are wrong in one way each, with the mesh's own root where that is the point.

use std::fs;

use anyhow::Result;
use millrace_lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Signs with a root.
pub(super) struct Forge {
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(super) struct Papers {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Forge {
    /// With the mesh's own root: what it signs differs from good papers only in what they say.
    pub(super) fn of_mesh(lab: &Lab) -> Result<Self> {
        let state = lab.directory().join("wire/state");
        let key = KeyPair::from_pem(&fs::read_to_string(state.join("root.key"))?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&fs::read_to_string(state.join("root.pem"))?, key)? })
    }

    /// With a root that nobody trusts.
    pub(super) fn of_nobody() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self { issuer: Issuer::new(params, KeyPair::generate()?) })
    }

    /// The root that it signs with.
    pub(super) fn root(lab: &Lab) -> Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_file(lab.directory().join("wire/state/root.pem"))?)
    }

    /// Papers with these URI names.
    pub(super) fn papers(&self, uris: &[&str]) -> Result<Papers> {
        self.sign(params(uris)?)
    }

    /// Papers past their time.
    pub(super) fn expired(&self, uri: &str) -> Result<Papers> {
        let mut params = params(&[uri])?;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
        self.sign(params)
    }

    /// Papers of one who may sign others.
    pub(super) fn as_authority(&self, uri: &str) -> Result<Papers> {
        let mut params = params(&[uri])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Papers> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok(Papers { chain: vec![certificate.der().clone()], key })
    }
}

fn params(uris: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}
