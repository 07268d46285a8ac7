//! Pins of an older schema, or of maps with other room: noticed, taken over from without a gap, removed.

use std::{
    fs,
    net::TcpStream,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aya::maps::MapInfo;
use millrace_abi::{DestKind, Reason, SCHEMA, map};
use millrace_agent::kernel::{Capacities, State};
use millrace_model::NodeProfile;

use crate::node::{Family, Node, Pod, chain};

/// The schema before this one, as a directory of pins has it.
fn before() -> String {
    format!("v{}", SCHEMA - 1)
}

fn now() -> String {
    format!("v{SCHEMA}")
}

/// A node whose pins say that they are of the schema before.
fn older_node() -> Node {
    let mut node = Node::new();
    millrace_agent::kernel::leave(node.pins()).unwrap();
    node.succeed(&before(), Capacities::default());
    node
}

fn id_of(node: &Node, set: &str, map: &str) -> u32 {
    MapInfo::from_pin(node.pins().with_file_name(set).join(map)).unwrap().id()
}

/// What an agent writes of these pods, again, as it does before it takes over.
fn fill(node: &Node, pods: &[&Pod]) {
    for pod in pods {
        node.enrol(pod, DestKind::Local, 0);
        node.kernel().attach_pod(pod.netns.as_fd(), pod.cookie).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

#[test]
fn an_older_schemas_programs_stay_in_force_until_the_new_maps_are_filled_and_then_go() {
    let mut node = older_node();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let talk = || {
        let stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
        listener.accept().unwrap();
        stream
    };
    let open = talk();
    let direct = node.count(Reason::Direct);
    node.succeed(&now(), Capacities::default());
    assert_eq!(node.kernel().older(), Some(before()));
    // The new maps are empty, and nobody notices: the older programs decide by their own.
    assert_eq!(node.kernel().state().unwrap(), State::default());
    talk();
    assert_eq!(node.count(Reason::Direct), 0, "the new programs were in force with empty maps");
    assert_eq!(direct, 1);
    fill(&node, &[&client, &server]);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    assert!(node.kernel().attached_pods().unwrap().contains(&server.cookie), "what the older steers in is known");
    node.kernel().take_over().unwrap();
    assert_eq!(node.kernel().older(), None);
    talk();
    assert_eq!(node.count(Reason::Direct), 1);
    assert!(!node.pins().with_file_name(before()).exists(), "the older pins stay");
    // What a socket carried is there still: the application sees the service that it asked for.
    assert_eq!(open.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
    let links = fs::read_dir(node.pins())
        .unwrap()
        .filter(|pin| pin.as_ref().unwrap().file_name().to_str().unwrap().starts_with("link_"));
    assert_eq!(links.count(), 11);
}

#[test]
fn no_connect_fails_while_an_older_schema_is_taken_over_from() {
    let mut node = older_node();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    listener.set_nonblocking(true).unwrap();
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let (is_done, n_connects) = (AtomicBool::new(false), AtomicU64::new(0));
    let more = || {
        let before = n_connects.load(Ordering::Relaxed);
        crate::node::until(|| n_connects.load(Ordering::Relaxed) >= before + 20);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.run(|| {
                while !is_done.load(Ordering::Relaxed) {
                    TcpStream::connect("10.96.0.10:80").unwrap();
                    n_connects.fetch_add(1, Ordering::Relaxed);
                    while listener.accept().is_ok() {}
                }
            });
        });
        // One that failed has ended its thread, and no more come.
        more();
        node.succeed(&now(), Capacities::default());
        more();
        fill(&node, &[&client, &server]);
        node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
        node.kernel().take_over().unwrap();
        more();
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_sockets_carry_is_the_same_map_in_both() {
    let mut node = older_node();
    let (client, proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let carried = [map::ORIGINAL, map::CLIENT, map::EXEMPT, map::LISTENERS];
    let ids = carried.map(|map| id_of(&node, &before(), map));
    let stream = client.connects("10.88.0.9:80".parse().unwrap()).unwrap();
    node.succeed(&now(), Capacities::default());
    assert_eq!(carried.map(|map| id_of(&node, &now(), map)), ids);
    fill(&node, &[&client]);
    node.remote(9, &["10.88.0.9"]);
    node.kernel().take_over().unwrap();
    // The descriptor that a proxy was given by the older agent reads what this one's programs write.
    let (accepted, _) = proxy.outbound[0].accept().unwrap();
    let at = "10.88.0.9:80".parse().unwrap();
    assert_eq!(proxy.asked(&accepted).map(|asked| (asked.addr, asked.mode)), Some((at, 3)));
    let _second = client.connects(at).unwrap();
    let (second, _) = proxy.outbound[0].accept().unwrap();
    assert_eq!(proxy.asked(&second).map(|asked| (asked.addr, asked.mode)), Some((at, 3)));
    assert_eq!(stream.peer_addr().unwrap(), at);
    assert_eq!(node.kernel().state().unwrap().listeners.len(), 4);
}

#[test]
fn maps_of_other_room_are_filled_beside_the_old_with_all_that_decide_and_the_rest_is_carried() {
    let mut node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    let profile = NodeProfile { maps: [(Arc::from(map::DESTS), 1000)].into(), ..NodeProfile::default() };
    let room = Capacities::of(Some(&profile));
    let carried = [map::HANDOFFS, map::ORIGINAL, map::REASONS];
    let ids = carried.map(|map| id_of(&node, &now(), map));
    let slots = id_of(&node, &now(), map::SLOTS);
    node.succeed(&room.directory(), room.clone());
    assert_eq!(node.kernel().older(), Some(now()));
    assert_eq!(carried.map(|map| id_of(&node, &room.directory(), map)), ids, "what keeps its room is carried");
    // Not SLOTS, though it keeps its room: what the new SERVICES does not name would be swept from beneath the old programs.
    assert_ne!(id_of(&node, &room.directory(), map::SLOTS), slots);
    assert_eq!(node.kernel().state().unwrap(), State::default());
    fill(&node, &[&client, &server]);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    node.kernel().take_over().unwrap();
    let _stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
    listener.accept().unwrap();
    assert_eq!(node.count(Reason::Direct), 1);
    assert_eq!(node.count(Reason::TornTable), 0);
    // And back, as when the profile goes.
    node.succeed(&now(), Capacities::default());
    fill(&node, &[&client, &server]);
    node.kernel().take_over().unwrap();
    client.connects(server.address(Family::V4, 8080)).unwrap();
    assert!(!node.pins().with_file_name(room.directory()).exists());
}

#[test]
fn pins_that_nothing_rests_on_are_removed_and_leaving_takes_out_every_set() {
    let mut node = older_node();
    let pod = node.pod();
    let stale = node.pins().with_file_name("v1");
    fs::create_dir(&stale).unwrap();
    let map = aya::maps::HashMap::<_, u64, u64>::create(16, 0).unwrap();
    aya::maps::HashMap::pin(map, stale.join(map::PODS)).unwrap();
    node.succeed(&now(), Capacities::default());
    assert!(!stale.exists(), "pins that nothing rests on stay");
    // An agent that never took over, and leaves: what the older attached goes too.
    millrace_agent::kernel::leave(node.pins()).unwrap();
    assert!(!node.pins().parent().unwrap().exists());
    let listener = pod.listens("0.0.0.0", 8080);
    let stranger = node.stranger();
    let _stream = stranger.connects(pod.address(Family::V4, 8080)).unwrap();
    listener.accept().unwrap();
}

/// Each step of a take-over is made again by the next agent, wherever it was cut short.
#[test]
fn a_take_over_that_was_cut_short_is_finished_by_the_next_agent() {
    let mut node = older_node();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    node.succeed(&now(), Capacities::default());
    // As if it had ended after the first link: that one is pinned in both sets' stead.
    let (old, new) = (node.pins().with_file_name(before()), node.pins().to_owned());
    let link = aya::programs::links::PinnedLink::from_pin(old.join("link_getpeername4")).unwrap();
    let link: aya::programs::links::FdLink = link.into();
    link.pin(new.join("link_getpeername4")).unwrap();
    fs::remove_file(old.join("link_getpeername4")).unwrap();
    node.succeed(&now(), Capacities::default());
    assert_eq!(node.kernel().older(), Some(before()));
    fill(&node, &[&client, &server]);
    node.kernel().take_over().unwrap();
    let _stream = client.connects(server.address(Family::V4, 8080)).unwrap();
    listener.accept().unwrap();
    assert!(!old.exists());
}
