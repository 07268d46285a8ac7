//! States which connected UDP sockets a changed policy closes, and that nobody else's are.

use std::collections::{BTreeMap, BTreeSet};

use millrace_abi::{
    Addr, Dest, DestKind, Pod, PodKind, Verdict, VerdictKey,
    udp::{AskKey, NO_STRANGERS, STRANGER_FIXED_BITS, Stranger, StrangerKey},
};

use super::{gone, may_revoke, revoked};
use crate::{
    kernel::{State, plan::addr},
    revoke::{Connection, Seen, Why},
};

const WEB: u64 = 1;
const DB: u64 = 2;
/// On another node, at 10.0.1.3.
const FAR: u64 = 3;
const GROUP: u64 = 7;

fn at(text: &str) -> Addr {
    addr(text.parse().unwrap())
}

/// How many bits of an address, the address, a port, and whether it is let in.
type Range<'a> = (u32, &'a str, u16, u32);

/// Two pods of one node, 10.0.0.1 (web) and 10.0.0.2 (db), and one of another; db and that are in a group.
fn node(verdicts: &[(u64, u16, u32)], strangers: &[Range<'_>]) -> State {
    let pod = |id, v4| Pod { id, v4: at(v4), v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 };
    let dest = |id, group, kind: DestKind| Dest { id, group, kind: kind as u32, udp: 0 };
    let verdict = |(source, port, allow): &(u64, u16, u32)| {
        let key = VerdictKey { source: *source, group: GROUP, port: port.to_be_bytes(), reserved: [0; 6] };
        (key, Verdict { policy: 9, allow: *allow, reserved: 0 })
    };
    let stranger = |(bits, from, port, allow): &Range<'_>| {
        let (group, port) = (GROUP.to_be_bytes(), port.to_be_bytes());
        let stranger = Stranger { group, port, addr: at(from), reserved: [0; 2] };
        let key = StrangerKey { prefix_len: STRANGER_FIXED_BITS + bits, stranger };
        (key, Verdict { policy: 8, allow: *allow, reserved: 0 })
    };
    State {
        pods: [(WEB, pod(WEB, "10.0.0.1")), (DB, pod(DB, "10.0.0.2"))].into(),
        dests: [
            (at("10.0.0.1"), dest(WEB, 0, DestKind::Local)),
            (at("10.0.0.2"), dest(DB, GROUP, DestKind::Local)),
            (at("10.0.1.3"), dest(FAR, GROUP, DestKind::Remote)),
        ]
        .into(),
        verdicts: verdicts.iter().map(verdict).collect(),
        strangers: strangers.iter().map(stranger).collect(),
        ..State::default()
    }
}

fn seen(sockets: &[(u64, &str, &str)]) -> BTreeMap<u64, Seen> {
    let mut all = BTreeMap::<u64, Seen>::new();
    for (netns, local, remote) in sockets {
        all.entry(*netns).or_default().datagrams.push(Connection::between(local, remote));
    }
    all
}

/// The pods whose sockets are closed, and why.
fn closed(have: &State, sockets: &[(u64, &str, &str)], asks: &[AskKey]) -> Vec<(u64, Why)> {
    let found = revoked(have, &seen(sockets), &BTreeSet::new(), |ask| asks.contains(ask));
    found.iter().map(|end| (end.netns, end.why)).collect()
}

const BOTH: [(u64, &str, &str); 2] = [(WEB, "10.0.0.1:40000", "10.0.0.2:53"), (DB, "10.0.0.2:53", "10.0.0.1:40000")];

fn web_asked() -> AskKey {
    let [asker_port, asked_port] = [40000u16, 53].map(u16::to_be_bytes);
    AskKey { asker: at("10.0.0.1"), asked: at("10.0.0.2"), asker_port, asked_port }
}

#[test]
fn who_may_ask_no_more_is_closed_and_so_is_what_answers_it() {
    let asks = [web_asked()];
    assert_eq!(closed(&node(&[(WEB, 0, 1)], &[]), &BOTH, &asks), []);
    let denied = Why::Denied(9);
    assert_eq!(closed(&node(&[(WEB, 0, 0)], &[]), &BOTH, &asks), [(WEB, denied), (DB, denied)]);
    assert_eq!(
        closed(&node(&[(WEB, 0, 1), (WEB, 53, 0)], &[]), &BOTH, &asks).len(),
        2,
        "the port's own verdict counts"
    );
    assert_eq!(closed(&node(&[], &[]), &BOTH, &asks), [(WEB, Why::Denied(0)), (DB, Why::Denied(0))]);
}

/// db asks web, which takes datagrams of everybody: what web may ask of db has no say.
#[test]
fn an_answer_is_not_taken_for_an_ask() {
    let db_asked = web_asked().reversed();
    assert_eq!(closed(&node(&[(WEB, 0, 0)], &[]), &BOTH, &[db_asked]), []);
}

#[test]
fn between_nodes_addresses_decide_and_the_longest_block_wins() {
    let far = [(WEB, "10.0.0.1:40000", "10.0.1.3:53")];
    assert_eq!(closed(&node(&[(WEB, 0, 1)], &[]), &far, &[]), [(WEB, Why::Denied(0))], "no identity");
    assert_eq!(closed(&node(&[], &[(0, "::", 0, 1)]), &far, &[]), []);
    let block = [(0, "::", 0, 1), (96 + 24, "10.0.0.0", 0, 0)];
    assert_eq!(closed(&node(&[], &block), &far, &[]), [(WEB, Why::Denied(8))]);
    let address = [block[0], block[1], (128, "10.0.0.1", 0, 1)];
    assert_eq!(closed(&node(&[], &address), &far, &[]), []);
    let port = [block[0], (0, "::", 53, 0)];
    assert_eq!(closed(&node(&[], &port), &far, &[]), [(WEB, Why::Denied(8))], "a port's own entries go first");
    let mut strict = node(&[], &[(0, "::", 0, 1)]);
    strict.dests.get_mut(&at("10.0.1.3")).unwrap().udp = NO_STRANGERS;
    assert_eq!(closed(&strict, &far, &[]).len(), 1, "nothing in the clear");
    assert!(may_revoke(&strict));
}

#[test]
fn whoever_talks_to_an_address_that_changed_hands_is_closed() {
    let have = node(&[(WEB, 0, 1)], &[(0, "::", 0, 1)]);
    let (mut want, mut moved) = (have.clone(), have.clone());
    want.dests.remove(&at("10.0.1.3"));
    moved.dests.get_mut(&at("10.0.0.2")).unwrap().id = 99;
    let mut grouped = have.clone();
    grouped.dests.get_mut(&at("10.0.0.2")).unwrap().group = 8;
    assert_eq!(gone(&have, &want), [at("10.0.1.3")].into());
    assert_eq!(gone(&have, &moved), [at("10.0.0.2")].into());
    assert!(gone(&have, &grouped).is_empty() && gone(&have, &have).is_empty());
    let sockets = [(WEB, "10.0.0.1:40000", "10.0.1.3:53"), BOTH[0], (WEB, "10.0.0.1:40002", "10.0.9.9:53")];
    let found = revoked(&want, &seen(&sockets), &gone(&have, &want), |_| false);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].netns, found[0].why), (WEB, Why::Gone));
}

#[test]
fn what_is_not_of_the_mesh_or_not_the_pods_own_is_let_be() {
    let sockets = [
        (WEB, "10.0.0.1:40000", "10.0.9.9:53"),
        (WEB, "127.0.0.1:40000", "127.0.0.1:53"),
        (WEB, "10.0.0.1:1", "10.0.0.1:2"),
    ];
    assert_eq!(closed(&node(&[], &[]), &sockets, &[]), []);
    let mut open = node(&[], &[]);
    open.dests.values_mut().for_each(|dest| dest.group = 0);
    assert!(!may_revoke(&open));
}
