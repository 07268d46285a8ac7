//! Subscribe: what a node is told, how it resumes, and what becomes of what it says.

use std::time::Duration;

use millrace_control::clock;
use millrace_model::{Membership, ObjectName, Snapshot, service::Readiness};
use millrace_wire::control::{Applied, node_message::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::{Mesh, PATIENCE, SHOP, Subscription, message};

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn db() -> ObjectName {
    ObjectName::new("shop", "db")
}

const DENY: &str = "
apiVersion: millrace.dev/v1alpha1
kind: AccessPolicy
metadata: {name: no-web, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  action: Deny
  rules: [{from: [{identities: [shop/web]}]}]
";

#[tokio::test]
async fn a_node_sees_the_whole_mesh_and_only_its_own_network_namespaces() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let mut stream = Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    let delta = stream.next().await;
    assert_eq!(delta.from, 0);
    let seen = &stream.snapshot;
    assert_eq!(seen.workloads.len(), 3);
    assert_eq!(seen.workloads[&web()].netns.as_deref(), Some("/run/netns/web"));
    assert_eq!(seen.workloads[&db()].netns, None);
    assert_eq!(seen.services.len(), 1);
    assert!(seen.generation > 1_600_000_000_000, "generations grow across restarts");
}

#[tokio::test]
async fn an_edit_reaches_a_node_in_a_third_of_a_second() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("b").await;
    let mut stream = Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    stream.next().await;
    let begun = clock::now();
    mesh.write("deny.yaml", DENY);
    let delta = stream.next().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(300), "it took {took:?}");
    assert_eq!(delta.policies.set.len(), 1);
    assert_eq!(delta.workloads.set.len(), 1, "only the pod that is bound by it: {delta:?}");
    assert!(stream.snapshot.workloads[&db()].policies.contains(&ObjectName::new("shop", "no-web")));
    std::fs::remove_file(mesh.directory.path().join("deny.yaml")).unwrap();
    stream.until(|s| s.policies.is_empty()).await;
}

#[tokio::test]
async fn a_known_generation_is_resumed_and_an_unknown_one_begins_from_the_empty_snapshot() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("b").await;
    let mut client = mesh.client(&own).await;
    let mut stream = Subscription::open(&mut client, Snapshot::default()).await.unwrap();
    stream.next().await;
    let held = stream.snapshot.clone();
    drop(stream);

    mesh.write("deny.yaml", DENY);
    let mut told = mesh.control.history.clone();
    told.wait_for(|history| history.now().is_some_and(|e| e.generation() > held.generation)).await.unwrap();
    let mut stream = Subscription::open(&mut client, held.clone()).await.unwrap();
    let delta = stream.next().await;
    assert_eq!(delta.from, held.generation);
    assert_eq!((delta.workloads.set.len(), delta.services.set.len()), (1, 0), "the difference and no more");
    let now = stream.snapshot.clone();
    drop(stream);

    for unknown in [1, u64::MAX] {
        let strange = Snapshot { generation: unknown, ..held.clone() };
        let mut stream = Subscription::open(&mut client, strange).await.unwrap();
        assert_eq!(stream.next().await.from, 0);
        assert_eq!(stream.snapshot, now, "what it held of an unknown generation does not remain");
    }

    let mut stream = Subscription::open(&mut client, now.clone()).await.unwrap();
    let roots = stream.updates.message().await.unwrap().unwrap();
    assert!(roots.trust.is_some() && (roots.from, roots.to) == (now.generation, now.generation));
    let nothing = tokio::time::timeout(Duration::from_millis(300), stream.updates.message()).await;
    assert!(nothing.is_err(), "who has the newest is told nothing more");
}

#[tokio::test]
async fn a_workload_is_enrolled_while_its_own_node_says_that_it_listens() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let (a, b) = (mesh.node("a").await, mesh.node("b").await);
    let mut on_a = Subscription::open(&mut mesh.client(&a).await, Snapshot::default()).await.unwrap();
    let mut on_b = Subscription::open(&mut mesh.client(&b).await, Snapshot::default()).await.unwrap();
    on_a.next().await;
    on_b.next().await;
    assert_eq!(on_a.snapshot.workloads[&db()].membership, Membership::Pending);
    assert_eq!(on_a.snapshot.endpoints[&db()].endpoints[0].readiness, Readiness::Unready);

    // Of another's pod a node has no say; nor of one that was there before under the same name.
    on_a.listening(&[(&db(), "b"), (&web(), "older")]).await;
    on_b.listening(&[(&db(), "b")]).await;
    on_a.until(|s| s.workloads[&db()].membership == Membership::Enrolled).await;
    assert_eq!(on_a.snapshot.workloads[&web()].membership, Membership::Pending);
    assert_eq!(on_a.snapshot.endpoints[&db()].endpoints[0].readiness, Readiness::Ready);

    on_a.listening(&[(&web(), "a")]).await;
    on_b.until(|s| s.workloads[&web()].membership == Membership::Enrolled).await;

    // A node that is away keeps its say: its pods' listeners are still open.
    drop(on_b);
    mesh.write("deny.yaml", DENY);
    on_a.until(|s| !s.policies.is_empty()).await;
    assert_eq!(on_a.snapshot.workloads[&db()].membership, Membership::Enrolled);

    let mut on_b = Subscription::open(&mut mesh.client(&b).await, Snapshot::default()).await.unwrap();
    on_b.next().await;
    on_b.listening(&[]).await;
    on_a.until(|s| s.workloads[&db()].membership == Membership::Pending).await;
}

/// A node that never saw its pods go, for the next update came with them again, has nothing new to say.
#[tokio::test]
async fn pods_that_are_gone_for_a_moment_are_enrolled_again_without_another_word_of_their_node() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let b = mesh.node("b").await;
    let mut stream = Subscription::open(&mut mesh.client(&b).await, Snapshot::default()).await.unwrap();
    stream.next().await;
    stream.listening(&[(&db(), "b")]).await;
    stream.until(|s| s.workloads[&db()].membership == Membership::Enrolled).await;
    std::fs::remove_file(mesh.directory.path().join("shop.yaml")).unwrap();
    stream.until(|s| s.workloads.is_empty()).await;
    mesh.write("shop.yaml", SHOP);
    // Not at once: its word is of before they went.
    stream.until(|s| s.workloads.get(&db()).is_some_and(|db| db.membership == Membership::Enrolled)).await;
}

/// Else every restart of the control plane would close the mesh until the last agent came back.
#[tokio::test]
async fn a_restarted_control_plane_knows_who_was_enrolled_and_goes_on_counting() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let b = mesh.node("b").await;
    let mut stream = Subscription::open(&mut mesh.client(&b).await, Snapshot::default()).await.unwrap();
    stream.next().await;
    stream.listening(&[(&db(), "b")]).await;
    stream.until(|s| s.workloads[&db()].membership == Membership::Enrolled).await;
    let before = stream.snapshot.clone();
    drop(stream);

    let mesh = mesh.restarted().await;
    let mut stream = Subscription::open(&mut mesh.client(&b).await, before.clone()).await.unwrap();
    let delta = stream.next().await;
    assert_eq!(delta.from, 0);
    // Not greater: a restart within one tick of the clock may count lower, and nodes go by what came last.
    assert_ne!(delta.to, before.generation);
    assert_eq!(stream.snapshot.workloads, before.workloads);
}

#[tokio::test]
async fn a_slow_node_gets_the_newest_in_one_update() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let mut stream = Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    stream.next().await;
    // Far more than any window between them holds: each edition is some 3 MiB for this node, and it reads nothing.
    let mut told = mesh.control.history.clone();
    for round in 0..6 {
        let before = told.borrow().now().unwrap().generation();
        let policies: Vec<_> = (0..36).map(|i| large(i, 1000 + round)).collect();
        mesh.write("big.yaml", &policies.join("\n---\n"));
        told.wait_for(|history| history.now().is_some_and(|e| e.generation() > before)).await.unwrap();
    }
    let newest = told.borrow().now().unwrap().generation();
    let mut n_updates = 0;
    while stream.snapshot.generation < newest {
        stream.next().await;
        n_updates += 1;
    }
    assert!(n_updates < 6, "{n_updates} updates for six editions");
}

/// A policy of as many callers as one may name.
fn large(i: usize, port: usize) -> String {
    let callers = (0..1000).map(|j| format!("shop/account-{i}-{j}")).collect::<Vec<_>>().join(", ");
    format!(
        "{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: large-{i}, namespace: shop}}, \
         spec: {{rules: [{{from: [{{identities: [{callers}]}}], to: [{{ports: [{port}]}}]}}]}}}}"
    )
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_have_is_refused() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let (say, said) = mpsc::channel(1);
    say.send(message(Kind::Applied(Applied { generation: 1, failures: Vec::new() }))).await.unwrap();
    let status = mesh.client(&own).await.subscribe(ReceiverStream::new(said)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("stream:"), "{status}");
}

#[tokio::test]
async fn who_is_no_node_subscribes_to_nothing() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let status = Subscription::open(&mut mesh.stranger().await, Snapshot::default()).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
}

/// A stream lives as long as its node: it must not keep the control plane from stopping.
#[tokio::test]
async fn a_control_plane_that_is_told_to_stop_ends_its_streams_and_stops() {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mesh = Mesh::until(&[("shop.yaml", SHOP)], async { drop(stopped.await) }).await;
    let own = mesh.node("a").await;
    let mut stream = Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    stream.next().await;
    stop.send(()).unwrap();
    let end = tokio::time::timeout(PATIENCE, stream.updates.message()).await.expect("the stream ends");
    assert!(matches!(end, Ok(None)), "{end:?}");
    drop(stream);
    tokio::time::timeout(PATIENCE, mesh.control.ended()).await.expect("it stops").unwrap();
}
