//! States what becomes of a plan when the kernel's maps have no room, against their twin in memory.

use std::collections::BTreeMap;

use millrace_abi::{
    Dest, DestKind, Pod, PodKind, ServiceKey, ServiceValue, SlotKey, SlotValue, Verdict, VerdictKey, map,
};

use super::{Maps, reconcile};
use crate::kernel::{
    maps::MapError,
    state::{State, Write},
};

/// The kernel's maps in memory: rooms are what is left to add in each.
struct Twin {
    state: State,
    slots: usize,
    verdicts: usize,
    dests: usize,
}

impl Twin {
    fn of(state: &State) -> Self {
        Self { state: state.clone(), slots: usize::MAX, verdicts: usize::MAX, dests: usize::MAX }
    }
}

impl Maps for Twin {
    fn write(&mut self, write: &Write) -> Result<(), MapError> {
        let full = |map| Err(MapError::Full { map, capacity: 0 });
        let mut next = self.state.clone();
        next.apply(write);
        if next.slots.len() > self.slots && next.slots.len() > self.state.slots.len() {
            return full(map::SLOTS);
        }
        if next.verdicts.len() > self.verdicts && next.verdicts.len() > self.state.verdicts.len() {
            return full(map::VERDICTS);
        }
        if next.dests.len() > self.dests && next.dests.len() > self.state.dests.len() {
            return full(map::DESTS);
        }
        self.state = next;
        Ok(())
    }
}

fn addr(last: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn with_service(table: u32, backends: &[u8]) -> State {
    let mut state = State::default();
    let key = ServiceKey { addr: addr(100), port: [0, 80], protocol: 6, reserved: 0 };
    let n_slots = u32::try_from(backends.len()).unwrap();
    state.services.insert(key, ServiceValue { table, n_slots, affinity_s: 0, flags: 0 });
    for (slot, backend) in (0..).zip(backends) {
        let (addr, port) = (addr(*backend), [0, 80]);
        let value = SlotValue { addr, alias_addr: addr, port, alias_port: port, threshold: u32::MAX };
        state.slots.insert(SlotKey { table, slot }, value);
    }
    state
}

fn verdict(port: u16, allow: u32) -> (VerdictKey, Verdict) {
    let key = VerdictKey { source: 1, group: 1, port: port.to_be_bytes(), reserved: [0; 6] };
    (key, Verdict { policy: 1, allow, reserved: 0 })
}

fn guarded(verdicts: &[(VerdictKey, Verdict)]) -> State {
    State {
        pods: [(1, Pod { id: 1, v4: addr(1), v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 })].into(),
        dests: [(addr(2), Dest { id: 2, group: 1, kind: DestKind::Local as u32, udp: 0 })].into(),
        verdicts: verdicts.iter().copied().collect(),
        ..State::default()
    }
}

#[test]
fn with_room_the_maps_hold_what_they_should() {
    let (mut have, want) = (with_service(3, &[1, 2]), with_service(4, &[1, 2, 3]));
    let mut twin = Twin::of(&have);
    let outcome = reconcile(&mut twin, &mut have, &want);
    assert!(outcome.failures.is_empty());
    assert_eq!((&have, &twin.state), (&want, &want));
    assert_eq!(reconcile(&mut twin, &mut have, &want).n_written, 0);
}

#[test]
fn a_service_whose_new_table_has_no_room_keeps_its_old_one_whole() {
    let (mut have, want) = (with_service(3, &[1, 2]), with_service(4, &[3, 4, 5]));
    let mut twin = Twin { slots: 4, ..Twin::of(&have) };
    let before = have.clone();
    let outcome = reconcile(&mut twin, &mut have, &want);
    assert_eq!(
        outcome.failures,
        BTreeMap::from([("the kernel's map SLOTS is full: it holds 0 entries".to_owned(), 1)])
    );
    assert_eq!(outcome.n_left_out, 1, "the flip rests on the slots");
    assert_eq!(twin.state, before, "half a table was left behind");
    twin.slots = 5;
    assert!(reconcile(&mut twin, &mut have, &want).failures.is_empty());
    assert_eq!(have, want);
}

/// What can't be enforced is denied: a port's denial that has no room closes every port.
#[test]
fn a_denial_without_room_closes_more_and_never_less() {
    let mut have = guarded(&[verdict(0, 1)]);
    let want = guarded(&[verdict(0, 1), verdict(443, 0)]);
    let mut twin = Twin { verdicts: 1, ..Twin::of(&have) };
    let outcome = reconcile(&mut twin, &mut have, &want);
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(twin.state.verdicts, BTreeMap::from([verdict(0, 0)]));
    let again = reconcile(&mut twin, &mut have, &want);
    assert_eq!(twin.state.verdicts, BTreeMap::from([verdict(0, 0)]), "a second try let it through");
    assert_eq!(again.failures.len(), 1);
    twin.verdicts = 2;
    reconcile(&mut twin, &mut have, &want);
    assert_eq!(twin.state, want);
}

#[test]
fn no_service_turns_to_a_backend_that_could_not_be_written_as_the_meshs() {
    let mut have = with_service(3, &[1]);
    let mut want = with_service(4, &[2]);
    want.dests = guarded(&[]).dests;
    let mut twin = Twin { dests: 0, ..Twin::of(&have) };
    reconcile(&mut twin, &mut have, &want);
    assert_eq!(twin.state.services, with_service(3, &[1]).services, "plain text to a pod of the mesh");
}
