//! Makes TLS configurations: 1.3 alone, the hybrid key exchange first, no resumption, no name in the clear.

use std::sync::Arc;

use millrace_model::Identity;
use rustls::{
    ClientConfig, ConfigBuilder, ServerConfig,
    client::{Resumption, WantsClientCert},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    server::NoServerSessionStorage,
    version::TLS13,
};
use rustls_pki_types::CertificateDer;

use super::{
    KeyMaterial, Unusable,
    verify::{Trust, Verifier, anchors},
};

/// Whom the other end must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This one and nobody else.
    Identity(Identity),
    /// Anybody of this trust domain; who it is stands in its certificate ([`super::peer_identity`]).
    AnyInTrustDomain(Arc<str>),
}

/// For a connection to a peer that must chain to `bundle` and be whom `expect` says, as `own` or as nobody.
///
/// No server name is sent: the name given to rustls is not looked at.
pub fn client_config(
    own: Option<&KeyMaterial>,
    bundle: &[CertificateDer<'_>],
    expect: Expect,
    alpn: &[&[u8]],
) -> Result<ClientConfig, Unusable> {
    let revoked = own.map(|own| own.revoked.clone()).unwrap_or_default();
    let builder = client_that_trusts(Trust::Roots(anchors(bundle)?, revoked, expect))?;
    let config = match own {
        Some(KeyMaterial { chain, key, bundle: _, revoked: _ }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key())?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(quiet(config, alpn))
}

/// For connections from peers that must chain to `own.bundle`, not be revoked, and name an identity in `trust_domain`.
pub fn server_config(own: &KeyMaterial, trust_domain: &str, alpn: &[&[u8]]) -> Result<ServerConfig, Unusable> {
    let provider = provider();
    let KeyMaterial { chain, key, bundle, revoked } = own;
    let verifier = Verifier {
        trust: Trust::Roots(anchors(bundle)?, revoked.clone(), Expect::AnyInTrustDomain(trust_domain.into())),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain.clone(), key.clone_key())?;
    config.alpn_protocols = protocols(alpn);
    // A ticket outlives a renewed certificate and a changed policy; tunnels are pooled, so resuming buys nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// For a node's first connection to a control plane, of which it knows only the SHA-256 of the root's DER. The chain
/// shown must hold that root, and the leaf be a control plane's (`ns/millrace-system/sa/millrace-control`) that chains to it.
pub fn pinned_root_client_config(root_sha256: [u8; 32]) -> Result<ClientConfig, Unusable> {
    let builder = client_that_trusts(Trust::ControlUnder(root_sha256))?;
    Ok(quiet(builder.with_no_client_auth(), &[b"h2"]))
}

/// For a node's first connection to a control plane, of which it knows the roots: the leaf must be a control plane's
/// (`ns/millrace-system/sa/millrace-control`) and chain to one of them. Its trust domain is the one that it says.
pub fn control_config(roots: &[CertificateDer<'_>]) -> Result<ClientConfig, Unusable> {
    let builder = client_that_trusts(Trust::ControlOf(anchors(roots)?))?;
    Ok(quiet(builder.with_no_client_auth(), &[b"h2"]))
}

fn client_that_trusts(trust: Trust) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = provider();
    let verifier = Verifier { trust, algorithms: provider.signature_verification_algorithms };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// The one provider. Its groups are written out, so that no default can take the hybrid one from the front.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

fn quiet(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = protocols(alpn);
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
