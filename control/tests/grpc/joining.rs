//! Join and Issue: what is given, and every way in which it is not.

use std::time::Duration;

use millrace_control::clock;
use millrace_wire::control::JoinRequest;
use tonic::Code;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::client::{Mesh, Own, SHOP, csr, issue, key, try_connect};

async fn joins(mesh: &Mesh, token: &str) -> Result<Own, (Code, String)> {
    let key = key();
    let request = JoinRequest { token: token.to_owned(), csr_der: csr(&key) };
    match mesh.stranger().await.join(request).await {
        Ok(certificate) => Ok(Own::new(certificate.into_inner(), &key)),
        Err(status) => Err((status.code(), status.message().split(':').next().unwrap().to_owned())),
    }
}

fn names(own: &Own) -> Vec<String> {
    let (_, parsed) = parse_x509_certificate(&own.chain[0]).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty, so the names are critical");
    names
        .value
        .general_names
        .iter()
        .map(|name| {
            let GeneralName::URI(uri) = name else {
                panic!("a certificate names nothing but its identity, not {name:?}")
            };
            (*uri).to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_token_lets_its_node_join_once() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let token = mesh.token("a");
    let own = joins(&mesh, &token).await.unwrap();
    assert_eq!(names(&own), ["spiffe://cluster.local/ns/millrace-system/sa/node.a"]);
    assert_eq!(joins(&mesh, &token).await.err(), Some((Code::Unauthenticated, "token_used".to_owned())));
    let mesh = mesh.restarted().await;
    assert_eq!(
        joins(&mesh, &token).await.err(),
        Some((Code::Unauthenticated, "token_used".to_owned())),
        "not after a restart either"
    );
}

#[tokio::test]
async fn a_certificate_is_for_both_ends_from_a_minute_ago_for_a_day() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let (own, other) = (mesh.node("a").await, mesh.node("a").await);
    let (_, leaf) = parse_x509_certificate(&own.chain[0]).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert!(!leaf.is_ca());
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert_eq!(leaf.subject().iter().count(), 0);
    let now = i64::try_from(clock::unix_time().as_secs()).unwrap();
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert!((now - from - 60).abs() <= 5 && (to - now - 86_400).abs() <= 5, "{from} {now} {to}");
    let (_, second) = parse_x509_certificate(&other.chain[0]).unwrap();
    assert_ne!(leaf.serial, second.serial);
    assert!(leaf.raw_serial().len() >= 16, "serial numbers are random and long");
    let root = mesh.root();
    let (_, root) = parse_x509_certificate(&root).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[tokio::test]
async fn every_other_token_is_refused_by_name() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let token = mesh.token("a");
    let (head, secret) = token.rsplit_once('.').unwrap();
    let (_, root) = head.rsplit_once('.').unwrap();
    let issuer = &mesh.control.issuer;
    let long_ago = clock::unix_time() - Duration::from_secs(3601);
    let late =
        issuer.tokens.make("a", issuer.roots.authority().root_sha256(), Duration::from_secs(3600), long_ago).unwrap();
    for (token, reason) in [
        (String::new(), "token_malformed"),
        ("x".repeat(10_000), "token_malformed"),
        (format!("v2.a.{root}.{secret}"), "token_malformed"),
        (format!("v1..{root}.{secret}"), "token_malformed"),
        (format!("v1.a.{root}.{secret}="), "token_malformed"),
        (format!("v1.a.{}.{secret}", root.to_uppercase()), "token_malformed"),
        (format!("v1.a.{}.{secret}", "0".repeat(64)), "token_other_root"),
        (format!("v1.b.{root}.{secret}"), "token_other_node"),
        (format!("v1.a.{root}.{}", "A".repeat(43)), "token_unknown"),
        (late, "token_expired"),
    ] {
        assert_eq!(joins(&mesh, &token).await.err(), Some((Code::Unauthenticated, reason.to_owned())), "{token}");
    }
    joins(&mesh, &token).await.expect("none of these spent the token");
}

#[tokio::test]
async fn a_request_that_is_unfit_spends_no_token() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let token = mesh.token("a");
    let mut foreign = csr(&key());
    let last = foreign.len() - 1;
    foreign[last] ^= 1;
    let ed25519 = csr(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let p384 = csr(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let mut longer = csr(&key());
    longer.push(0);
    for (csr_der, why) in [
        (Vec::new(), "PKCS #10"),
        (vec![0x30; 100], "PKCS #10"),
        (longer, "PKCS #10"),
        (vec![0; 5000], "longer"),
        (foreign, "signature"),
        (ed25519, "P-256"),
        (p384, "P-256"),
    ] {
        let request = JoinRequest { token: token.clone(), csr_der };
        let status = mesh.stranger().await.join(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(why), "{} should say {why}", status.message());
    }
    joins(&mesh, &token).await.unwrap();
}

/// What a node asks to be named has no bearing: only the key of a request is read.
#[tokio::test]
async fn a_request_can_not_choose_its_name() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let key = key();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI("spiffe://cluster.local/ns/shop/sa/db".try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr_der = params.serialize_request(&key).unwrap().der().to_vec();
    let request = JoinRequest { token: mesh.token("a"), csr_der };
    let own = Own::new(mesh.stranger().await.join(request).await.unwrap().into_inner(), &key);
    assert_eq!(names(&own), ["spiffe://cluster.local/ns/millrace-system/sa/node.a"]);
    assert!(!parse_x509_certificate(&own.chain[0]).unwrap().1.is_ca());
}

#[tokio::test]
async fn a_node_gets_certificates_for_what_runs_on_it_and_for_nothing_else() {
    let usurpers = ["node.b", "millrace-control"].map(|account| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {account}, namespace: millrace-system, \
             labels: {{millrace.dev/mesh: enabled}}}}, spec: {{nodeName: a, serviceAccountName: {account}}}}}\n"
        )
    });
    let mesh = Mesh::with(&[("shop.yaml", SHOP), ("usurpers.yaml", &usurpers.concat())]).await;
    let own = mesh.node("a").await;
    let mut client = mesh.client(&own).await;
    let mut asked = async |identity: &str| {
        let key = key();
        match issue(&mut client, identity, csr(&key)).await {
            Ok(certificate) => Ok(names(&Own::new(certificate, &key))),
            Err(status) => Err((status.code(), status.message().split(':').next().unwrap().to_owned())),
        }
    };
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    assert_eq!(asked(web).await, Ok(vec![web.to_owned()]));
    let node = "spiffe://cluster.local/ns/millrace-system/sa/node.a";
    assert_eq!(asked("").await, Ok(vec![node.to_owned()]), "its own, renewed");
    assert_eq!(asked(node).await, Ok(vec![node.to_owned()]));
    for (identity, code, reason) in [
        ("spiffe://cluster.local/ns/shop/sa/db", Code::PermissionDenied, "identity_not_here"),
        ("spiffe://cluster.local/ns/shop/sa/nobody", Code::PermissionDenied, "identity_not_here"),
        ("spiffe://other.mesh/ns/shop/sa/web", Code::PermissionDenied, "identity_not_here"),
        // Pods that run as these stand on this very node.
        ("spiffe://cluster.local/ns/millrace-system/sa/node.b", Code::PermissionDenied, "identity_reserved"),
        ("spiffe://cluster.local/ns/millrace-system/sa/millrace-control", Code::PermissionDenied, "identity_reserved"),
        ("spiffe://cluster.local/ns/shop/sa/plain", Code::PermissionDenied, "identity_outside_the_mesh"),
        ("shop/web", Code::InvalidArgument, "identity_malformed"),
        ("spiffe://cluster.local/ns/shop/sa/web/", Code::InvalidArgument, "identity_malformed"),
    ] {
        assert_eq!(asked(identity).await, Err((code, reason.to_owned())), "{identity}");
    }
}

#[tokio::test]
async fn who_shows_no_certificate_or_a_workloads_gets_nothing_but_join() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let status = issue(&mut mesh.stranger().await, web, csr(&key())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().starts_with("no_certificate"), "{status}");

    let node = mesh.node("a").await;
    let key = key();
    let workload = Own::new(issue(&mut mesh.client(&node).await, web, csr(&key)).await.unwrap(), &key);
    let status = issue(&mut mesh.client(&workload).await, "", csr(&key)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().starts_with("not_a_node"), "{status}");
}

/// Another mesh's node, with a perfectly good certificate of that mesh.
#[tokio::test]
async fn a_certificate_of_another_root_does_not_even_connect() {
    let (mesh, other) = (Mesh::with(&[("shop.yaml", SHOP)]).await, Mesh::with(&[]).await);
    let foreign = other.node("a").await;
    // In TLS 1.3 the client is done before the server looks at its certificate: the refusal meets the first call.
    let refused = match try_connect(&mesh, Some(&foreign), &[&rustls::version::TLS13]).await {
        Err(_) => true,
        Ok(mut client) => issue(&mut client, "", csr(&key()))
            .await
            .is_err_and(|s| s.code() == Code::Unknown || s.code() == Code::Unavailable),
    };
    assert!(refused);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mesh = Mesh::with(&[]).await;
    assert!(try_connect(&mesh, None, &[&rustls::version::TLS12]).await.is_err());
}

/// It would else be refused by every agent, a day after its start.
#[tokio::test]
async fn the_control_plane_renews_its_own_certificate_at_half_its_life() {
    let mesh = Mesh::with_leaves_of(Duration::from_secs(2)).await;
    let first = mesh.shown().await;
    assert_eq!(
        names(&Own { chain: vec![first.clone()], key: Vec::new() }),
        ["spiffe://cluster.local/ns/millrace-system/sa/millrace-control"]
    );
    let begun = clock::now();
    while mesh.shown().await == first {
        assert!(begun.elapsed() < Duration::from_millis(1900), "it is renewed before it runs out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(500), "and not all the time");
}

#[tokio::test]
async fn the_state_directory_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let token = mesh.token("a");
    let secret = token.rsplit_once('.').unwrap().1;
    for entry in std::fs::read_dir(mesh.state.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        if path.is_file() {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(secret), "{} holds a token in the clear", path.display());
        }
    }
    assert!(mesh.state.path().join("tokens.json").is_file());
}

#[tokio::test]
async fn the_root_outlives_a_restart() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let root = mesh.root();
    let mesh = mesh.restarted().await;
    assert_eq!(mesh.root(), root);
    issue(&mut mesh.client(&own).await, "", csr(&key())).await.expect("a certificate from before still counts");
}
