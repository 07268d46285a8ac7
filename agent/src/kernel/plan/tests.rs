//! States the rules of the order of writes against a reference: the kernel's own decision over a State.

mod meshes;
mod parts;

use std::collections::{BTreeMap, BTreeSet};

use millrace_abi::{
    Action, Addr, Dest, DestKind, Pod, PodKind, Port, ProbeKey, Reason, ServiceKey, ServiceValue, SlotKey, SlotValue,
    Verdict, VerdictKey, action, decide,
};
use proptest::prelude::*;

use super::{Plan, plan};
use crate::kernel::state::{State, Write};

/// Few of each, so that they meet.
const COOKIES: std::ops::Range<u64> = 1..5;
const ADDRS: std::ops::Range<u8> = 1..6;
const PORTS: [u16; 3] = [0, 80, 443];

fn addr(last: u8) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn key(source: u64, group: u64, port: u16) -> VerdictKey {
    VerdictKey { source, group, port: port.to_be_bytes(), reserved: [0; 6] }
}

/// What the kernel would do with a connect: the program's look-ups over a State, and its own decision.
fn decides(state: &State, cookie: u64, to: Addr, port: Port) -> Reason {
    let pod = state.pods.get(&cookie);
    let dest = state.dests.get(&to);
    if let Some(reason) = decide::caller(pod.map(|pod| pod.kind), dest.is_some()) {
        return reason;
    }
    let verdict = dest.zip(pod).and_then(|(dest, pod)| {
        let exact = VerdictKey { source: pod.id, group: dest.group, port, reserved: [0; 6] };
        state.verdicts.get(&exact).or_else(|| state.verdicts.get(&VerdictKey { port: [0; 2], ..exact }))
    });
    decide::connect(pod.unwrap(), dest, false, port, verdict)
}

fn allows(state: &State, cookie: u64, to: Addr, port: u16) -> bool {
    action(decides(state, cookie, to, port.to_be_bytes())) == Action::Pass
}

fn pods() -> impl Strategy<Value = BTreeMap<u64, Pod>> {
    let pod = (1u64..4, 1u32..4).prop_map(|(id, kind)| Pod { id, v4: [0; 16], v6: [0; 16], kind, reserved: 0 });
    prop::collection::btree_map(COOKIES, pod, 0..4)
}

fn dests() -> impl Strategy<Value = BTreeMap<Addr, Dest>> {
    let dest = (1u64..6, 0u64..4, 1u32..4).prop_map(|(id, group, kind)| Dest { id, group, kind, udp: 0 });
    prop::collection::btree_map(ADDRS.prop_map(addr), dest, 0..5)
}

fn verdicts() -> impl Strategy<Value = BTreeMap<VerdictKey, Verdict>> {
    let keys = (1u64..4, 1u64..4, prop::sample::select(PORTS.to_vec())).prop_map(|(s, g, p)| key(s, g, p));
    let verdict = (0u64..3, 0u32..2).prop_map(|(policy, allow)| Verdict { policy, allow, reserved: 0 });
    prop::collection::btree_map(keys, verdict, 0..20)
}

fn probes() -> impl Strategy<Value = BTreeSet<ProbeKey>> {
    let key = (ADDRS, prop::sample::select(PORTS.to_vec())).prop_map(|(last, port)| ProbeKey {
        addr: addr(last),
        port: port.to_be_bytes(),
        reserved: [0; 2],
    });
    prop::collection::btree_set(key, 0..6)
}

/// Services over some of the addresses; each slot names a backend among `ADDRS`.
fn services() -> impl Strategy<Value = BTreeMap<u8, Vec<u8>>> {
    prop::collection::btree_map(100u8..104, prop::collection::vec(ADDRS, 0..4), 0..4)
}

fn with_services(mut state: State, services: &BTreeMap<u8, Vec<u8>>, first: u32) -> State {
    for (table, (vip, backends)) in (first..=u32::MAX).zip(services) {
        let n_slots = u32::try_from(backends.len()).unwrap();
        let table = if n_slots == 0 { 0 } else { table };
        let key = ServiceKey { addr: addr(*vip), port: [0, 80], protocol: 6, reserved: 0 };
        state.services.insert(key, ServiceValue { table, n_slots, affinity_s: 0, flags: 0 });
        for (slot, backend) in (0..).zip(backends) {
            let (addr, port) = (addr(*backend), [0, 80]);
            let value = SlotValue { addr, alias_addr: addr, port, alias_port: port, threshold: u32::MAX };
            state.slots.insert(SlotKey { table, slot }, value);
        }
    }
    state
}

fn states(first_table: u32) -> impl Strategy<Value = State> {
    (pods(), dests(), verdicts(), services(), probes()).prop_map(move |(pods, dests, verdicts, services, probes)| {
        with_services(State { pods, dests, verdicts, probes, ..State::default() }, &services, first_table)
    })
}

/// What each service draws from, by content: table numbers do not matter.
fn drawn(state: &State) -> BTreeMap<ServiceKey, Vec<Option<SlotValue>>> {
    let slots = |value: &ServiceValue| {
        (0..value.n_slots).map(|slot| state.slots.get(&SlotKey { table: value.table, slot }).copied()).collect()
    };
    state.services.iter().map(|(key, value)| (*key, slots(value))).collect()
}

fn without_tables(state: &State) -> State {
    // Listeners are set with the socket in hand, before any plan: a plan only removes them.
    State { services: BTreeMap::new(), slots: BTreeMap::new(), listeners: [].into(), ..state.clone() }
}

/// Every state on the way, the last one included.
fn steps(have: &State, plan: &Plan) -> Vec<(Write, State)> {
    let mut state = have.clone();
    plan.writes()
        .map(|write| {
            state.apply(write);
            (*write, state.clone())
        })
        .collect()
}

fn pairs() -> impl Iterator<Item = (u64, Addr, u16)> {
    // Port 1 is one that no entry names; cookie 9 is a namespace that nobody knows.
    let ports = || PORTS.into_iter().filter(|port| *port != 0).chain([1]);
    COOKIES
        .chain([9])
        .flat_map(move |cookie| ADDRS.flat_map(move |last| ports().map(move |port| (cookie, addr(last), port))))
}

/// True where a planned order keeps its three rules.
fn is_safe(have: &State, want: &State) -> Result<(), TestCaseError> {
    keeps_the_rules((have, want), &plan(have, want))
}

fn keeps_the_rules((have, want): (&State, &State), plan: &Plan) -> Result<(), TestCaseError> {
    let steps = steps(have, plan);
    let reached = steps.last().map_or(have, |(_, state)| state);
    prop_assert_eq!(without_tables(reached), without_tables(want));
    prop_assert_eq!(drawn(reached), drawn(want));
    prop_assert!(reached.listeners.is_subset(&want.listeners), "a listener was left behind");
    let needed: u32 = want.services.values().map(|service| service.n_slots).sum();
    prop_assert_eq!(reached.slots.len(), needed as usize, "slots were left behind");
    let (had, wanted) = (drawn(have), drawn(want));
    for (write, state) in &steps {
        for key in state.probes.iter().filter(|key| !want.probes.contains(*key)) {
            let is_same = state.dests.get(&key.addr) == have.dests.get(&key.addr);
            prop_assert!(is_same, "{:?} gives an address away whose probe is open still: {:?}", write, key);
        }
        for (cookie, to, port) in pairs() {
            let refused = !allows(have, cookie, to, port) && !allows(want, cookie, to, port);
            prop_assert!(
                !refused || !allows(state, cookie, to, port),
                "{:?} lets {} through to {:?}:{}, which both ends forbid",
                write,
                cookie,
                to,
                port
            );
        }
        for (service, slots) in drawn(state) {
            let (old, new) = (had.get(&service) == Some(&slots), wanted.get(&service) == Some(&slots));
            prop_assert!(old || new, "{write:?} leaves half a table to {service:?}");
            for slot in slots.iter().flatten() {
                let is_mesh = |owner: &State| owner.dests.contains_key(&slot.addr);
                let plain_in_its_own = (old && !is_mesh(have)) || (new && !is_mesh(want));
                prop_assert!(plain_in_its_own || is_mesh(state), "{write:?} takes a mesh backend for a plain one");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The rules, over states that have nothing to do with one another.
    #[test]
    fn no_step_lets_through_what_both_ends_forbid(have in states(1), want in states(1)) {
        is_safe(&have, &want)?;
    }

    #[test]
    fn what_is_as_it_should_be_takes_no_write(have in states(7)) {
        prop_assert!(plan(&have, &have).is_empty());
    }

    /// A policy's edit: verdicts change, nothing moves.
    #[test]
    fn an_edited_policy_interrupts_nobody_whom_it_still_allows(have in states(1), verdicts in verdicts()) {
        interrupts_nobody(&have, &State { verdicts, ..have.clone() })?;
    }

    /// A policy bound to a workload, or taken off it: addresses move among groups, and what groups say stays.
    #[test]
    fn a_policy_bound_anew_interrupts_nobody_whom_it_still_allows(have in states(1), dests in dests()) {
        interrupts_nobody(&have, &State { dests, ..have.clone() })?;
    }
}

fn interrupts_nobody(have: &State, want: &State) -> Result<(), TestCaseError> {
    is_safe(have, want)?;
    for (write, state) in steps(have, &plan(have, want)) {
        for (cookie, to, port) in pairs() {
            let allowed = allows(have, cookie, to, port) && allows(want, cookie, to, port);
            prop_assert!(
                !allowed || allows(&state, cookie, to, port),
                "{:?} refuses {} to {:?}:{}, which both ends allow",
                write,
                cookie,
                to,
                port
            );
        }
    }
    Ok(())
}

fn mesh_pod(id: u64) -> Pod {
    Pod { id, v4: [0; 16], v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 }
}

/// The commonest edit: all ports narrowed to one. The port that stays open is stated before the others are closed.
#[test]
fn narrowing_to_one_port_states_it_before_it_closes_the_others() {
    let verdict = |allow| Verdict { policy: 1, allow, reserved: 0 };
    let have = State { verdicts: [(key(1, 1, 0), verdict(1))].into(), ..State::default() };
    let want =
        State { verdicts: [(key(1, 1, 0), verdict(0)), (key(1, 1, 443), verdict(1))].into(), ..State::default() };
    let Plan { tighten, add, flip, sweep } = plan(&have, &want);
    assert_eq!(tighten, [Write::SetVerdict(key(1, 1, 443), verdict(1)), Write::SetVerdict(key(1, 1, 0), verdict(0))]);
    assert!(add.is_empty() && flip.is_empty() && sweep.is_empty());
}

/// Found by the properties: a workload that was refused by policy is refused for want of listeners next.
#[test]
fn a_verdict_waits_for_the_address_that_ceases_to_be_reachable() {
    let state = |allow, kind: DestKind| State {
        pods: [(1, mesh_pod(1))].into(),
        dests: [(addr(2), Dest { id: 2, group: 1, kind: kind as u32, udp: 0 })].into(),
        verdicts: [(key(1, 1, 0), Verdict { policy: 1, allow, reserved: 0 })].into(),
        ..State::default()
    };
    let plan = plan(&state(0, DestKind::Local), &state(1, DestKind::Pending));
    let [Write::SetDest(..), Write::SetVerdict(..)] = plan.add[..] else { panic!("{plan:?}") };
}

/// One write turns a service, whatever its size; the old slots go after it.
#[test]
fn a_service_is_flipped_by_one_value() {
    let have = with_services(State::default(), &[(100, vec![1, 2])].into(), 7);
    let want = with_services(State::default(), &[(100, vec![1, 3, 4])].into(), 1);
    let Plan { tighten, add, flip, sweep } = plan(&have, &want);
    assert!(tighten.is_empty());
    assert!(add.iter().all(|write| matches!(write, Write::SetSlot(SlotKey { table: 8, .. }, _))), "{add:?}");
    let [Write::SetService(_, ServiceValue { table: 8, n_slots: 3, .. })] = flip[..] else { panic!("{flip:?}") };
    assert!(sweep.iter().all(|write| matches!(write, Write::RemoveSlot(SlotKey { table: 7, .. }))), "{sweep:?}");
}

/// Table numbers are used again only after all others, and never one that is in use.
#[test]
fn table_numbers_wrap_around_what_is_in_use() {
    let have = with_services(State::default(), &[(100, vec![1]), (101, vec![2])].into(), u32::MAX - 1);
    let want = with_services(State::default(), &[(100, vec![3]), (101, vec![2])].into(), 1);
    let [Write::SetService(_, value)] = plan(&have, &want).flip[..] else { panic!() };
    assert_eq!(value.table, 1);
}

/// A namespace that was one pod's and is another's now: nobody speaks for either in between.
#[test]
fn a_namespace_that_changes_hands_is_nobodys_in_between() {
    let have = State { pods: [(1, mesh_pod(1))].into(), ..State::default() };
    let want = State { pods: [(1, mesh_pod(2))].into(), ..State::default() };
    let plan = plan(&have, &want);
    assert_eq!((plan.tighten, plan.add), (vec![Write::RemovePod(1)], vec![Write::SetPod(1, mesh_pod(2))]));
}
