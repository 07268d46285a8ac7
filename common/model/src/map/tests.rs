//! It is an ordered map, and its differences are those of ordered maps.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*};

use super::{CHUNK, Differs, Map};

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u16, u8),
    Remove(u16),
    Change(u16, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Keys close together, so that chunks fill, split, empty and join.
    let key = 0_u16..600;
    let step = prop_oneof![
        3 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
        3 => key.clone().prop_map(Step::Remove),
        1 => (key, any::<u8>()).prop_map(|(key, value)| Step::Change(key, value)),
    ];
    vec(step, 0..400)
}

fn run(map: &mut Map<u16, u8>, twin: &mut BTreeMap<u16, u8>, step: Step) {
    match step {
        Step::Insert(key, value) => assert_eq!(map.insert(key, value), twin.insert(key, value)),
        Step::Remove(key) => assert_eq!(map.remove(&key), twin.remove(&key)),
        Step::Change(key, value) => {
            let (one, other) = (map.get_mut(&key), twin.get_mut(&key));
            assert_eq!(one.is_some(), other.is_some());
            if let (Some(one), Some(other)) = (one, other) {
                (*one, *other) = (value, value);
            }
        }
    }
}

/// A key, and what it had and has.
type Both = (u16, Option<u8>, Option<u8>);

/// The differences, by the long way.
fn by_hand(before: &BTreeMap<u16, u8>, now: &BTreeMap<u16, u8>) -> Vec<Both> {
    let keys: std::collections::BTreeSet<u16> = before.keys().chain(now.keys()).copied().collect();
    let both = keys.into_iter().map(|key| (key, before.get(&key).copied(), now.get(&key).copied()));
    both.filter(|(_, before, now)| before != now).collect()
}

proptest! {
    #[test]
    fn it_holds_what_an_ordered_map_holds_and_differs_where_that_differs(
        first in 0_u16..600, before in steps(), after in steps(), from in 0_u16..620,
    ) {
        let mut twin: BTreeMap<u16, u8> = (0..first).map(|key| (key, 0)).collect();
        let mut map: Map<u16, u8> = twin.clone().into();
        for step in before {
            run(&mut map, &mut twin, step);
        }
        let (held, held_twin) = (map.clone(), twin.clone());
        for step in after {
            run(&mut map, &mut twin, step);
        }
        prop_assert!(held.iter().eq(&held_twin), "a copy stays as it was");
        prop_assert!(map.iter().eq(&twin) && map.len() == twin.len());
        prop_assert!(map.starting_at(&from).eq(twin.range(from..)));
        prop_assert!((0..600).all(|key| map.get(&key) == twin.get(&key)));
        let found: Vec<_> = held
            .differences(&map)
            .into_iter()
            .map(|Differs { key, before, now }| (*key, before.copied(), now.copied()))
            .collect();
        prop_assert_eq!(found, by_hand(&held_twin, &twin));
        prop_assert_eq!(held == map, held_twin == twin);
        prop_assert_eq!(twin.clone().into_iter().collect::<Map<_, _>>(), map.clone());
        prop_assert!(map.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
    }
}

#[test]
fn a_change_makes_one_chunk_anew_and_shares_the_rest() {
    let before: Map<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
    let mut now = before.clone();
    assert!(now.is(&before));
    now.insert(50_000, 0);
    let others = now.chunks.iter().filter(|chunk| !before.chunks.iter().any(|one| Arc::ptr_eq(one, chunk)));
    assert_eq!(others.count(), 1);
    let found: Vec<u32> = before.differences(&now).iter().map(|differs| *differs.key).collect();
    assert_eq!(found, [50_000]);
}

#[test]
fn it_is_written_and_read_as_any_map() {
    let map: Map<Arc<str>, u8> = [("a".into(), 1), ("b".into(), 2)].into();
    let text = serde_json::to_string(&map).unwrap();
    assert_eq!(text, r#"{"a":1,"b":2}"#);
    assert_eq!(serde_json::from_str::<Map<Arc<str>, u8>>(&text).unwrap(), map);
    assert_eq!((map["a"], map.get("c")), (1, None));
}
