//! Says how many entries each kernel map holds on this node: `millrace_abi::capacity`, or what a NodeProfile says in its place.
//!
//! A map's room is fixed when it is made. Other room is therefore another set of pins, in a directory named by it, which takes
//! over from the one before as a newer schema's does: see `older`.

use std::collections::BTreeMap;

use millrace_abi::{SCHEMA, capacity, map};
use millrace_model::NodeProfile;

/// The maps whose room may be said, and their usual room. PENDING has as much as PODS.
const USUAL: [(&str, u32); 10] = [
    (map::PODS, capacity::PODS),
    (map::DESTS, capacity::DESTS),
    (map::SERVICES, capacity::SERVICES),
    (map::SLOTS, capacity::SLOTS),
    (map::AFFINITY, capacity::AFFINITIES),
    (map::VERDICTS, capacity::VERDICTS),
    (map::PROBES, capacity::PROBES),
    (map::HANDOFFS, capacity::HANDOFFS),
    (map::PENDING, capacity::PODS),
    (map::LISTENERS, capacity::LISTENERS),
];

/// Each map's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacities {
    /// Those that are not the usual.
    other: BTreeMap<&'static str, u32>,
}

impl Capacities {
    /// What this profile asks for; a map that this version does not have is another version's.
    pub fn of(profile: Option<&NodeProfile>) -> Self {
        let asked = |map: &str| profile.and_then(|profile| profile.maps.get(map)).copied();
        let asked = |map: &'static str| asked(if map == map::PENDING { map::PODS } else { map });
        let other =
            USUAL.into_iter().filter_map(|(map, usual)| Some((map, asked(map).filter(|asked| *asked != usual)?)));
        Self { other: other.collect() }
    }

    /// How many entries a map holds; 0 for one that is no table.
    pub fn get(&self, map: &str) -> u32 {
        let usual = || USUAL.into_iter().find(|(name, _)| *name == map).map_or(0, |(_, usual)| usual);
        self.other.get(map).copied().unwrap_or_else(usual)
    }

    /// The maps that do not hold the usual number.
    pub(super) fn other(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.other.iter().map(|(map, entries)| (*map, *entries))
    }

    /// The maps whose room may be said, in order.
    pub fn maps() -> impl Iterator<Item = &'static str> {
        USUAL.into_iter().map(|(map, _)| map).filter(|map| *map != map::PENDING)
    }

    /// The name of the directory of pins: by the schema, and by the room where that is not the usual.
    pub fn directory(&self) -> String {
        if self.other.is_empty() {
            return format!("v{SCHEMA}");
        }
        // FNV-1a: the same room has the same name after a restart, and two that differ hardly ever share one. Where they
        // did, the layout of what is pinned would be refused by name.
        let said = self.other.iter().map(|(map, entries)| format!("{map}={entries};")).collect::<String>();
        let hash = said
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("v{SCHEMA}-{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_model::NodeProfile;

    use super::Capacities;

    fn of(maps: &[(&str, u32)]) -> Capacities {
        let maps = maps.iter().map(|(map, entries)| (Arc::from(*map), *entries)).collect();
        Capacities::of(Some(&NodeProfile { maps, ..NodeProfile::default() }))
    }

    #[test]
    fn what_is_not_said_or_said_as_usual_is_the_usual() {
        let usual = Capacities::default();
        assert_eq!(Capacities::of(None), usual);
        assert_eq!(of(&[("DESTS", 131_072), ("NEWER", 5)]), usual);
        assert_eq!((usual.get("DESTS"), usual.get("FLOWS")), (131_072, 0));
        assert_eq!(usual.directory(), format!("v{}", millrace_abi::SCHEMA));
    }

    #[test]
    fn other_room_has_a_directory_of_its_own() {
        let (more, most) = (of(&[("DESTS", 200_000)]), of(&[("DESTS", 300_000)]));
        assert_eq!(more.get("DESTS"), 200_000);
        assert_ne!(more.directory(), most.directory());
        assert_eq!(more.directory(), of(&[("DESTS", 200_000)]).directory());
        assert_eq!(of(&[("PODS", 2048)]).get("PENDING"), 2048, "a pod more has its count too");
    }
}
