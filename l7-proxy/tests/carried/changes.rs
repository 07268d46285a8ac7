//! The world changes under open connections: policy, keys, pods, agents, proxies.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use millrace_model::{Action, Identity, Policy, Rule, Source, Tier};
use millrace_node::wire::node::ListenerKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    agent::{FakeAgent, Say},
    stage::{Node, PANICS, SOON, Stage, asked, refused, wait_for},
};

/// What a changed policy has to be in force in, on connections that are open.
const IN_FORCE: Duration = Duration::from_secs(1);

async fn pair(stage: &Stage, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let target = listener.local_addr().unwrap();
    let connecting = async {
        match target.port() {
            9000 => TcpStream::connect(target).await.unwrap(),
            _ => stage.web_connects(target).await,
        }
    };
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    (client, accepted.unwrap().0)
}

async fn is_alive(pair: &mut (TcpStream, TcpStream)) {
    pair.0.write_all(b"?").await.unwrap();
    timeout(SOON, pair.1.read_exact(&mut [0])).await.unwrap().unwrap();
    pair.1.write_all(b"!").await.unwrap();
    timeout(SOON, pair.0.read_exact(&mut [0])).await.unwrap().unwrap();
}

async fn was_reset(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.unwrap();
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn deny_all() -> Policy {
    Policy {
        name: millrace_model::ObjectName::new("shop", "closed"),
        action: Action::Deny,
        rules: vec![Rule::default()],
        tier: Tier::Access,
    }
}

#[tokio::test]
async fn an_open_connection_that_policy_now_denies_is_reset_within_a_second() {
    let mut stage = Stage::new().await;
    let (tunnelled, plain) = (stage.api_listens(8080), stage.api_listens(9000));
    let mut first = pair(&stage, &tunnelled).await;
    let mut second = pair(&stage, &plain).await;
    is_alive(&mut first).await;
    is_alive(&mut second).await;
    // A policy that goes on allowing them leaves them alone.
    let of_all = Source::Block("127.0.0.0/8".parse().unwrap());
    let rules = vec![Rule { from: vec![of_all], ports: Default::default(), protocol: None }];
    let open = Policy {
        name: millrace_model::ObjectName::new("shop", "open"),
        action: Action::Allow,
        rules,
        tier: Tier::Access,
    };
    stage.publish_policy(open).await;
    is_alive(&mut first).await;
    is_alive(&mut second).await;
    #[expect(clippy::disallowed_methods, reason = "the test measures")]
    let began = Instant::now();
    stage.publish_policy(deny_all()).await;
    for stream in [&mut first.0, &mut first.1, &mut second.0, &mut second.1] {
        assert!(was_reset(stream).await);
    }
    assert!(began.elapsed() < IN_FORCE, "{:?}", began.elapsed());
    let denial = timeout(SOON, stage.b.agent.denials.recv()).await.unwrap().unwrap();
    assert_eq!((denial.reason.as_str(), denial.policy.as_str()), ("revoked", "shop/closed"));
}

#[tokio::test]
async fn a_pod_that_goes_takes_its_connections_and_listeners_along() {
    let mut stage = Stage::new().await;
    stage.let_go();
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    is_alive(&mut open).await;
    stage.b.agent.say(Say::Close(stage.api.name.clone())).await;
    assert!(was_reset(&mut open.0).await);
    assert!(was_reset(&mut open.1).await);
    for _ in 0..200 {
        // The last holder's descriptor closes the listener: the port is closed.
        if TcpStream::connect(stage.api_at(15008)).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the pod's listener stayed open");
}

/// It has answered and ended, as on a roll-out, and its pod was taken away before all of that was on its way.
#[tokio::test]
async fn what_a_pod_said_last_arrives_though_the_pod_is_gone() {
    /// More than a stream has under way: the rest waits at the pod's node for its reader.
    const LAST: usize = 8 << 20;
    let mut stage = Stage::new().await;
    stage.let_go();
    let listener = stage.api_listens(8080);
    let (mut client, mut server) = pair(&stage, &listener).await;
    let says = tokio::spawn(async move {
        server.write_all(&vec![7; LAST]).await.unwrap();
        server.shutdown().await.unwrap();
        server
    });
    timeout(SOON, client.readable()).await.unwrap().unwrap();
    stage.b.agent.say(Say::Close(stage.api.name.clone())).await;
    let closed = async { while TcpStream::connect(stage.api_at(15008)).await.is_ok() {} };
    timeout(SOON, closed).await.unwrap();
    assert_eq!(refused(stage.web_tries(asked(stage.api_at(8080))).await).await, ErrorKind::ConnectionReset);
    let mut said = Vec::new();
    timeout(SOON, client.read_to_end(&mut said)).await.unwrap().expect("it ends in order");
    assert_eq!(said.len(), LAST);
    drop(says.await.unwrap());
}

/// The peer's workload is replaced by another at its address: the old tunnel must not be used for it.
#[tokio::test]
async fn a_peer_that_is_replaced_loses_its_tunnels() {
    let mut stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    is_alive(&mut open).await;
    let before = stage.a.metric("millrace_proxy_tunnels{end=\"client\"}");
    assert_eq!(before, 1);
    stage.api.instance = "uid-2".into();
    stage.publish(|_| ()).await;
    assert!(was_reset(&mut open.0).await);
    wait_for(|| stage.a.metric("millrace_proxy_tunnels{end=\"client\"}") == 0, "the tunnel's end").await;
}

#[tokio::test]
async fn a_new_key_is_used_for_new_tunnels_and_open_connections_go_on() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    is_alive(&mut open).await;
    let opened = stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}");
    for _ in 0..2 {
        let key = stage.authority.issue(&stage.web.identity);
        stage.a.agent.say(Say::Keys(stage.web.identity.clone(), key)).await;
    }
    // Keys are taken in order, but nothing says when: new connections come until one took a new tunnel.
    for _ in 0..200 {
        let mut next = pair(&stage, &listener).await;
        is_alive(&mut next).await;
        if stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}") > opened + 1 {
            return is_alive(&mut open).await;
        }
    }
    panic!("the old key's tunnel took every connection");
}

#[tokio::test]
async fn an_identity_that_is_retired_dials_no_more() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    is_alive(&mut open).await;
    stage.a.agent.say(Say::Retire(stage.web.identity.clone())).await;
    // Its tunnels are closed by the next sweep.
    assert!(was_reset(&mut open.0).await);
    let next = stage.web_tries(asked(stage.api_at(8080))).await;
    assert_eq!(refused(next).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn traffic_goes_on_without_an_agent_and_the_next_one_gets_the_listeners_back() {
    let mut stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    let path = stage.b.dir.path().join("proxy.sock");
    let makes = stage.b.makes.clone();
    stage.b.agent.stop().await;
    is_alive(&mut open).await;
    for _ in 0..3 {
        is_alive(&mut pair(&stage, &listener).await).await;
    }
    stage.b.agent = FakeAgent::start(&path, makes);
    let returned = timeout(SOON, stage.b.agent.returned.recv()).await.unwrap().unwrap();
    assert_eq!(returned, ("api".to_owned(), 2));
    stage.b.agent.applied(1).await;
    is_alive(&mut open).await;
    for _ in 0..30 {
        is_alive(&mut pair(&stage, &listener).await).await;
    }
}

/// A newer proxy took over: open connections end in their own time, new ones are not taken.
#[tokio::test]
async fn a_drained_proxy_finishes_what_is_open_even_without_an_agent() {
    let mut stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    is_alive(&mut open).await;
    stage.a.agent.say(Say::Drain(20_000)).await;
    // It accepts no more: the connection waits in the backlog for the newer proxy.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let waiting = stage.web_connects(stage.api_at(8080)).await;
    is_alive(&mut open).await;
    assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err());
    // It is told of changes still.
    stage.publish(|_| ()).await;
    stage.a.agent.stop().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    is_alive(&mut open).await;
    drop(open);
    let Stage { a, .. } = stage;
    timeout(SOON, a.running.ended()).await.expect("it ends with its last connection").unwrap();
    drop(waiting);
}

/// Two listeners for one pod, the second in place of the first: connections of the first go on.
#[tokio::test]
async fn listeners_are_replaced_under_open_connections() {
    let mut stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    let fresh = TcpListener::bind((stage.web.addresses[0], 0)).await.unwrap();
    let former: SocketAddr = std::mem::replace(&mut stage.outbound, fresh.local_addr().unwrap());
    let fresh = vec![(ListenerKind::OutboundV4, OwnedFd::from(fresh.into_std().unwrap()))];
    stage.a.agent.say(Say::Listeners(stage.web.name.clone(), fresh)).await;
    is_alive(&mut pair(&stage, &listener).await).await;
    is_alive(&mut open).await;
    for _ in 0..200 {
        if TcpStream::connect(former).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the former listener stayed open");
}

/// Nobody of the mesh: the certificate is good, the snapshot does not know the pod that asks.
#[tokio::test]
async fn a_caller_that_the_snapshot_does_not_know_is_judged_by_its_certificate() {
    let mut stage = Stage::new().await;
    let stranger = Source::Identity(Identity::new("cluster.local", "shop", "stranger"));
    let rules = vec![Rule { from: vec![stranger], ports: Default::default(), protocol: None }];
    let name = millrace_model::ObjectName::new("shop", "for-strangers");
    stage.publish_policy(Policy { name, action: Action::Allow, rules, tier: Tier::Access }).await;
    let _listener = stage.api_listens(8080);
    let tried = stage.web_tries(asked(stage.api_at(8080))).await;
    assert_eq!(refused(tried).await, ErrorKind::ConnectionReset);
}

/// A newer proxy on node b is given the same listeners, and the older one drains: nobody who connects meanwhile fails.
#[tokio::test]
async fn a_newer_proxy_takes_over_and_no_connection_fails() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    let mut newer = Node::start(Some(stage.api_netns.clone()));
    newer.agent.say(Say::Snapshot(stage.snapshot())).await;
    newer.agent.say(Say::Keys(stage.api.identity.clone(), stage.authority.issue(&stage.api.identity))).await;
    newer.agent.say(Say::Listeners(stage.api.name.clone(), stage.api_listeners())).await;
    newer.agent.applied(1).await;
    for turn in 0..200 {
        if turn == 50 {
            stage.b.agent.say(Say::Drain(20_000)).await;
        }
        is_alive(&mut pair(&stage, &listener).await).await;
    }
    assert!(newer.metric("millrace_proxy_connections_opened_total{direction=\"inbound\"}") > 0);
    is_alive(&mut open).await;
    drop(open);
    let Stage { b, .. } = stage;
    timeout(SOON, b.running.ended()).await.expect("the older one ends with its last connection").unwrap();
}

#[tokio::test]
async fn a_panic_in_one_connection_ends_only_that_one() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut open = pair(&stage, &listener).await;
    let panics = stage.web_tries(asked(PANICS)).await.unwrap();
    let mut panics = panics;
    assert_ne!(timeout(SOON, panics.read(&mut [0])).await.unwrap().ok(), Some(1));
    is_alive(&mut open).await;
    is_alive(&mut pair(&stage, &listener).await).await;
    let line = "millrace_proxy_connections_refused_total{direction=\"outbound\",reason=\"aborted\"}";
    wait_for(|| (stage.a.metric("millrace_proxy_panics_total"), stage.a.metric(line)) == (1, 1), "its count").await;
}
