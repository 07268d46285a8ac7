//! Loading, restarting and leaving.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
};

use millrace_abi::{Reason, map};

use crate::node::{Family, Node};

/// The files of the programs, of which this test crate has one each beside this one.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ebpf/programs/src");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel");

#[test]
fn every_file_of_the_programs_has_its_tests_in_a_file_of_its_name() {
    let mut n = 0;
    for entry in std::fs::read_dir(PROGRAMS).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let tests = if name == "main.rs" { "load.rs" } else { &name };
        let text = std::fs::read_to_string(format!("{TESTS}/{tests}")).unwrap_or_default();
        assert!(text.contains("#[test]"), "{name} of the programs has no tests in {tests}");
        n += 1;
    }
    assert!(n > 20, "{n} files");
}

fn pins(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.pins()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_program_loads_and_every_map_and_link_is_pinned() {
    let node = Node::new();
    let pod = node.pod();
    let pins = pins(&node);
    for name in map::ALL {
        assert!(pins.iter().any(|pin| pin == name), "{name} is not among {pins:?}");
    }
    assert_eq!(pins.iter().filter(|pin| pin.starts_with("link_")).count(), 11);
    assert!(pins.contains(&format!("lookup_{}", pod.cookie)));
    assert!(node.kernel().attached_pods().unwrap().contains(&pod.cookie));
}

#[test]
fn what_was_written_is_read_back() {
    let node = Node::new();
    let (pod, _proxy) = node.pod_with_proxy();
    node.verdict(&pod, 42, 1);
    node.service("10.96.0.10:80", 1, &[(pod.v4, 8080), (pod.v4, 8081)]);
    let state = node.kernel().state().unwrap();
    assert_eq!((state.pods.len(), state.dests.len(), state.services.len()), (1, 2, 1));
    assert_eq!((state.slots.len(), state.verdicts.len(), state.listeners.len()), (2, 1, 4));
    node.restart_agent();
    assert_eq!(node.kernel().state().unwrap(), state);
}

#[test]
fn twenty_thousand_entries_are_read_back_whole() {
    let node = Node::new();
    let backends = [([7; 16], 80)];
    for n in 0..20_000u16 {
        node.service(&format!("10.200.{}.{}:80", n / 256, n % 256), n.into(), &backends);
    }
    let state = node.kernel().state().unwrap();
    assert_eq!((state.services.len(), state.slots.len()), (20_000, 20_000));
}

#[test]
fn a_restarted_agent_takes_over_under_connects_and_none_fails() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    listener.set_nonblocking(true).unwrap();
    let is_done = AtomicBool::new(false);
    let n_connects = std::thread::scope(|scope| {
        let connects = scope.spawn(|| {
            client.run(|| {
                let mut n = 0u64;
                while !is_done.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect("10.96.0.10:80").unwrap();
                    assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
                    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                    n += 1;
                    while listener.accept().is_ok() {}
                }
                n
            })
        });
        for _ in 0..5 {
            node.restart_agent();
            let attached = node.kernel().attached_pods().unwrap();
            assert!(attached.contains(&server.cookie));
            node.kernel().attach_pod(std::os::fd::AsFd::as_fd(&server.netns), server.cookie).unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
        connects.join().unwrap()
    });
    assert!(n_connects > 100, "only {n_connects} connects ran beside the restarts");
    assert_eq!(node.count(Reason::Direct), n_connects);
    assert_eq!(node.count(Reason::InAttested), n_connects);
}

#[test]
fn the_proxy_reads_what_was_asked_for_and_cannot_write_it() {
    let node = Node::new();
    let (client, mut proxy) = node.pod_with_proxy();
    node.remote(9, &["10.88.0.9"]);
    let _stream = client.connects("10.88.0.9:80".parse().unwrap()).unwrap();
    let (accepted, _) = proxy.outbound[0].accept().unwrap();
    assert!(proxy.asked(&accepted).is_some());
    assert!(!proxy.forge(&accepted), "the descriptor must be for reading alone");
    // Nor can anybody else in user space: the map is frozen, whatever the descriptor.
    let data = aya::maps::MapData::from_pin(node.pins().join(map::ORIGINAL)).unwrap();
    let mut original = aya::maps::SkStorage::<_, [u8; 40]>::try_from(aya::maps::Map::SkStorage(data)).unwrap();
    original.insert(&accepted, [1; 40], 0).unwrap_err();
}

#[test]
fn leaving_takes_everything_out_and_leaving_again_is_nothing() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    millrace_agent::kernel::leave(node.pins()).unwrap();
    assert!(!node.pins().exists());
    assert!(!node.pins().parent().unwrap().exists());
    // No steering any more, no counting: as if there had been no mesh.
    let _stream = client.connects(server.address(Family::V4, 8080)).unwrap();
    listener.accept().unwrap();
    assert_eq!(node.count(Reason::Direct), 0);
    millrace_agent::kernel::leave(node.pins()).unwrap();
}

#[test]
fn a_pod_that_is_detached_is_not_steered() {
    let node = Node::new();
    let (pod, other) = (node.pod(), node.stranger());
    let listener = pod.listens("0.0.0.0", 8080);
    node.know(&other, millrace_abi::PodKind::Outside);
    assert_eq!(other.refused(pod.address(Family::V4, 8080)), Some(libc::ECONNREFUSED));
    node.kernel().detach_pod(pod.cookie).unwrap();
    let _stream = other.connects(pod.address(Family::V4, 8080)).unwrap();
    listener.accept().unwrap();
    assert!(node.kernel().attached_pods().unwrap().is_empty());
    node.kernel().detach_pod(pod.cookie).unwrap();
}

#[test]
fn pins_of_another_layout_are_refused_by_name() {
    let node = Node::new();
    let pin = node.pins().join(map::HANDOFFS);
    std::fs::remove_file(&pin).unwrap();
    let other = aya::maps::HashMap::<_, u64, u64>::create(16, 0).unwrap();
    aya::maps::HashMap::pin(other, &pin).unwrap();
    let options = millrace_agent::kernel::Options {
        pins: node.pins().into(),
        cgroup: node.cgroup().into(),
        ..Default::default()
    };
    let error = millrace_agent::kernel::Kernel::open(&options).err().unwrap();
    assert!(error.to_string().contains("HANDOFFS has another layout"), "{error}");
}

#[test]
fn what_was_decided_is_logged_only_while_debugging() {
    static LOG: Log = Log(std::sync::Mutex::new(Vec::new()));
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let node = Node::new();
    let client = node.pod();
    node.service("10.96.0.10:80", 1, &[]);
    let mut logger = node.kernel().logger().unwrap();
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    logger.flush();
    assert!(LOG.0.lock().unwrap().is_empty());
    node.kernel().configure(millrace_abi::config::DEBUG).unwrap();
    client.connects("10.96.0.10:80".parse().unwrap()).unwrap_err();
    logger.flush();
    let lines = LOG.0.lock().unwrap().clone();
    let expected = format!("connect from {} to ::ffff:10.96.0.10: reason {}", client.id, Reason::NoBackend as u32);
    assert!(lines.contains(&expected), "{lines:?}");
}

struct Log(std::sync::Mutex<Vec<String>>);

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Of the programs alone: aya logs in this process too.
        if record.target().starts_with("millrace_ebpf") {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn every_feature_is_found_on_this_kernel() {
    let features = millrace_agent::kernel::features::probe();
    for feature in &features {
        println!("{:<28} {:?} ({:?}) without it: {}", feature.name, feature.presence, feature.need, feature.without);
    }
    assert!(millrace_agent::kernel::features::suffices(&features));
}
