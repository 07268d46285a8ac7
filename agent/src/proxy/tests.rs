//! States what a proxy is given, in what order, and who serves while one takes over from another.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_model::{Encryption, Identity, Membership, ObjectName, Snapshot, Workload};
use millrace_node::{
    clock,
    wire::node::{Family, Hello, Settings, from_agent::Kind},
};
use tokio::sync::mpsc;

use super::{HOLDER, MAX_WAITING, Outgoing, Proxies, QUEUE, SOCKETS_PER_SECOND, Wanted};
use crate::{
    certificates::{Certificates, Issued},
    control::Step,
    node::Sealed,
    pods::{Pod, listener},
};

fn descriptor() -> Arc<OwnedFd> {
    Arc::new(File::open("/dev/null").unwrap().into())
}

fn web() -> Pod {
    let workload = Workload {
        name: ObjectName::new("shop", "web"),
        instance: "1".into(),
        identity: Identity::new("td", "shop", "web"),
        addresses: vec![[10, 0, 0, 1].into()],
        node: "a".into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    };
    let mut pod = Pod::new(Arc::new(workload)).found_at(7);
    pod.listeners = listener::kinds(&pod.workload).map(|kind| (kind, descriptor())).collect();
    pod
}

fn keys(expires: u64) -> Certificates {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(expires);
    let issued =
        Issued { sealed: descriptor(), not_after: at, renew: at, issued: SystemTime::UNIX_EPOCH, issuer_sha256: None };
    [(Identity::new("td", "shop", "web"), Arc::new(issued))].into()
}

fn hello(name: String, draining: bool) -> Hello {
    Hello { name, version: "1".to_owned(), draining, takes_differences: true }
}

/// A node with its proxies, and what each of them was told.
struct Scene {
    proxies: Proxies,
    told: BTreeMap<u64, mpsc::Receiver<Outgoing>>,
    snapshot: Sealed,
    generation: u64,
    keys: Certificates,
    pods: Vec<Pod>,
}

impl Scene {
    fn new() -> Self {
        let (proxies, told) = (Proxies::default(), BTreeMap::new());
        let snapshot = Sealed::new(None, &Arc::default());
        Self { proxies, told, snapshot, generation: 5, keys: keys(1), pods: vec![web()] }
    }

    fn joins(&mut self, id: u64, name: &str) {
        let (outgoing, told) = mpsc::channel(64);
        self.proxies.join(id, hello(name.into(), false), outgoing, ("a", [descriptor(), descriptor()]));
        self.told.insert(id, told);
    }

    fn applies(&mut self, id: u64, generation: u64) {
        self.proxies.applied(id, generation);
        self.update();
    }

    fn update(&mut self) {
        self.proxies.update(&Wanted {
            generation: self.generation,
            snapshot: Some(&self.snapshot),
            settings: &Settings::default(),
            keys: &self.keys,
            pods: self.pods.iter().map(|pod| (&pod.workload.name, pod)).collect(),
        });
    }

    /// What a proxy was told since this was asked last, by name.
    fn told(&mut self, id: u64) -> Vec<&'static str> {
        let told = self.told.get_mut(&id).unwrap();
        std::iter::from_fn(|| told.try_recv().ok())
            .map(|Outgoing { message, descriptors }| {
                millrace_node::handover::check_from_agent(&message, descriptors.len()).unwrap();
                match message.kind.unwrap() {
                    Kind::Welcome(_) => "welcome",
                    Kind::Snapshot(_) => "snapshot",
                    Kind::Listeners(_) => "listeners",
                    Kind::Close(_) => "close",
                    Kind::Sockets(_) => "sockets",
                    Kind::Keys(_) => "keys",
                    Kind::Drain(_) => "drain",
                    Kind::Retire(_) => "retire",
                }
            })
            .collect()
    }
}

#[test]
fn a_proxy_gets_snapshot_then_keys_then_listeners_once() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.update();
    assert_eq!(scene.told(1), ["welcome"], "it has not told yet what it holds");
    scene.applies(1, 0);
    assert_eq!(scene.told(1), ["snapshot", "keys", "listeners"]);
    scene.update();
    assert!(scene.told(1).is_empty());
    assert!(scene.proxies.holds(&scene.pods[0].workload.name, &scene.pods[0]));
}

#[test]
fn listeners_wait_for_the_key_that_they_need() {
    let mut scene = Scene { keys: Certificates::new(), ..Scene::new() };
    scene.joins(1, "default");
    scene.applies(1, 0);
    assert_eq!(scene.told(1), ["welcome", "snapshot"]);
    scene.keys = keys(1);
    scene.update();
    assert_eq!(scene.told(1), ["keys", "listeners"]);
}

#[test]
fn only_what_changed_is_told_again() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.applies(1, 0);
    scene.told(1);
    scene.keys = keys(2);
    scene.update();
    assert_eq!(scene.told(1), ["keys"], "a renewed certificate");
    scene.generation = 6;
    scene.update();
    assert_eq!(scene.told(1), ["snapshot"]);
    (scene.pods, scene.keys) = (vec![], Certificates::new());
    scene.update();
    assert_eq!(scene.told(1), ["retire", "close"]);
}

/// After the agent's restart the proxy tells what it holds, and is not given it again.
#[test]
fn what_a_proxy_brought_back_is_not_given_to_it_again() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    let workload = scene.pods[0].workload.clone();
    for kind in listener::kinds(&workload) {
        scene.proxies.returned(1, &workload.name, (&workload.instance, 7), kind);
    }
    scene.applies(1, 4);
    assert_eq!(scene.told(1), ["welcome", "snapshot", "keys"]);
    assert!(scene.proxies.holds(&workload.name, &scene.pods[0]));
}

#[test]
fn a_workload_that_went_while_the_agent_was_away_is_closed() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    let gone = ObjectName::new("shop", "gone");
    scene.proxies.refused(1, &gone, &"1".into());
    scene.applies(1, 4);
    assert_eq!(scene.told(1), ["welcome", "snapshot", "keys", "close", "listeners"]);
}

/// Under the same path and uid, as a directory of manifests has it: the listeners are others.
#[test]
fn a_pod_whose_namespace_was_made_anew_is_closed_and_given_again() {
    let mut scene = Scene::new();
    for (id, name) in [(1, "default"), (2, HOLDER)] {
        scene.joins(id, name);
        scene.applies(id, 0);
        scene.told(id);
    }
    scene.pods = vec![web().found_at(8)];
    assert!(!scene.proxies.holds(&scene.pods[0].workload.name, &scene.pods[0]));
    scene.update();
    for id in [1, 2] {
        assert_eq!(scene.told(id), ["close", "listeners"]);
    }
    assert!(scene.proxies.holds(&scene.pods[0].workload.name, &scene.pods[0]));
}

/// What was brought and not taken is closed once its pod is known to be elsewhere, or outside the mesh; until then it may
/// be what a live pod rests on.
#[test]
fn a_listener_that_was_not_taken_is_closed_when_it_is_certain_to_be_nobodys() {
    let told = |pod: Pod| {
        let mut scene = Scene { pods: vec![pod], ..Scene::new() };
        let workload = scene.pods[0].workload.clone();
        scene.joins(1, "default");
        scene.proxies.refused(1, &workload.name, &workload.instance);
        scene.applies(1, 4);
        scene.told(1)
    };
    let mut unfound = Pod::new(web().workload);
    unfound.pending = Some("not found".into());
    assert_eq!(told(unfound), ["welcome", "snapshot", "keys"]);
    assert_eq!(told(web()), ["welcome", "snapshot", "keys", "close", "listeners"]);
    let outside = Workload { membership: Membership::Outside, ..Workload::clone(&web().workload) };
    assert_eq!(told(Pod::new(Arc::new(outside))), ["welcome", "snapshot", "keys", "close"]);
}

#[test]
fn the_older_proxy_drains_only_once_the_newer_one_serves() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.applies(1, 0);
    scene.applies(1, 5);
    scene.told(1);
    scene.joins(2, "default");
    scene.applies(2, 0);
    assert_eq!(scene.told(2), ["welcome", "snapshot", "keys", "listeners"]);
    assert!(scene.told(1).is_empty(), "it drains while nobody else serves yet");
    assert_eq!(scene.proxies.serving().unwrap().applied, 5);
    scene.applies(2, 5);
    assert_eq!(scene.told(1), ["drain"]);
    scene.generation = 6;
    scene.update();
    assert_eq!(scene.told(1), ["snapshot"], "its live connections are judged still");
}

#[test]
fn the_holder_is_given_listeners_and_nothing_to_serve_by() {
    let mut scene = Scene::new();
    scene.joins(1, HOLDER);
    scene.applies(1, 0);
    assert_eq!(scene.told(1), ["welcome", "listeners"]);
    assert!(scene.proxies.serving().is_none());
    scene.pods.clear();
    scene.update();
    assert_eq!(scene.told(1), ["close"]);
}

#[test]
fn a_proxy_that_does_not_read_is_let_go() {
    let mut scene = Scene::new();
    let (outgoing, told) = mpsc::channel(2);
    scene.proxies.join(1, hello("default".into(), false), outgoing, ("a", [descriptor(), descriptor()]));
    scene.applies(1, 0);
    assert!(scene.proxies.serving().is_none());
    drop(told);
}

/// The agent was restarted while it drained: what it has open is judged by new policies still.
#[test]
fn one_that_drains_comes_back_to_hear_of_policies_and_takes_nothing_over() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.applies(1, 5);
    scene.update();
    scene.told(1);
    let (outgoing, told) = mpsc::channel(64);
    scene.proxies.join(2, hello("default".into(), true), outgoing, ("a", [descriptor(), descriptor()]));
    scene.told.insert(2, told);
    scene.applies(2, 5);
    scene.update();
    assert_eq!(scene.told(2), ["welcome", "snapshot", "keys"]);
    assert!(scene.told(1).is_empty(), "the one that serves is not told to drain");
}

#[test]
fn a_second_name_is_not_served() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.joins(2, "tenant");
    assert!(scene.told(2).is_empty());
    assert!(scene.told.get_mut(&2).unwrap().is_closed());
}

#[test]
fn sockets_are_bounded_by_the_second() {
    let mut scene = Scene::new();
    scene.joins(1, "default");
    let now = clock::now();
    let batches = SOCKETS_PER_SECOND / 64 + 2;
    let given: usize = (0..batches).map(|_| scene.proxies.allow(1, 64, now)).sum();
    assert_eq!(given, SOCKETS_PER_SECOND as usize);
    assert_eq!(scene.proxies.allow(1, 64, now + Duration::from_secs(1)), 64);
    assert_eq!(scene.proxies.allow(9, 64, now), 0);
}

/// What waits for a proxy holds its sockets open in the agent.
#[test]
fn a_proxy_that_does_not_read_is_given_no_more_sockets() {
    let mut scene = Scene::new();
    let (outgoing, told) = mpsc::channel(QUEUE);
    scene.proxies.join(1, hello("default".into(), false), outgoing, ("a", [descriptor(), descriptor()]));
    let now = clock::now();
    let name = ObjectName::new("shop", "web");
    let mut n_open = 0;
    for _ in 0..QUEUE / 2 {
        let count = scene.proxies.allow(1, 64, now);
        n_open += count;
        scene.proxies.give(1, (&name, "1"), Family::V4, vec![]);
    }
    assert!((1..=MAX_WAITING * 64).contains(&n_open), "{n_open} sockets wait");
    drop(told);
}

/// From which generation the proxy was told to go on, by each Snapshot since this was asked last.
fn froms(scene: &mut Scene, id: u64) -> Vec<u64> {
    let told = scene.told.get_mut(&id).unwrap();
    let told = std::iter::from_fn(|| told.try_recv().ok());
    told.filter_map(|one| if let Some(Kind::Snapshot(sent)) = one.message.kind { Some(sent.from) } else { None })
        .collect()
}

#[test]
fn a_proxy_is_given_the_difference_to_what_it_was_sent_and_one_that_was_not_sent_that_the_whole() {
    let at = |generation| Arc::new(Snapshot { generation, ..Snapshot::default() });
    let step = |from, to| Sealed::new(Step::between(&at(from), &at(to)).as_ref(), &at(to));
    let mut scene = Scene::new();
    scene.joins(1, "default");
    scene.applies(1, 0);
    assert_eq!(froms(&mut scene, 1), [0]);
    (scene.generation, scene.snapshot) = (6, step(5, 6));
    scene.update();
    scene.joins(2, "default");
    scene.applies(2, 0);
    assert_eq!((froms(&mut scene, 1), froms(&mut scene, 2)), (vec![5], vec![0]));
    // It was not sent what this is the difference to.
    (scene.generation, scene.snapshot) = (8, step(7, 8));
    scene.update();
    assert_eq!(froms(&mut scene, 1), [0]);
    let (outgoing, told) = mpsc::channel(64);
    let older = Hello { takes_differences: false, ..hello("default".into(), false) };
    scene.proxies.join(3, older, outgoing, ("a", [descriptor(), descriptor()]));
    scene.told.insert(3, told);
    scene.applies(3, 0);
    (scene.generation, scene.snapshot) = (9, step(8, 9));
    scene.update();
    assert_eq!(froms(&mut scene, 3), [0, 0], "one that does not know of differences");
}
