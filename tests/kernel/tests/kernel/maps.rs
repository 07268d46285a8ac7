//! Maps as they are made: their room, whose memory is taken as entries come, and room that a NodeProfile says.

use std::sync::Arc;

use aya::maps::{MapInfo, MapType};
use millrace_abi::{Dest, DestKind, capacity, map};
use millrace_agent::kernel::{Capacities, MapError, Write};
use millrace_model::NodeProfile;

use crate::node::{Node, addr};

/// BPF_F_NO_PREALLOC of the kernel.
const NO_PREALLOC: u32 = 1;

fn room(maps: &[(&str, u32)]) -> Capacities {
    let maps = maps.iter().map(|(map, entries)| (Arc::from(*map), *entries)).collect();
    Capacities::of(Some(&NodeProfile { maps, ..NodeProfile::default() }))
}

#[test]
fn each_map_has_the_room_that_is_written_down_and_tables_take_memory_as_entries_come() {
    let node = Node::new();
    let usual = Capacities::default();
    for name in map::ALL {
        let info = MapInfo::from_pin(node.pins().join(name)).unwrap();
        let entries = match name {
            map::CONFIG | map::TUNING => 1,
            map::REASONS => millrace_abi::N_REASONS,
            map::FLOWS => capacity::FLOW_BYTES,
            map::FAILURES => capacity::FAILURES,
            map::LISTENING => capacity::LISTENING,
            map::GUARDS => capacity::GUARDS,
            map::FORGED => capacity::FORGED,
            map::STRANGERS => capacity::STRANGERS,
            map::ASKS => capacity::ASKS,
            map::TOLD => capacity::TOLD,
            map::PACE => capacity::PACE,
            map::ORIGINAL | map::CLIENT | map::ENDS | map::EXEMPT | map::PEERS => 0,
            table => usual.get(table),
        };
        assert_eq!(info.max_entries(), entries, "{name}");
        if info.map_type().unwrap() == MapType::Hash {
            assert_eq!(info.map_flags() & NO_PREALLOC, NO_PREALLOC, "{name} takes its memory at once");
        }
    }
}

#[test]
fn a_map_has_the_room_that_a_profile_says_and_is_full_where_that_ends() {
    let mut node = Node::new();
    let room = room(&[(map::DESTS, 64)]);
    node.succeed(&room.directory(), room.clone());
    node.kernel().take_over().unwrap();
    let dest = Dest { id: 1, group: 0, kind: DestKind::Remote as u32, udp: 0 };
    let write = |n: u8| node.kernel().write(&Write::SetDest(addr(&format!("10.88.0.{n}")), dest));
    (0..64).for_each(|n| write(n).unwrap());
    let full = write(64).unwrap_err();
    assert!(matches!(full, MapError::Full { map: map::DESTS, capacity: 64 }), "{full}");
    assert_eq!(node.kernel().capacities(), &room);
}
