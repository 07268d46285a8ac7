//! What a large cluster costs the control plane, and how long a change takes to a node: its memory and processor time at rest and under
//! changes, and the time from a write's start until a subscriber holds the update.

use std::{path::PathBuf, process::Command, time::Duration};

use kube::Client;
use millrace_control::diagnostic::Kind;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    node::Node,
    process::Process,
    server::{Writer, program, server, target},
    world::{access, pod, slice},
};

/// How many nodes the pods are on.
const NODES: usize = 50;
/// Objects are made this many at a time.
const AT_ONCE: usize = 32;
/// The most that a write may take to a subscriber, for 99 of 100.
const P99: Duration = Duration::from_millis(300);
/// A control plane that reads all has published within this time.
const PATIENCE: Duration = Duration::from_secs(180);

/// How large, and how long it is looked at.
struct Size {
    n_services: usize,
    n_endpoints: usize,
    changes_a_second: u32,
    seconds: u32,
    build: Build,
}

/// Which build of the control plane is looked at.
#[derive(Clone, Copy)]
enum Build {
    /// As the other tests'.
    Test,
    /// As it is run: what figures are of.
    Release,
}

impl Build {
    fn program(self) -> PathBuf {
        match self {
            Self::Test => program("millrace-control"),
            Self::Release => {
                let mut build = Command::new(env!("CARGO"));
                build.args(["build", "--quiet", "--release", "--package", "millrace-control"]);
                let built = build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).status().unwrap();
                assert!(built.success(), "{built}");
                target().join("release/millrace-control")
            }
        }
    }
}

/// What the control plane says of its own work: how often, and for how long in all.
struct Stages(Vec<(&'static str, f64, f64)>);

impl Stages {
    fn of(process: &Process) -> Self {
        let text = process.ask("GET", "/metrics", "");
        let one = |name: String| {
            let line = text.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("no {name}: {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let of = |name| (name, one(format!("{name}_count")), one(format!("{name}_sum")));
        Self(["millrace_control_compile_seconds", "millrace_control_publish_seconds"].map(of).into())
    }

    fn print_since(&self, before: &Self) {
        for ((name, count, sum), (_, count_before, sum_before)) in self.0.iter().zip(&before.0) {
            let (n, seconds) = (count - count_before, sum - sum_before);
            println!("{name}: {n} times, {:.1} ms each", seconds / n * 1000.0);
        }
    }
}

/// The nodes that pods are on, which are there: a pod of a node that is not has a fault, and twenty thousand faults are another measurement.
async fn nodes(writer: &Writer, namespace: &str) {
    for n in 0..NODES {
        let meta = json!({"name": format!("{namespace}-{n}")});
        drop(writer.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": meta})).await);
    }
}

async fn fill(client: &Client, namespace: &str, size: &Size) {
    let gate = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    let mut made = JoinSet::new();
    let each = size.n_endpoints / size.n_services;
    for app in 0..size.n_services {
        let name = format!("app-{app}");
        let pods: Vec<(String, String)> = (0..each)
            .map(|n| {
                let number = app * each + n;
                (format!("{name}-{n}"), format!("10.{}.{}.{}", 100 + number / 65_536, number / 256 % 256, number % 256))
            })
            .collect();
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
            slice(namespace, &name, &pods),
        ];
        for (index, (pod_name, address)) in pods.iter().enumerate() {
            let node = format!("{namespace}-{}", (app + index) % NODES);
            objects.push(pod(namespace, pod_name, &name, (&node, address)));
        }
        let (writer, gate) = (Writer { client: client.clone() }, gate.clone());
        made.spawn(async move {
            let permit = gate.acquire_owned().await.unwrap();
            for object in objects {
                writer.create(&object).await;
            }
            drop(permit);
        });
    }
    while let Some(done) = made.join_next().await {
        done.unwrap();
    }
}

#[expect(clippy::too_many_lines, reason = "one measurement, read top to bottom")]
async fn measure(size: Size) {
    // First: to build it as it is released takes longer than anything that is measured.
    let program = size.build.program();
    let server = server();
    let namespace = server.namespace("size");
    let client = server.client().await;
    let writer = Writer { client: client.clone() };
    let began = millrace_control::clock::now();
    nodes(&writer, &namespace).await;
    fill(&client, &namespace, &size).await;
    println!("{} services, {} endpoints: made in {:.1?}", size.n_services, size.n_endpoints, began.elapsed());

    let began = millrace_control::clock::now();
    let process = Process::of(&program, &server.kubeconfig(), &[&namespace]);
    let wanted = format!("\"n_services\":{}", size.n_services);
    while !process.log().contains(&wanted) {
        assert!(began.elapsed() < PATIENCE, "{}", process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "read and published {:.1?} after the start, {:.1?} of processor time",
        began.elapsed(),
        process.processor()
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, rest) = (process.processor(), Duration::from_secs(5));
    tokio::time::sleep(rest).await;
    let (now, most) = process.memory();
    let used = (process.processor() - before).as_secs_f64() / rest.as_secs_f64() * 100.0;
    println!("at rest: {now} MiB, at most {most} MiB, {used:.1} % of one core");

    let address = process.address().unwrap();
    let token = process.token(&format!("{namespace}-0"));
    let node = Node::join_at(address, "cluster.local", &token).await.unwrap();
    let mut updates = node.policies(address).await;
    writer.create(&access(&namespace, "guard", "app-0", "Allow")).await;
    updates.until(|policy| policy.name.name.as_ref() == "guard").await;

    let before = process.processor();
    let window = millrace_control::clock::now();
    let mut changes = JoinSet::new();
    let pace = Duration::from_secs(1) / size.changes_a_second;
    let (mut times, mut writes) = (Vec::new(), Vec::new());
    let stages = Stages::of(&process);
    let (mut sent, mut port) = (0_u32, 1000_u16);
    while window.elapsed() < Duration::from_secs(size.seconds.into()) {
        let due = pace * sent;
        if window.elapsed() < due {
            tokio::time::sleep(due - window.elapsed()).await;
        }
        let (changer, place) = (writer.clone(), namespace.clone());
        let app = sent as usize * 7 % size.n_services;
        let patch = json!({"ports": [{"name": "http", "port": 8081 + sent % 100, "protocol": "TCP"}]});
        changes.spawn(async move {
            changer.merge(Kind::EndpointSlice, &place, &format!("app-{app}-1"), &patch).await;
        });
        sent += 1;
        if sent % 10 == 0 {
            port += 1;
            let spec = json!({"spec": {"rules": [{"to": [{"ports": [port]}]}]}});
            let began = millrace_control::clock::now();
            writer.merge(Kind::AccessPolicy, &namespace, "guard", &spec).await;
            writes.push(began.elapsed());
            updates.until(|policy| policy.rules.iter().any(|rule| rule.ports.contains(&port))).await;
            times.push(began.elapsed());
        }
    }
    while changes.join_next().await.is_some() {}
    let used = (process.processor() - before).as_secs_f64() / window.elapsed().as_secs_f64() * 100.0;
    let (now, most) = process.memory();
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!(
        "under {:.0} changes a second: {now} MiB, at most {most} MiB, {used:.0} % of one core",
        f64::from(sent) / window.elapsed().as_secs_f64()
    );
    println!(
        "write to subscriber, {} writes: p50 {p50:.0?}, p99 {p99:.0?}, most {:.0?}",
        times.len(),
        times.last().unwrap()
    );
    writes.sort();
    println!(
        "of that, until the API server answered: p50 {:.0?}, p99 {:.0?}",
        writes[writes.len() / 2],
        writes[writes.len() * 99 / 100]
    );
    Stages::of(&process).print_since(&stages);
    for n in 0..NODES {
        writer.delete(Kind::Node, "", &format!("{namespace}-{n}")).await;
    }
    assert!(p99 < P99, "p99 is {p99:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_at_a_subscriber_in_time_while_others_come() {
    Box::pin(measure(Size { n_services: 100, n_endpoints: 400, changes_a_second: 50, seconds: 5, build: Build::Test }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: makes 30,000 objects"]
async fn five_thousand_services_are_held_and_changed_in_time() {
    Box::pin(measure(Size {
        n_services: 5_000,
        n_endpoints: 20_000,
        changes_a_second: 50,
        seconds: 20,
        build: Build::Release,
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: makes 70,000 objects"]
async fn ten_thousand_services_of_fifty_thousand_endpoints_are_held() {
    Box::pin(measure(Size {
        n_services: 10_000,
        n_endpoints: 50_000,
        changes_a_second: 10,
        seconds: 10,
        build: Build::Release,
    }))
    .await;
}
