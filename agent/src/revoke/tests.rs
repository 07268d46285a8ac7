//! States which live connections a changed policy closes, and that nobody else's are.

use std::collections::{BTreeMap, BTreeSet};

use millrace_abi::{Dest, DestKind, End, Pod, PodKind, Verdict, VerdictKey};

use super::{Connection, Revoked, Seen, Side, Why, may_revoke};
use crate::kernel::{State, plan::addr};

const WEB: u64 = 1;
const DB: u64 = 2;

/// Two pods of one node, 10.0.0.1 (web) and 10.0.0.2 (db), of which db is in group 7.
fn node(verdicts: &[(u64, u16, u32)]) -> State {
    let at = |last: u64| addr([10, 0, 0, u8::try_from(last).unwrap()].into());
    let pod = |id| Pod { id, v4: at(id), v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 };
    let dest = |id, group| Dest { id, group, kind: DestKind::Local as u32, udp: 0 };
    let verdict = |(source, port, allow): &(u64, u16, u32)| {
        let key = VerdictKey { source: *source, group: 7, port: port.to_be_bytes(), reserved: [0; 6] };
        (key, Verdict { policy: 9, allow: *allow, reserved: 0 })
    };
    State {
        pods: [(WEB, pod(WEB)), (DB, pod(DB))].into(),
        dests: [(at(WEB), dest(WEB, 0)), (at(DB), dest(DB, 7))].into(),
        verdicts: verdicts.iter().map(verdict).collect(),
        ..State::default()
    }
}

fn seen(web: &[(&str, &str)], db: &[(&str, &str)], db_listens: &[u16]) -> BTreeMap<u64, Seen> {
    let connections = |ends: &[(&str, &str)]| ends.iter().map(|(l, r)| Connection::between(l, r)).collect();
    let web = Seen { connections: connections(web), ..Seen::default() };
    let listening = db_listens.iter().copied().collect();
    let db = Seen { listening, connections: connections(db), ..Seen::default() };
    [(WEB, web), (DB, db)].into()
}

/// As the agent asks, where both pods are there.
fn revoked(have: &State, seen: &BTreeMap<u64, Seen>) -> Vec<Revoked> {
    super::revoked(have, seen, &[WEB, DB].into())
}

/// web calls db, and the kernel noted it at both ends.
fn noted() -> BTreeMap<u64, Seen> {
    let mut seen = seen(&[("10.0.0.1:40000", "10.0.0.2:80")], &[("10.0.0.2:80", "10.0.0.1:40000")], &[]);
    for (cookie, is_caller) in [(WEB, 1), (DB, 0)] {
        let end = End { source: WEB, target: DB, is_caller, is_attested: 1, ..End::default() };
        seen.get_mut(&cookie).unwrap().connections[0].end = Some(end);
    }
    seen
}

fn sides(found: &[Revoked]) -> Vec<(u64, Side, Why)> {
    found.iter().map(|revoked| (revoked.netns, revoked.end, revoked.why)).collect()
}

/// Nobody listens any more: what was noted tells who called.
#[test]
fn both_ends_of_what_was_noted_are_closed_whoever_listens() {
    let denied = Why::Denied(9);
    let found = revoked(&node(&[(WEB, 0, 0)]), &noted());
    assert_eq!(sides(&found), [(WEB, Side::Caller, denied), (DB, Side::Callee, denied)]);
    assert!(found.iter().all(|revoked| revoked.source == WEB));
    assert!(revoked(&node(&[(WEB, 0, 1)]), &noted()).is_empty(), "an allowed one was closed");
    // Each end alone is enough.
    for gone in [WEB, DB] {
        let mut one = noted();
        one.remove(&gone);
        assert_eq!(revoked(&node(&[(WEB, 0, 0)]), &one).len(), 1);
    }
}

/// db may not be called by web, but it was db that called.
#[test]
fn who_called_is_not_closed_for_what_it_may_not_be_called_for() {
    let mut seen = noted();
    for seen in seen.values_mut() {
        let end = seen.connections[0].end.as_mut().unwrap();
        *end = End { source: DB, target: WEB, is_caller: 1 - end.is_caller, ..*end };
    }
    seen.get_mut(&DB).unwrap().listening.insert(80);
    assert!(revoked(&node(&[(WEB, 0, 0)]), &seen).is_empty());
}

#[test]
fn a_connection_with_a_workload_that_is_gone_is_closed_though_another_has_its_address() {
    let left =
        |ids: &[u64]| super::revoked(&node(&[(WEB, 0, 1)]), &noted(), &ids.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(sides(&left(&[WEB])), [(WEB, Side::Caller, Why::Gone)]);
    assert_eq!(sides(&left(&[DB])), [(DB, Side::Callee, Why::Gone)]);
    assert!(left(&[WEB, DB]).is_empty());
}

/// The host's own, to a probe's port.
#[test]
fn the_hosts_connections_are_let_be() {
    let mut seen = noted();
    seen.get_mut(&DB).unwrap().connections[0].end = Some(End { target: DB, is_attested: 1, ..End::default() });
    seen.remove(&WEB);
    assert!(revoked(&node(&[(WEB, 0, 0)]), &seen).is_empty());
}

#[test]
fn a_connection_that_policy_now_denies_is_closed_at_the_callers_end() {
    let seen = seen(&[("10.0.0.1:40000", "10.0.0.2:80")], &[("10.0.0.2:80", "10.0.0.1:40000")], &[80]);
    let [Revoked { netns: WEB, source: WEB, why: Why::Denied(9), .. }] = revoked(&node(&[(WEB, 0, 0)]), &seen)[..]
    else {
        panic!()
    };
    assert!(revoked(&node(&[(WEB, 0, 1)]), &seen).is_empty(), "an allowed one was closed");
    assert!(revoked(&node(&[(WEB, 0, 0), (WEB, 80, 1)]), &seen).is_empty(), "the port's own verdict counts");
}

#[test]
fn no_verdict_is_a_no_for_live_connections_too() {
    let seen = seen(&[("10.0.0.1:40000", "10.0.0.2:80")], &[], &[80]);
    assert_eq!(revoked(&node(&[]), &seen).len(), 1);
}

/// db, which nobody may call, calls web, which everybody may: the answer's way back is not a call.
#[test]
fn a_callee_is_not_taken_for_a_caller() {
    let mut seen = seen(&[("10.0.0.1:80", "10.0.0.2:40000")], &[("10.0.0.2:40000", "10.0.0.1:80")], &[]);
    let have = node(&[(WEB, 0, 0)]);
    seen.get_mut(&WEB).unwrap().listening.insert(80);
    assert!(revoked(&have, &seen).is_empty());
    // The listener is gone, its connections are not.
    seen.get_mut(&WEB).unwrap().listening.clear();
    assert!(revoked(&have, &seen).is_empty());
}

/// web binds its end so that it can listen there too, calls db, and then listens: it is a caller still.
#[test]
fn a_caller_that_listens_on_its_own_end_is_closed_all_the_same() {
    let mut seen = seen(&[("10.0.0.1:40000", "10.0.0.2:80")], &[("10.0.0.2:80", "10.0.0.1:40000")], &[80]);
    seen.get_mut(&WEB).unwrap().listening.insert(40000);
    let found = revoked(&node(&[(WEB, 0, 0)]), &seen);
    assert!(found.iter().any(|revoked| revoked.netns == WEB), "{found:?}");
    // Where db has closed its listener, nobody can tell who called.
    seen.get_mut(&DB).unwrap().listening.clear();
    assert!(revoked(&node(&[(WEB, 0, 0)]), &seen).is_empty());
}

#[test]
fn what_is_not_between_two_pods_of_the_node_is_let_be() {
    let others =
        [("10.0.0.1:40000", "10.0.9.9:80"), ("127.0.0.1:15801", "127.0.0.1:40000"), ("10.0.0.1:40001", "10.0.0.1:80")];
    assert!(revoked(&node(&[(WEB, 0, 0)]), &seen(&others, &[], &[80])).is_empty());
}

#[test]
fn without_a_policy_on_this_node_nothing_is_looked_at() {
    assert!(may_revoke(&node(&[])));
    let mut open = node(&[]);
    open.dests.values_mut().for_each(|dest| dest.group = 0);
    assert!(!may_revoke(&open));
}
