//! Who is not let in, and by what name.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use millrace_l7_proxy::maps::Asked;
use millrace_model::{
    Action, Endpoint, Endpoints, Identity, ObjectName, Policy, Protocol, Rule, Service, ServicePort, Source, Tier,
    service::Readiness,
};
use millrace_node::{
    credentials::{Expect, KeyMaterial, client_config},
    wire::node::Denial,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    agent::Say,
    authority::Authority,
    stage::{SOON, Stage, asked, refused, wait_for, was_shown, workload},
};

const H2: &[&[u8]] = &[b"h2"];

fn outbound_refusals(stage: &Stage, reason: &str) -> u64 {
    stage.a.metric(&format!("millrace_proxy_connections_refused_total{{direction=\"outbound\",reason=\"{reason}\"}}"))
}

fn failed_handshakes(stage: &Stage, reason: &str) -> u64 {
    stage.b.metric(&format!("millrace_proxy_handshakes_failed_total{{end=\"server\",reason=\"{reason}\"}}"))
}

fn allow(name: &str, from: Source) -> Policy {
    Policy {
        name: ObjectName::new("shop", name),
        action: Action::Allow,
        rules: vec![Rule { from: vec![from], ports: Default::default(), protocol: None }],
        tier: Tier::Access,
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_looks_closed() {
    let stage = Stage::new().await;
    assert_eq!(refused(stage.web_tries(asked(stage.api_at(8080))).await).await, ErrorKind::ConnectionReset);
    wait_for(|| outbound_refusals(&stage, "peer_unavailable") == 1, "peer_unavailable").await;
    assert_eq!(refused(TcpStream::connect(stage.api_at(9000)).await).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_connects_to_the_outbound_listener_itself_is_reset() {
    let stage = Stage::new().await;
    assert_eq!(refused(TcpStream::connect(stage.outbound).await).await, ErrorKind::ConnectionReset);
    wait_for(|| outbound_refusals(&stage, "no_original") == 1, "no_original").await;
}

#[tokio::test]
async fn an_address_outside_the_mesh_is_refused_by_name() {
    let stage = Stage::new().await;
    let target = "192.0.2.1:80".parse().unwrap();
    assert_eq!(refused(stage.web_tries(asked(target)).await).await, ErrorKind::ConnectionReset);
    wait_for(|| outbound_refusals(&stage, "backend_outside") == 1, "backend_outside").await;
}

#[tokio::test]
async fn a_policy_refuses_and_both_ends_name_it() {
    let mut stage = Stage::new().await;
    let nobody = Source::Identity(Identity::new("cluster.local", "shop", "somebody-else"));
    stage.publish_policy(allow("api-for-others", nobody)).await;
    let _listener = stage.api_listens(8080);
    assert_eq!(refused(stage.web_tries(asked(stage.api_at(8080))).await).await, ErrorKind::ConnectionReset);
    let here = timeout(SOON, stage.a.agent.denials.recv()).await.unwrap().unwrap();
    let there = timeout(SOON, stage.b.agent.denials.recv()).await.unwrap().unwrap();
    for (denial, reason) in [(here, "peer_denied"), (there, "denied")] {
        let expected = Denial {
            source: "shop/web".to_owned(),
            target: stage.api_at(8080).to_string(),
            reason: reason.to_owned(),
            policy: "shop/api-for-others".to_owned(),
        };
        assert_eq!(denial, expected);
    }
}

#[tokio::test]
async fn plain_text_to_a_strict_pod_is_reset_and_to_a_permissive_one_judged_without_identity() {
    let mut stage = Stage::with(Stage::strict).await;
    let listener = stage.api_listens(9000);
    assert_eq!(refused(TcpStream::connect(stage.api_at(9000)).await).await, ErrorKind::ConnectionReset);
    assert_eq!(timeout(SOON, stage.b.agent.denials.recv()).await.unwrap().unwrap().reason, "strict");
    stage.api.encryption.default = Default::default();
    // Web's address yields no identity: a policy that names web's does not let plain text from there in.
    let web = Source::Identity(stage.web.identity.clone());
    stage.publish_policy(allow("api-for-web", web)).await;
    let from_web = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(stage.web.addresses[0], 0)).unwrap();
        socket.connect(stage.api_at(9000)).await
    };
    assert_eq!(refused(from_web().await).await, ErrorKind::ConnectionReset);
    assert_eq!(timeout(SOON, stage.b.agent.denials.recv()).await.unwrap().unwrap().policy, "shop/api-for-web");
    drop(listener);
}

/// A tunnel made by hand, as `material` says we are.
async fn tunnel(stage: &Stage, material: &KeyMaterial) -> std::io::Result<SendRequest<Bytes>> {
    let expect = Expect::Identity(stage.api.identity.clone());
    let bundle = [stage.authority.root.clone()];
    let config = client_config(Some(material), &bundle, expect, H2).unwrap();
    let stream = TcpStream::connect(stage.api_at(15008)).await?;
    let name = ServerName::from(stage.api.addresses[0]);
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (send, connection) = h2::client::handshake(tls).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(send)
}

async fn answer(tunnel: &SendRequest<Bytes>, method: Method, uri: &str, forwarded: &[&str]) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(uri);
    for value in forwarded {
        request = request.header("forwarded", *value);
    }
    let mut ready = tunnel.clone().ready().await.unwrap();
    let (response, _send) = ready.send_request(request.body(()).unwrap(), false).unwrap();
    let response = timeout(SOON, response).await.unwrap().unwrap();
    let reason = response.headers().get("x-millrace-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (response.status().as_u16(), reason.unwrap_or_default())
}

#[tokio::test]
async fn connect_is_for_the_address_that_the_tunnel_came_to_and_no_port_of_the_mesh() {
    let stage = Stage::new().await;
    let _listener = stage.api_listens(8080);
    let tunnel = tunnel(&stage, &stage.authority.issue(&stage.web.identity)).await.unwrap();
    let api = stage.api.addresses[0];
    for (authority, status, reason) in [
        (format!("{api}:8080"), 200, ""),
        ("127.0.0.1:8080".to_owned(), 400, "loopback_authority"),
        ("[::1]:8080".to_owned(), 400, "loopback_authority"),
        ("10.0.0.1:8080".to_owned(), 400, "other_address"),
        (format!("{api}:15008"), 400, "mesh_port"),
        (format!("{api}:15801"), 400, "mesh_port"),
        (format!("{api}:15806"), 400, "mesh_port"),
        ("api.shop:8080".to_owned(), 400, "bad_authority"),
        (format!("{api}:8081"), 503, "connect_refused"),
    ] {
        let answer = answer(&tunnel, Method::CONNECT, &authority, &[]).await;
        assert_eq!(answer, (status, reason.to_owned()), "{authority}");
    }
    let uri = format!("https://{api}:8080/");
    assert_eq!(answer(&tunnel, Method::GET, &uri, &[]).await, (400, "not_connect".to_owned()));
}

#[tokio::test]
async fn a_forwarded_client_is_believed_of_its_own_identity_alone() {
    let stage = Stage::new().await;
    let _listener = stage.api_listens(8080);
    let tunnel = tunnel(&stage, &stage.authority.issue(&stage.web.identity)).await.unwrap();
    let (api, web) = (stage.api.addresses[0], stage.web.addresses[0]);
    let authority = format!("{api}:8080");
    let connect = |forwarded: Vec<String>| {
        let (tunnel, authority) = (&tunnel, &authority);
        async move {
            let forwarded: Vec<&str> = forwarded.iter().map(String::as_str).collect();
            answer(tunnel, Method::CONNECT, authority, &forwarded).await
        }
    };
    assert_eq!(connect(vec![format!("for=\"{web}:4711\"")]).await.0, 200);
    assert!(was_shown(SocketAddr::new(web, 4711)));
    // Somebody else's address, and one of nobody: the tunnel's own peer is shown.
    assert_eq!(connect(vec![format!("for=\"{api}:4712\"")]).await.0, 200);
    assert!(!was_shown(SocketAddr::new(api, 4712)));
    assert_eq!(connect(vec!["for=\"10.9.9.9:4713\"".to_owned()]).await.0, 200);
    assert!(!was_shown("10.9.9.9:4713".parse().unwrap()));
    assert_eq!(connect(vec!["for=10.0.0.1, for=10.0.0.2".to_owned()]).await, (400, "bad_forwarded".to_owned()));
    let twice = vec![format!("for={web}"), format!("for={web}")];
    assert_eq!(connect(twice).await, (400, "bad_forwarded".to_owned()));
}

/// As many as a tunnel takes, all open: bytes still move in them, and the place of one that ends is given again.
#[tokio::test]
async fn a_tunnel_that_is_full_carries_on() {
    const MOST: usize = 64;
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let tunnel = tunnel(&stage, &stage.authority.issue(&stage.web.identity)).await.unwrap();
    let uri = stage.api_at(8080).to_string();
    let open = || async {
        let request = Request::builder().method(Method::CONNECT).uri(&uri).body(()).unwrap();
        let (response, send) = tunnel.clone().ready().await.unwrap().send_request(request, false).unwrap();
        let (response, accepted) = timeout(SOON, async { tokio::join!(response, listener.accept()) }).await.unwrap();
        (send, response.unwrap().into_body(), accepted.unwrap().0)
    };
    let mut all = Vec::new();
    for _ in 0..MOST {
        all.push(open().await);
    }
    for (send, recv, server) in &mut all {
        send.send_data(Bytes::from_static(b"?"), false).unwrap();
        timeout(SOON, server.read_exact(&mut [0])).await.unwrap().unwrap();
        server.write_all(b"!").await.unwrap();
        assert_eq!(timeout(SOON, recv.data()).await.unwrap().unwrap().unwrap(), "!");
    }
    drop(all.pop());
    all.push(open().await);
}

/// The application's socket is of one family: a client of the other could not be shown there.
#[tokio::test]
async fn a_forwarded_client_of_another_family_is_refused() {
    let stage = Stage::with(|stage| stage.web.addresses.push("fd00::1".parse().unwrap())).await;
    let _listener = stage.api_listens(8080);
    let tunnel = tunnel(&stage, &stage.authority.issue(&stage.web.identity)).await.unwrap();
    let authority = stage.api_at(8080).to_string();
    let answered = answer(&tunnel, Method::CONNECT, &authority, &["for=\"[fd00::1]:4711\""]).await;
    assert_eq!(answered, (400, "bad_forwarded".to_owned()));
    assert!(!was_shown("[fd00::1]:4711".parse().unwrap()));
}

/// Its listeners came before its key: an application that calls is told at once, not left to wait.
#[tokio::test]
async fn a_pod_without_a_key_is_refused_by_name() {
    let mut stage = Stage::new().await;
    stage.web.identity = Identity::new("cluster.local", "shop", "keyless");
    stage.publish(|_| ()).await;
    assert_eq!(refused(stage.web_tries(asked(stage.api_at(8080))).await).await, ErrorKind::ConnectionReset);
    wait_for(|| outbound_refusals(&stage, "no_key") == 1, "no_key").await;
}

#[tokio::test]
async fn a_peer_without_the_right_certificate_is_refused_by_name() {
    let stage = Stage::new().await;
    let (web, root) = (stage.web.identity.clone(), stage.authority.root.clone());
    let of_our_root = |mut material: KeyMaterial| {
        material.bundle = vec![root.clone()];
        material
    };
    let long_ago = stage.authority.issue_with(&web, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    });
    let elsewhere = stage.authority.issue(&Identity::new("other.domain", "shop", "web"));
    let unnamed = stage.authority.issue_with(&web, |params| params.subject_alt_names.clear());
    let other_root = of_our_root(Authority::new().issue(&web));
    for (material, reason) in
        [(long_ago, "expired"), (elsewhere, "other_trust_domain"), (unnamed, "no_uri"), (other_root, "not_chained")]
    {
        // In TLS 1.3 a client hears of its refusal after its own handshake is done.
        if let Ok(tunnel) = tunnel(&stage, &material).await {
            let mut ready = tunnel.ready().await.ok();
            if let Some(ready) = &mut ready {
                let request = Request::builder().method(Method::CONNECT).uri("127.0.0.1:1").body(()).unwrap();
                if let Ok((response, _send)) = ready.send_request(request, false) {
                    assert!(timeout(SOON, response).await.unwrap().is_err(), "{reason}");
                }
            }
        }
        wait_for(|| failed_handshakes(&stage, reason) == 1, reason).await;
    }
    let nobody = client_config(None, &[root], Expect::Identity(stage.api.identity.clone()), H2).unwrap();
    let stream = TcpStream::connect(stage.api_at(15008)).await.unwrap();
    let name = ServerName::from(stage.api.addresses[0]);
    if let Ok(mut tls) = TlsConnector::from(Arc::new(nobody)).connect(name, stream).await {
        assert!(timeout(SOON, tls.read(&mut [0])).await.unwrap().is_err());
    }
    wait_for(|| failed_handshakes(&stage, "no_certificate") == 1, "no_certificate").await;
    let mut garbage = TcpStream::connect(stage.api_at(15008)).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // An alert, and then the end.
    timeout(SOON, garbage.read_to_end(&mut rest)).await.unwrap().ok();
    wait_for(|| failed_handshakes(&stage, "handshake") == 1, "garbage").await;
}

/// Somebody who took the peer's address, with a good certificate of his own.
#[tokio::test]
async fn a_far_end_that_is_somebody_else_gets_no_byte() {
    let stage = Stage::new().await;
    let somebody = Identity::new("cluster.local", "shop", "somebody-else");
    let _listener = stage.api_listens(8080);
    // The agent of b is consistent with itself: pod api is somebody-else there, and not for a.
    let mut snapshot = millrace_model::Snapshot {
        generation: 100,
        trust_domain: "cluster.local".into(),
        ..millrace_model::Snapshot::default()
    };
    let mut api = stage.api.clone();
    api.identity = somebody.clone();
    snapshot.workloads.insert(api.name.clone(), Arc::new(api));
    stage.b.agent.say(Say::Keys(somebody.clone(), stage.authority.issue(&somebody))).await;
    stage.b.agent.say(Say::Snapshot(Arc::new(snapshot))).await;
    let mut applied = stage.b.agent.applied.clone();
    applied.wait_for(|generation| *generation == 100).await.unwrap();
    assert_eq!(refused(stage.web_tries(asked(stage.api_at(8080))).await).await, ErrorKind::ConnectionReset);
    wait_for(|| outbound_refusals(&stage, "other_identity") == 1, "other_identity").await;
}

/// Two endpoints, one on an address where no node answers: every connection is carried all the same.
#[tokio::test]
async fn a_dead_endpoint_costs_a_retry_and_no_connection() {
    let mut stage = Stage::new().await;
    let dead: IpAddr = match stage.api.addresses[0] {
        IpAddr::V4(v4) => IpAddr::from([v4.octets()[0], v4.octets()[1], 0, 77]),
        IpAddr::V6(_) => panic!("the stage is IPv4"),
    };
    let virtual_address: SocketAddr = "10.96.0.9:80".parse().unwrap();
    let name = ObjectName::new("shop", "api");
    let addresses = [stage.api.addresses[0], dead];
    stage
        .publish(|snapshot| {
            let gone = workload("dead", dead, "there");
            snapshot.workloads.insert(gone.name.clone(), Arc::new(gone));
            let port = ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() };
            let service = Service {
                name: name.clone(),
                addresses: vec![virtual_address.ip()],
                ports: vec![port],
                traffic: Default::default(),
            };
            snapshot.services.insert(name.clone(), Arc::new(service));
            let endpoint = |address| Endpoint {
                address,
                workload: None,
                ports: [((80, Protocol::Tcp), 8080)].into(),
                weight: 1,
                readiness: Readiness::Ready,
                place: Default::default(),
            };
            let endpoints = addresses.map(endpoint).to_vec();
            snapshot.endpoints.insert(name.clone(), Arc::new(Endpoints { service: name, endpoints }));
        })
        .await;
    let listener = stage.api_listens(8080);
    for _ in 0..20 {
        let service =
            Asked { address: virtual_address, backend: SocketAddr::new(dead, 8080), pick: Default::default() };
        let (mut client, accepted) = tokio::join!(stage.web_connects_to(service), listener.accept());
        let (mut server, _) = accepted.unwrap();
        server.write_all(b"!").await.unwrap();
        timeout(SOON, client.read_exact(&mut [0])).await.unwrap().unwrap();
    }
    assert!(stage.a.metric("millrace_proxy_retries_total") > 0, "in 20 draws of two the dead one came up");
}
