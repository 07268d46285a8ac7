//! Makes the webhook's certificates: an authority for nothing else, kept in a Secret, and leaves in memory.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use kube::Client;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::PrivateKeyDer;

use crate::{
    clock,
    issue::secret::{self, Pair},
    world::Settings,
};

/// The Secret that the replicas share.
const SECRET: &str = "millrace-webhook";
/// The Service that the API server calls.
const SERVICE: &str = "millrace-control";
/// It signs for one name, and can be replaced by removing the Secret.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Twice as long as until it is made anew.
const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How far the API server's clock may be behind.
const SKEW: Duration = Duration::from_secs(60);

/// The authority.
pub(super) struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// The one in the Secret; made, if there is none.
    pub(super) async fn shared(client: &Client, settings: &Settings) -> anyhow::Result<Self> {
        let made = make()?;
        let Pair { certificates, key, .. } =
            secret::shared(client, &settings.root_namespace, SECRET, &made).await.context("the webhook's authority")?;
        let key = KeyPair::from_pem(&key).with_context(|| format!("the key in Secret {SECRET}"))?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&certificates, key)
            .with_context(|| format!("the certificate in Secret {SECRET}"))?;
        Ok(Self { issuer, pem: certificates })
    }

    /// What the API server is to trust.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS with a new leaf, for the Service's names and for the address that is listened on.
    pub(super) fn server(&self, settings: &Settings, address: IpAddr) -> anyhow::Result<ServerConfig> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let now = SystemTime::UNIX_EPOCH + clock::unix_time();
        let namespace = &settings.root_namespace;
        let mut params = CertificateParams::new(vec![
            format!("{SERVICE}.{namespace}.svc"),
            format!("{SERVICE}.{namespace}.svc.cluster.local"),
        ])?;
        if !address.is_unspecified() {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LEAF_LIFETIME).into();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&pair, &self.issuer)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.into()], key)?)
    }
}

fn make() -> anyhow::Result<Pair> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let now = SystemTime::UNIX_EPOCH + clock::unix_time();
    let mut params = CertificateParams::default();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + AUTHORITY_LIFETIME).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "millrace-webhook");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&pair)?.pem();
    Ok(Pair { authorities: certificate.clone(), certificates: certificate, key: pair.serialize_pem() })
}
