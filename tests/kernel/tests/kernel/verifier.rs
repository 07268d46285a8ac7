//! The verifier's answer to every program, in every form in which it is loaded. What changes a program is what is known as it is
//! loaded: features that are there or not, and nothing else. Bits of CONFIG are asked while it runs, so each is run too.

use std::sync::Arc;

use millrace_abi::{Reason, config};
use millrace_agent::kernel::{
    Capacities, Missing,
    missing::{MPTCP, SEQUENCE},
};
use millrace_model::NodeProfile;

use crate::node::Node;

/// The features that a program is loaded with or without: add one here when a program asks for it at its load.
const SWITCHES: [&str; 2] = [MPTCP, SEQUENCE];

/// Half of what a kernel allows. A program beyond it is one change from being refused on another kernel, whose verifier may look
/// at more.
const MOST: u32 = 500_000;

/// Every subset of the switches.
fn combinations() -> impl Iterator<Item = Vec<&'static str>> {
    let chosen = |bits: u32| SWITCHES.into_iter().enumerate().filter(move |(n, _)| bits & (1 << n) != 0);
    (0..1u32 << SWITCHES.len()).map(move |bits| chosen(bits).map(|(_, name)| name).collect())
}

fn missing(names: &[&str]) -> Missing {
    names.iter().fold(Missing::default(), |missing, name| missing.and(name))
}

#[test]
fn the_verifier_takes_every_program_in_every_combination_of_features() {
    let mut table = String::new();
    for combination in combinations() {
        let node = Node::without(missing(&combination));
        let verified = node.kernel().verified().unwrap();
        let without =
            if combination.is_empty() { "all features".to_owned() } else { combination.join(", ") + " missing" };
        for (program, n_instructions) in verified {
            table += &format!("{without:<48} {program:<14} {n_instructions:>7}\n");
            assert!(n_instructions > 0, "{program} was not verified");
            assert!(n_instructions <= MOST, "{program} has become too much for a verifier:\n{table}");
        }
    }
    println!("instructions that the verifier looked at:\n{table}");
}

/// Other room makes other maps, which programs are loaded with again.
#[test]
fn the_verifier_takes_every_program_with_maps_of_other_room() {
    let mut node = Node::new();
    let maps = Capacities::maps().map(|map| (Arc::from(map), 100)).collect();
    let room = Capacities::of(Some(&NodeProfile { maps, ..NodeProfile::default() }));
    node.succeed(&room.directory(), room);
    node.kernel().take_over().unwrap();
    assert!(node.kernel().verified().unwrap().iter().all(|(_, n_instructions)| *n_instructions > 0));
}

#[test]
fn every_combination_of_switches_that_are_asked_at_run_time_decides_alike() {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    let listener = server.listens("0.0.0.0", 8080);
    node.service("10.96.0.10:80", 1, &[(server.v4, 8080)]);
    for bits in 0..=(config::FLOWS | config::DEBUG) {
        node.kernel().configure(bits).unwrap();
        let before = node.count(Reason::InAttested);
        let stream = client.connects("10.96.0.10:80".parse().unwrap()).unwrap();
        listener.accept().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
        assert_eq!(node.count(Reason::InAttested), before + 1, "CONFIG {bits}");
    }
}
