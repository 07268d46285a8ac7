//! Shakes hands for real, over memory, between rustls ends that this crate configures, with CAs made on the spot.

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_model::{Identity, identity};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, NamedGroup, ProtocolVersion, ServerConfig,
    crypto::aws_lc_rs::{self, kx_group},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    Expect, KeyMaterial, Refusal, Revoked, Unusable, client_config, control_config, csr, issuer_sha256, new_key,
    peer_identity, pinned_root_client_config, refusal, renew_at, server_config, validity,
};

const H2: &[&[u8]] = &[b"h2"];
const WEB: &str = "spiffe://td/ns/shop/sa/web";
const API: &str = "spiffe://td/ns/shop/sa/api";
const CONTROL: &str = "spiffe://td/ns/millrace-system/sa/millrace-control";

/// A certificate authority of a test.
struct Ca {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = new_key().unwrap();
    let root = params.self_signed(&key).unwrap().der().clone();
    Ca { root, issuer: Issuer::new(params, key) }
}

fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params
}

/// A certificate for [`WEB`] with something about it changed.
fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(&[WEB]);
    change(&mut params);
    params
}

impl Ca {
    fn issue(&self, params: &CertificateParams) -> KeyMaterial {
        let key = new_key().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        KeyMaterial {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            bundle: vec![self.root.clone()],
            revoked: Vec::new(),
        }
    }

    fn bundle(&self) -> &[CertificateDer<'static>] {
        std::slice::from_ref(&self.root)
    }

    fn identity(&self, uri: &str) -> KeyMaterial {
        self.issue(&leaf(&[uri]))
    }
}

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

/// What both ends say of one handshake with a byte each way: in TLS 1.3 a client learns of its refusal only by reading.
struct Outcome {
    client: Result<(ProtocolVersion, NamedGroup), io::Error>,
    server: Result<Identity, io::Error>,
}

impl Outcome {
    fn client_refuses(&self) -> Option<&Refusal> {
        self.client.as_ref().err().and_then(|e| refusal(e))
    }

    fn server_refuses(&self) -> Option<&Refusal> {
        self.server.as_ref().err().and_then(|e| refusal(e))
    }
}

async fn shake(client: ClientConfig, server: ServerConfig) -> Outcome {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = async {
        // The name is not looked at, and this one is nobody's.
        let name = ServerName::try_from("203.0.113.9").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(b"!").await?;
        stream.read_exact(&mut [0]).await?;
        let (_, tls) = stream.get_ref();
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        Ok((tls.protocol_version().unwrap(), group))
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        let (_, tls) = stream.get_ref();
        assert_eq!(tls.alpn_protocol(), Some(&b"h2"[..]));
        Ok(peer_identity(tls.peer_certificates().unwrap()).unwrap())
    };
    let (client, server) = tokio::join!(Box::pin(connect), Box::pin(accept));
    Outcome { client, server }
}

/// A handshake in which `client` shows itself to a sound server of `ca`.
async fn as_client(ca: &Ca, client: &KeyMaterial) -> Outcome {
    let server = server_config(&ca.identity(API), "td", H2).unwrap();
    shake(client_config(Some(client), ca.bundle(), Expect::Identity(id(API)), H2).unwrap(), server).await
}

/// A handshake in which `server` shows itself to a sound client of `ca` that expects `expect`.
async fn as_server(ca: &Ca, server: &KeyMaterial, expect: Expect) -> Outcome {
    let client = client_config(Some(&ca.identity(WEB)), ca.bundle(), expect, H2).unwrap();
    let server = KeyMaterial { bundle: vec![ca.root.clone()], ..server.clone() };
    shake(client, server_config(&server, "td", H2).unwrap()).await
}

#[tokio::test]
async fn the_right_identity_is_believed_over_tls_1_3_with_the_hybrid_group() {
    let ca = ca();
    let outcome = as_client(&ca, &ca.identity(WEB)).await;
    assert_eq!(outcome.client.unwrap(), (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768));
    assert_eq!(outcome.server.unwrap(), id(WEB));
}

#[tokio::test]
async fn anybody_of_the_trust_domain_is_believed_where_that_is_asked() {
    let ca = ca();
    let outcome = as_server(&ca, &ca.identity(API), Expect::AnyInTrustDomain("td".into())).await;
    assert!(outcome.client.is_ok());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = ca();
    let server = server_config(&ca.identity(API), "td", H2).unwrap();
    let nobody = client_config(None, ca.bundle(), Expect::Identity(id(API)), H2).unwrap();
    let outcome = shake(nobody, server).await;
    assert_eq!(outcome.server_refuses(), Some(&Refusal::NoCertificate));
    assert!(outcome.client.is_err());
    assert_eq!(outcome.client_refuses(), None, "the refusal was the server's");
}

/// Each with a certificate that a careless reader would take.
#[tokio::test]
async fn a_client_is_refused_by_name_whatever_is_wrong_with_its_certificate() {
    let ca = ca();
    let expired = with(|p| p.not_after = date_time_ymd(2020, 1, 1));
    let early = with(|p| p.not_before = date_time_ymd(4000, 1, 1));
    let authority = with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let only_server = with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let other_domain = Refusal::OtherTrustDomain { expected: "td".into(), got: "other".into() };
    for (params, why) in [
        (expired, Refusal::Expired),
        (early, Refusal::NotYetValid),
        (authority, Refusal::CaAsLeaf),
        (only_server, Refusal::Purpose),
        (leaf(&["spiffe://other/ns/shop/sa/web"]), other_domain),
        (leaf(&[]), Refusal::NoUri),
        (leaf(&[WEB, API]), Refusal::ManyUris(2)),
        (leaf(&[WEB, WEB]), Refusal::ManyUris(2)),
        (leaf(&["spiffe://td/web"]), Refusal::NotSpiffe(identity::Malformed::Path)),
        (leaf(&["spiffe://TD/ns/shop/sa/web"]), Refusal::NotSpiffe(identity::Malformed::TrustDomain)),
        (leaf(&["https://td/ns/shop/sa/web"]), Refusal::NotSpiffe(identity::Malformed::Scheme)),
    ] {
        let outcome = as_client(&ca, &ca.issue(&params)).await;
        assert_eq!(outcome.server_refuses(), Some(&why));
        assert!(outcome.client.is_err());
    }
}

#[tokio::test]
async fn a_chain_to_another_root_is_refused_on_both_sides() {
    let (ours, theirs) = (ca(), ca());
    let outcome = as_client(&ours, &theirs.identity(WEB)).await;
    assert_eq!(outcome.server_refuses(), Some(&Refusal::NotChained));
    let outcome = as_server(&ours, &theirs.identity(API), Expect::Identity(id(API))).await;
    assert_eq!(outcome.client_refuses(), Some(&Refusal::NotChained));
}

#[tokio::test]
async fn a_root_is_believed_because_it_is_known_not_because_it_is_shown() {
    let (ours, theirs) = (ca(), ca());
    let mut shown = theirs.identity(WEB);
    shown.chain.push(theirs.root.clone());
    assert_eq!(as_client(&ours, &shown).await.server_refuses(), Some(&Refusal::NotChained));
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let ca = ca();
    let outcome = as_server(&ca, &ca.identity(WEB), Expect::Identity(id(API))).await;
    assert_eq!(outcome.client_refuses(), Some(&Refusal::OtherIdentity { expected: id(API), got: id(WEB) }));
    let foreign = ca.identity("spiffe://other/ns/shop/sa/api");
    for expect in [Expect::Identity(id(API)), Expect::AnyInTrustDomain("td".into())] {
        let why = Refusal::OtherTrustDomain { expected: "td".into(), got: "other".into() };
        assert_eq!(as_server(&ca, &foreign, expect).await.client_refuses(), Some(&why));
    }
}

/// Serial numbers begin with the mark of the node that a certificate was issued to.
#[tokio::test]
async fn what_was_issued_to_a_revoked_node_before_then_is_refused_by_both_ends() {
    let ca = ca();
    let issued = |mark: u8, year| {
        let serial = [[mark; 8], [7; 8]].concat();
        let params = |uri| {
            let mut params = leaf(&[uri]);
            params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
            params.not_before = date_time_ymd(year, 1, 1);
            params
        };
        [WEB, API].map(|uri| ca.issue(&params(uri)))
    };
    let before_unix = u64::try_from(date_time_ymd(2022, 1, 1).unix_timestamp()).unwrap();
    let revoked = vec![Revoked { mark: [0x41; 8], before_unix }];
    for (mark, year, is_refused) in [(0x41, 2021, true), (0x41, 2023, false), (0x42, 2021, false)] {
        let [web, api] = issued(mark, year);
        let sound = |uri| KeyMaterial { revoked: revoked.clone(), ..ca.identity(uri) };
        let refusal = is_refused.then_some(&Refusal::Revoked);
        let client = client_config(Some(&web), ca.bundle(), Expect::Identity(id(API)), H2).unwrap();
        let outcome = shake(client, server_config(&sound(API), "td", H2).unwrap()).await;
        assert_eq!(outcome.server_refuses(), refusal, "{mark} {year}");
        let client = client_config(Some(&sound(WEB)), ca.bundle(), Expect::Identity(id(API)), H2).unwrap();
        let outcome = shake(client, server_config(&api, "td", H2).unwrap()).await;
        assert_eq!(outcome.client_refuses(), refusal, "{mark} {year}");
    }
}

#[test]
fn the_root_that_signed_a_leaf_is_found_in_the_bundle() {
    let (old, new) = (ca(), ca());
    let bundle = [old.root.clone(), new.root.clone()];
    let by = |ca: &Ca| issuer_sha256(&ca.identity(WEB).chain, &bundle);
    let hash = |ca: &Ca| Some(Sha256::digest(&ca.root).into());
    assert_eq!((by(&old), by(&new)), (hash(&old), hash(&new)));
    assert_eq!(issuer_sha256(&ca().identity(WEB).chain, &bundle), None);
    assert_eq!(
        issuer_sha256(&old.issue(&with(|p| p.not_after = date_time_ymd(2020, 1, 1))).chain, &bundle),
        hash(&old)
    );
}

#[tokio::test]
async fn while_roots_rotate_both_are_believed() {
    let (old, new) = (ca(), ca());
    let bundle = vec![old.root.clone(), new.root.clone()];
    let server = KeyMaterial { bundle: bundle.clone(), ..old.identity(API) };
    let client = client_config(Some(&new.identity(WEB)), &bundle, Expect::Identity(id(API)), H2).unwrap();
    let outcome = shake(client, server_config(&server, "td", H2).unwrap()).await;
    assert_eq!(outcome.server.unwrap(), id(WEB));
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused() {
    let ca = ca();
    let mut long = ca.identity(WEB);
    long.chain.extend(std::iter::repeat_n(ca.root.clone(), 6));
    assert_eq!(as_client(&ca, &long).await.server_refuses(), Some(&Refusal::ChainTooLong));
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let ca = ca();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root.clone()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let outcome = shake(old, server_config(&ca.identity(API), "td", H2).unwrap()).await;
    assert!(outcome.client.is_err());
    assert!(outcome.server.is_err());
}

/// Some peers of other makes know only the classic groups.
#[tokio::test]
async fn a_peer_without_the_hybrid_group_is_still_served() {
    let ca = ca();
    let provider =
        rustls::crypto::CryptoProvider { kx_groups: vec![kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::new(provider.clone()));
    let own = ca.identity(API);
    let mut server = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(own.chain, own.key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let client = client_config(Some(&ca.identity(WEB)), ca.bundle(), Expect::Identity(id(API)), H2).unwrap();
    assert_eq!(shake(client, server).await.client.unwrap().1, NamedGroup::X25519);
}

#[test]
fn a_key_of_another_certificate_makes_no_configuration() {
    let ca = ca();
    let mixed = KeyMaterial { key: ca.identity(WEB).key, ..ca.identity(WEB) };
    assert!(matches!(server_config(&mixed, "td", H2), Err(Unusable::Tls(_))));
}

/// A control plane as a joining node meets it: it asks for no client certificate.
async fn join(shown: KeyMaterial, root_sha256: [u8; 32]) -> Option<Refusal> {
    joins(shown, pinned_root_client_config(root_sha256).unwrap()).await
}

async fn joins(shown: KeyMaterial, client: ClientConfig) -> Option<Refusal> {
    let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(shown.chain, shown.key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(client));
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let name = ServerName::try_from("203.0.113.9").unwrap();
    let (client, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    client.err().map(|error| refusal(&error).cloned().expect("a named refusal"))
}

#[tokio::test]
async fn a_joining_node_believes_only_a_control_plane_under_the_pinned_root() {
    let (ours, theirs) = (ca(), ca());
    let sha256 = |ca: &Ca| -> [u8; 32] { Sha256::digest(&ca.root).into() };
    let shown = |ca: &Ca, uri: &str, roots: &[&Ca]| {
        let mut material = ca.identity(uri);
        material.chain.extend(roots.iter().map(|ca| ca.root.clone()));
        material
    };
    assert_eq!(join(shown(&ours, CONTROL, &[&ours]), sha256(&ours)).await, None);
    assert_eq!(join(shown(&ours, CONTROL, &[]), sha256(&ours)).await, Some(Refusal::NotPinned));
    assert_eq!(join(shown(&theirs, CONTROL, &[&theirs]), sha256(&ours)).await, Some(Refusal::NotPinned));
    // The pinned root is shown, but did not sign the leaf.
    assert_eq!(join(shown(&theirs, CONTROL, &[&ours]), sha256(&ours)).await, Some(Refusal::NotChained));
    // The pinned hash is of a workload's certificate: that one vouches for nobody.
    let web = ours.identity(WEB);
    let mut forged = shown(&ours, CONTROL, &[&ours]);
    let web_sha256 = Sha256::digest(&web.chain[0]).into();
    forged.chain.extend(web.chain);
    assert_eq!(join(forged, web_sha256).await, Some(Refusal::NotPinned));
    // Any pod's certificate chains to the same root.
    for uri in [WEB, "spiffe://td/ns/shop/sa/millrace-control"] {
        assert_eq!(join(shown(&ours, uri, &[&ours]), sha256(&ours)).await, Some(Refusal::NotControl(id(uri))));
    }
}

#[tokio::test]
async fn a_joining_node_that_knows_the_roots_believes_only_a_control_plane_under_them() {
    let (ours, next, theirs) = (ca(), ca(), ca());
    let roots = || control_config(&[ours.root.clone(), next.root.clone()]).unwrap();
    assert_eq!(joins(ours.identity(CONTROL), roots()).await, None);
    assert_eq!(joins(next.identity(CONTROL), roots()).await, None, "the next root is one of them");
    assert_eq!(joins(theirs.identity(CONTROL), roots()).await, Some(Refusal::NotChained));
    let mut forged = theirs.identity(CONTROL);
    forged.chain.push(ours.root.clone());
    assert_eq!(joins(forged, roots()).await, Some(Refusal::NotChained), "a root that is shown did not sign it");
    for uri in [WEB, "spiffe://td/ns/shop/sa/millrace-control"] {
        assert_eq!(joins(ours.identity(uri), roots()).await, Some(Refusal::NotControl(id(uri))));
    }
    assert!(control_config(&[]).is_err(), "without roots anybody would do");
}

#[test]
fn key_material_prints_no_key_and_survives_the_wire() {
    let material = ca().identity(WEB);
    let text = format!("{material:?}");
    assert!(text.contains(WEB), "{text}");
    let key = material.key.secret_der();
    let printed = |bytes: &[u8]| bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    assert!(!text.contains(&printed(&key[..8])), "{text}");
    assert!(text.len() < 200, "{text}");

    let message = crate::wire::node::KeyMaterial::from(&material);
    let back = KeyMaterial::try_from(message.clone()).unwrap();
    assert_eq!((&back.chain, &back.bundle), (&material.chain, &material.bundle));
    assert_eq!(back.key.secret_der(), key);
    for broken in [
        crate::wire::node::KeyMaterial { chain_der: vec![], ..message.clone() },
        crate::wire::node::KeyMaterial { key_pkcs8_der: bytes::Bytes::new(), ..message.clone() },
        crate::wire::node::KeyMaterial { bundle_der: vec![], ..message.clone() },
    ] {
        assert!(KeyMaterial::try_from(broken).is_err());
    }
    let garbage = crate::wire::node::KeyMaterial { bundle_der: vec![b"x"[..].into()], ..message };
    let garbage = KeyMaterial::try_from(garbage).unwrap();
    assert!(matches!(server_config(&garbage, "td", H2), Err(Unusable::Root(_))));
}

#[test]
fn a_request_names_nobody_and_carries_its_key() {
    let key = new_key().unwrap();
    let der = csr(&key).unwrap();
    let parsed = rcgen::CertificateSigningRequestParams::from_der(&der.as_slice().into()).unwrap();
    assert!(parsed.params.subject_alt_names.is_empty());
    assert_eq!(parsed.params.distinguished_name.iter().count(), 0);
    assert_eq!(rcgen::PublicKeyData::der_bytes(&parsed.public_key), rcgen::PublicKeyData::der_bytes(&key));
}

#[test]
fn a_certificate_says_how_long_it_holds() {
    let params = with(|p| (p.not_before, p.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 1, 2)));
    let (not_before, not_after) = validity(&ca().issue(&params).chain[0]).unwrap();
    assert_eq!(not_before, SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
    assert_eq!(not_after.duration_since(not_before).unwrap(), Duration::from_secs(86_400));
    assert_eq!(validity(&b"garbage"[..].into()), Err(Refusal::Unparsable));
}

#[test]
fn a_refusal_is_found_however_deep_it_lies() {
    let error = io::Error::other(rustls::Error::from(Refusal::Expired));
    assert_eq!(refusal(&error), Some(&Refusal::Expired));
    let nested = io::Error::other(error);
    assert_eq!(refusal(&nested), Some(&Refusal::Expired));
    let other: Box<dyn Error> = "something else".into();
    assert_eq!(refusal(other.as_ref()), None);
}

proptest! {
    #[test]
    fn a_certificate_is_renewed_near_the_half_of_its_life(from in 0u64..4_000_000_000, life in 0u64..400_000_000, jitter: f64) {
        let not_before = SystemTime::UNIX_EPOCH + Duration::from_secs(from);
        let life = Duration::from_secs(life);
        let at = renew_at(not_before, not_before + life, jitter).duration_since(not_before).unwrap();
        prop_assert!(at >= life.mul_f64(0.4499) && at <= life.mul_f64(0.5501), "{at:?} of {life:?}");
    }

    #[test]
    fn more_jitter_is_never_sooner(life in 0u64..400_000_000, a in 0.0f64..1.0, b in 0.0f64..1.0) {
        let (less, more) = if a < b { (a, b) } else { (b, a) };
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(life);
        prop_assert!(renew_at(SystemTime::UNIX_EPOCH, end, less) <= renew_at(SystemTime::UNIX_EPOCH, end, more));
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(peer_identity(&[CertificateDer::from(bytes)]).is_err());
    }
}

#[test]
fn a_certificate_that_ends_before_it_begins_is_renewed_at_once() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    assert_eq!(renew_at(now, SystemTime::UNIX_EPOCH, 0.3), now);
}
