//! Every combination of what the look-ups can find, against the rules written a second time as plainly as can be.

extern crate std;

use std::vec::Vec;

use super::{
    ASK_LIFE_NS, ASK_REFRESH_NS, Age, Ask, AskKey, FLOWS_PER_POD, N_PEERS, NO_STRANGERS, Noted, Pace, Peer, Peers, age,
    arrival, ask, is_tracked, paced, send,
};
use crate::{Addr, Dest, Port, Reason, Verdict};

const PORT: Port = 53u16.to_be_bytes();

fn at(last: u8) -> Addr {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
}

fn dests() -> Vec<Dest> {
    let mut all = Vec::new();
    for kind in [1, 2, 3, 99] {
        for id in [1, 2] {
            for group in [0, 7] {
                for udp in [0, NO_STRANGERS] {
                    all.push(Dest { id, group, kind, udp });
                }
            }
        }
    }
    all
}

fn verdicts() -> [Option<Verdict>; 3] {
    let verdict = |allow| Some(Verdict { policy: 3, allow, reserved: 0 });
    [None, verdict(0), verdict(1)]
}

#[test]
fn a_datagram_goes_where_the_rules_say() {
    for dest in dests() {
        for verdict in verdicts() {
            for is_attested in [false, true] {
                let is_within = is_attested && dest.kind == 1;
                let allow = verdict.map(|verdict| verdict.allow);
                let expected = match (dest.id, dest.kind, dest.group, allow) {
                    (1, ..) => Reason::Own,
                    (_, 3.., ..) => Reason::NotEnrolled,
                    _ if dest.udp == NO_STRANGERS && !is_within => Reason::UdpBetweenNodes,
                    (_, _, 7, None) => Reason::NoVerdict,
                    (_, _, 7, Some(0)) if is_within => Reason::Denied,
                    (_, _, 7, Some(0)) => Reason::UdpNoIdentity,
                    _ if is_within => Reason::UdpDirect,
                    _ => Reason::UdpPlain,
                };
                assert_eq!(ask(1, is_attested, &dest, verdict.as_ref()), expected, "{dest:?} {verdict:?}");
            }
        }
    }
    assert_eq!(send(1, None, false, None), Reason::Untouched);
    assert_eq!(send(1, None, true, None), Reason::UdpPlain);
}

/// The two ends agree: what a pod of this node is let send here is let in, and nothing else of it.
#[test]
fn an_arrival_is_let_in_where_its_ask_would_be_sent() {
    for own in dests().into_iter().filter(|dest| dest.kind == 1) {
        for from in dests().into_iter().map(Some).chain([None]) {
            for verdict in verdicts() {
                let is_pod = from.is_some_and(|from| from.kind == 1);
                let asked = ask(from.map_or(0, |from| from.id), is_pod, &own, verdict.as_ref());
                let is_let_in = matches!(asked, Reason::Own | Reason::UdpDirect | Reason::UdpPlain);
                let found = arrival(Some(&own), from.as_ref(), verdict.as_ref());
                assert_eq!(found == Reason::InUdp, is_let_in, "{own:?} {from:?} {verdict:?} {found:?}");
            }
        }
    }
    assert_eq!(arrival(None, None, None), Reason::InUnknownAddress);
    let remote = Dest { id: 2, group: 0, kind: 2, udp: 0 };
    assert_eq!(arrival(Some(&remote), None, None), Reason::InUnknownAddress);
}

#[test]
fn a_conversation_is_remembered_where_policy_binds_an_end() {
    let dest = |group| Dest { id: 1, group, kind: 1, udp: 0 };
    assert!(!is_tracked(Some(&dest(0)), Some(&dest(0))) && !is_tracked(Some(&dest(0)), None));
    assert!(is_tracked(Some(&dest(7)), None) && is_tracked(Some(&dest(0)), Some(&dest(7))) && is_tracked(None, None));
    let closed = Dest { udp: NO_STRANGERS, ..dest(0) };
    assert!(is_tracked(Some(&closed), None) && is_tracked(Some(&dest(0)), Some(&closed)));
}

#[test]
fn an_ask_ages_and_ends() {
    let seen = Ask { at_ns: 1000 };
    for (now, expected) in [
        (0, Age::Young),
        (1000, Age::Young),
        (999 + ASK_REFRESH_NS, Age::Young),
        (1000 + ASK_REFRESH_NS, Age::Due),
        (999 + ASK_LIFE_NS, Age::Due),
        (1000 + ASK_LIFE_NS, Age::Over),
    ] {
        assert_eq!(age(seen, now), expected, "{now}");
    }
    let key = AskKey { asker: at(1), asked: at(2), asker_port: [1, 2], asked_port: PORT };
    assert!(key.reversed() != key && key.reversed().reversed() == key);
}

#[test]
fn records_are_bounded_in_each_second() {
    let mut pace = Pace { second: 0, records: 0 };
    for n in 1..=FLOWS_PER_POD {
        pace = paced(pace, 5_000_000_000).unwrap();
        assert_eq!((pace.second, pace.records), (5, n));
    }
    assert_eq!(paced(pace, 5_999_999_999), None);
    assert_eq!(paced(pace, 6_000_000_000), Some(Pace { second: 6, records: 1 }));
}

/// As the program does: makes an entry, or overwrites one.
fn note(peers: &mut Peers, asked: u8, backend: u8) -> Noted {
    let count = peers.tick();
    let (place, noted) = peers.room(&at(asked), PORT);
    let (asked_port, backend_port) = (PORT, PORT);
    peers.all[place] = Peer { asked: at(asked), backend: at(backend), at: count, asked_port, backend_port, slot: 0 };
    noted
}

#[test]
fn of_two_services_of_one_backend_the_later_is_shown() {
    let mut peers = Peers::NONE;
    assert_eq!(peers.shown(&at(9), PORT), None);
    assert_eq!(peers.find(&at(1), PORT), N_PEERS);
    note(&mut peers, 1, 9);
    note(&mut peers, 2, 9);
    assert_eq!(peers.shown(&at(9), PORT), Some((at(2), PORT)));
    note(&mut peers, 1, 9);
    assert_eq!(peers.shown(&at(9), PORT), Some((at(1), PORT)));
    assert!(peers.is_taken(&at(9), PORT) && !peers.is_taken(&at(9), [0, 1]) && !peers.is_taken(&at(8), PORT));
    assert_eq!((peers.find(&at(1), PORT), peers.find(&at(2), PORT), peers.find(&at(2), [0, 1])), (0, 1, N_PEERS));
}

#[test]
fn a_service_too_many_takes_the_place_of_the_first() {
    let mut peers = Peers::NONE;
    let last = u8::try_from(N_PEERS).unwrap();
    for n in 0..last {
        assert_eq!(note(&mut peers, n, 100 + n), Noted::Free);
    }
    assert_eq!(note(&mut peers, 3, 103), Noted::Free, "it has a place");
    assert_eq!(note(&mut peers, last, 100 + last), Noted::Forgot);
    assert_eq!(peers.shown(&at(100), PORT), None);
    for n in 1..=last {
        assert_eq!(peers.shown(&at(100 + n), PORT), Some((at(n), PORT)));
    }
}
