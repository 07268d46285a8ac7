//! Certificates for the other proxies, of the kind the mesh uses: ECDSA P-256, an authority and two leaves with a SPIFFE name each; a third for [`bare`].

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::bare;

/// The client's end.
pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
/// The server's end.
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Where they are: each leaf's chain, its key, and both together as haproxy wants it.
#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`, for this run alone. The keys are root's to read.
    pub fn make(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.join("root.pem"), root.pem())?;
        let uri = |uri: &str| -> Result<SanType> { Ok(SanType::URI(uri.try_into()?)) };
        let leaves = [
            ("client", uri(CLIENT)?),
            ("server", uri(SERVER)?),
            (bare::NAME, SanType::DnsName(bare::NAME.try_into()?)),
        ];
        for (name, is) in leaves {
            let mut params = CertificateParams::default();
            // With its issuer's name for its own it would be taken for self-signed.
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![is];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let leaf = params.signed_by(&key, &root)?;
            fs::write(directory.join(format!("{name}.pem")), leaf.pem())?;
            fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
            fs::write(directory.join(format!("{name}-both.pem")), leaf.pem() + &key.serialize_pem())?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// A file of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}
