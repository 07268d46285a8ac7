//! Two replicas, each of which compiles for all nodes whichever they are connected to: either may be killed, or both be replaced.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millrace_control::{clock, diagnostic::Kind};
use millrace_model::{Membership, ObjectName, Snapshot};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    follower::{Follower, Seen},
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    process::Process,
    server::{Server, Writer, server},
    world::{access, pod, service, slice},
};

/// Bounded looks at what followers have seen: they are told by a replica, not by an event here.
const LOOK: Duration = Duration::from_millis(20);
/// A stream that was lost is had again within this time: a try, and what is under way on a machine of two cores.
const AWAY: Duration = Duration::from_secs(3);
/// Between two changes while replicas come and go.
const PACE: Duration = Duration::from_millis(25);

/// A service of two steady pods on two nodes, and another whose endpoints change all the time.
async fn a_shop(server: &Server) -> (String, Writer, [String; 2]) {
    let shop = server.namespace("replicas");
    let writer = Writer { client: server.client().await };
    let nodes = ["a", "b"].map(|node| format!("{shop}-{node}"));
    for app in ["steady-web", "moving"] {
        let mut pods = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let last = if app == "moving" { 10 + index } else { 1 + index };
            let (name, address) = (format!("{app}-{index}"), format!("10.8.0.{last}"));
            writer.create(&pod(&shop, &name, app, (node, &address))).await;
            pods.push((name, address));
        }
        writer.create(&service(&shop, app, None)).await;
        writer.create(&slice(&shop, app, &pods)).await;
    }
    (shop, writer, nodes)
}

async fn until(follower: &Follower, what: &str, holds: impl Fn(&Seen) -> bool) -> Duration {
    let began = clock::now();
    while !follower.look(&holds) {
        assert!(
            began.elapsed() < PATIENCE,
            "{}: {what}: {:#?}",
            follower.name,
            follower.look(|seen| format!("{seen:?}"))
        );
        tokio::time::sleep(LOOK).await;
    }
    began.elapsed()
}

fn is_enrolled(snapshot: &Snapshot, shop: &str) -> bool {
    let pod = |index| snapshot.workloads.get(&ObjectName::new(shop, &format!("steady-web-{index}")));
    let enrolled = |index| pod(index).is_some_and(|pod| pod.membership == Membership::Enrolled);
    enrolled(0) && enrolled(1)
}

/// Changes endpoints and policies until it is aborted.
fn load(writer: Writer, shop: String) -> JoinHandle<()> {
    tokio::spawn(async move {
        for turn in 0_u32.. {
            let patch = json!({"ports": [{"name": "http", "port": 8081 + turn % 100, "protocol": "TCP"}]});
            writer.merge(Kind::EndpointSlice, &shop, "moving-1", &patch).await;
            tokio::time::sleep(PACE).await;
        }
    })
}

/// A new policy is at every follower, wherever that is connected by now.
async fn reaches_all(writer: &Writer, shop: &str, followers: &[Follower], name: &str) {
    writer.create(&access(shop, name, "moving", "Allow")).await;
    let policy = ObjectName::new(shop, name);
    for follower in followers {
        until(follower, name, |seen| seen.at.is_some() && seen.snapshot.policies.contains_key(&policy)).await;
    }
}

/// Replicas by their address, as a Service would name them.
struct Replicas {
    running: Vec<(SocketAddr, Process)>,
    known: watch::Sender<Vec<SocketAddr>>,
}

impl Replicas {
    async fn start(&mut self, server: &Server, shop: &str) -> SocketAddr {
        let process = Process::start(&server.kubeconfig(), &[shop]);
        let address = process.ready().await;
        self.running.push((address, process));
        self.tell();
        address
    }

    fn take(&mut self) -> Process {
        let (_, process) = self.running.remove(0);
        self.tell();
        process
    }

    fn tell(&self) {
        // Half of the nodes begin with each.
        self.known.send_replace(self.running.iter().map(|(address, _)| *address).collect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_replica_may_be_killed_or_replaced_under_load_and_no_route_turns_back() {
    let server = server();
    let (shop, writer, nodes) = a_shop(server).await;
    let (known, _) = watch::channel(Vec::new());
    let mut replicas = Replicas { running: Vec::new(), known };
    replicas.start(server, &shop).await;
    replicas.start(server, &shop).await;
    let mut followers = Vec::new();
    for (index, name) in nodes.iter().enumerate() {
        let (address, process) = &replicas.running[index];
        let node = Node::join_at(*address, "cluster.local", &process.token(name)).await.unwrap();
        // One begins with the first replica, one with the second.
        let mut order = replicas.known.subscribe();
        let (ordered, order_end) = watch::channel(Vec::new());
        tokio::spawn(async move {
            loop {
                let mut addresses = order.borrow_and_update().clone();
                if index == 1 {
                    addresses.reverse();
                }
                ordered.send_replace(addresses);
                if order.changed().await.is_err() {
                    return;
                }
            }
        });
        followers.push(Follower::start(name, node, order_end));
    }
    for follower in &followers {
        until(follower, "pods of both nodes are enrolled", |seen| is_enrolled(&seen.snapshot, &shop)).await;
    }
    let at: Vec<Option<SocketAddr>> = followers.iter().map(|follower| follower.look(|seen| seen.at)).collect();
    assert_ne!(at[0], at[1], "each is another replica's");
    let load = load(writer.clone(), shop.clone());
    for (turn, how) in ["killed", "killed", "stopped", "stopped"].into_iter().enumerate() {
        let replica = replicas.take();
        if how == "killed" {
            drop(replica);
        } else {
            replica.stop().await;
        }
        reaches_all(&writer, &shop, &followers, &format!("after-{turn}")).await;
        // As a Deployment does; the next is not taken before this one is ready.
        replicas.start(server, &shop).await;
        reaches_all(&writer, &shop, &followers, &format!("back-{turn}")).await;
    }
    assert!(!load.is_finished(), "a change was refused");
    load.abort();
    for follower in &followers {
        follower.look(|seen| {
            println!(
                "{}: {} updates on {} streams, at most {:.0?} without one",
                follower.name, seen.n_updates, seen.n_streams, seen.longest_away
            );
            assert_eq!(seen.flaps, [] as [String; 0], "{}", follower.name);
            assert_eq!(seen.n_unfitting, 0, "a difference from what {} does not have", follower.name);
            assert!(seen.longest_away < AWAY, "{}: {:?} without a stream", follower.name, seen.longest_away);
        });
    }
}

/// What a node says to one replica is the other's too, and outlives both.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_publishes_nothing_before_it_knows_what_the_nodes_of_others_listen_on() {
    let server = server();
    let (shop, _, nodes) = a_shop(server).await;
    let source = || kubernetes(server.kubeconfig(), &[&shop]);
    let (first, mut second) = (Mesh::over(source()).await, Mesh::over(source()).await);
    let (known, addresses) = watch::channel(vec![first.control.address]);
    let mut followers = Vec::new();
    for name in &nodes {
        followers.push(Follower::start(name, Node::named(&first, name).await, addresses.clone()));
    }
    second.until("it hears of what the other's nodes say", |snapshot| is_enrolled(snapshot, &shop)).await;
    drop(followers);
    first.stop().await;
    drop(known);
    let mut third = Mesh::over(source()).await;
    let earliest = third.until("it publishes", |snapshot| !snapshot.workloads.is_empty()).await;
    assert!(
        is_enrolled(&earliest, &shop),
        "the first that it published is of before its nodes were known: {earliest:#?}"
    );
    second.stop().await;
    third.stop().await;
}

/// An object that is written again without a change wakes every replica: a node that comes back with the same to say writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_its_replica_and_says_the_same_writes_nothing() {
    let server = server();
    let (shop, _, nodes) = a_shop(server).await;
    let source = || kubernetes(server.kubeconfig(), &[&shop]);
    let (mut first, second) = (Mesh::over(source()).await, Mesh::over(source()).await);
    let (known, addresses) = watch::channel(vec![first.control.address]);
    let node = Arc::new(&nodes[0]);
    let follower = Follower::start(&node, Node::named(&first, &node).await, addresses);
    let pod = ObjectName::new(&shop, "steady-web-0");
    let enrolled =
        |snapshot: &Snapshot| snapshot.workloads.get(&pod).is_some_and(|pod| pod.membership == Membership::Enrolled);
    first.until("it is enrolled", enrolled).await;
    let version = || {
        let args = [
            "get",
            "lease",
            &format!("node.{node}"),
            "-n",
            "millrace-system",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ];
        String::from_utf8_lossy(&server.kubectl(&args, "").stdout).into_owned()
    };
    let began = clock::now();
    while version().is_empty() {
        assert!(began.elapsed() < PATIENCE, "nothing is written");
        tokio::time::sleep(LOOK).await;
    }
    let before = version();
    known.send_replace(vec![second.control.address]);
    first.stop().await;
    until(&follower, "it found the second", |seen| seen.n_streams == 2).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(version(), before);
    assert_eq!(follower.look(|seen| seen.flaps.clone()), [] as [String; 0]);
    second.stop().await;
}
