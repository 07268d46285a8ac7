//! Every combination of what the look-ups can find, against the rules written a second time as plainly as can be.

extern crate std;

use std::vec::Vec;

use super::{
    affinity_holds, arrival, attests, attests_host, backend, caller, connect, failure, inbound, is_before, is_closed,
    is_loopback, is_mesh_port, is_v4, slot, told, told_by_callee, tuple_cookie, within_quota, without_slots,
};
use crate::{
    Addr, AffinityValue, Dest, DestKind, Handoff, HandoffKind, LOOPBACK_V4, LOOPBACK_V6, Listening, OUTBOUND_PORT,
    Original, PLAINTEXT_PORT, Pending, Pod, PodKind, Port, Reason, ServiceValue, SlotValue, TUNNEL_PORT, Verdict,
    capacity,
};

const OWN: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
const OTHER: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2];
const HTTP: Port = 80u16.to_be_bytes();
const PORTS: [Port; 4] = [HTTP, TUNNEL_PORT, OUTBOUND_PORT, PLAINTEXT_PORT];
const DEST_KINDS: [u32; 4] = [DestKind::Local as u32, DestKind::Remote as u32, DestKind::Pending as u32, 99];
const POD_KINDS: [u32; 4] = [PodKind::Mesh as u32, PodKind::Outside as u32, PodKind::Host as u32, 99];

fn pod(kind: u32) -> Pod {
    Pod { id: 1, v4: OWN, v6: [6; 16], kind, reserved: 0 }
}

fn dests() -> Vec<Option<Dest>> {
    let mut all = std::vec![None];
    for kind in DEST_KINDS {
        for id in [1, 2] {
            for group in [0, 7] {
                all.push(Some(Dest { id, group, kind, udp: 0 }));
            }
        }
    }
    all
}

fn verdicts() -> [Option<Verdict>; 4] {
    let verdict = |allow| Some(Verdict { policy: 3, allow, reserved: 0 });
    [None, verdict(0), verdict(1), verdict(2)]
}

/// What is let through straight is told by the way that it was let through.
#[test]
fn the_end_of_every_connect_of_a_pod_is_told_but_over_its_own_loopback() {
    for kind in [PodKind::Mesh, PodKind::HostMesh] {
        let caller = pod(kind as u32);
        for dest in dests() {
            for is_service in [false, true] {
                assert_eq!(told(&caller, dest.as_ref(), &LOOPBACK_V4, is_service), None);
                let decided = connect(&caller, dest.as_ref(), is_service, HTTP, verdicts()[2].as_ref());
                let way = told(&caller, dest.as_ref(), &OTHER, is_service).unwrap();
                // What went through the proxy is told by the socket's own word; the rest never got this far.
                assert!(
                    way == decided || matches!(decided, Reason::Proxied | Reason::NotEnrolled),
                    "{decided:?} {way:?}"
                );
            }
        }
    }
    for kind in [PodKind::Outside, PodKind::Host, PodKind::HostOutside] {
        assert_eq!(told(&pod(kind as u32), None, &OTHER, false), None);
    }
    assert!(told_by_callee(0) && !told_by_callee(1));
}

#[test]
fn a_connect_goes_where_the_rules_say() {
    let caller = pod(PodKind::Mesh as u32);
    for dest in dests() {
        for verdict in verdicts() {
            for port in PORTS {
                for is_service in [false, true] {
                    let expected = match dest {
                        None if is_service => Reason::PlainBackend,
                        None => Reason::Untouched,
                        Some(_) if port != HTTP => Reason::MeshPort,
                        Some(dest) if dest.id == caller.id => Reason::Own,
                        Some(dest) if dest.group != 0 && verdict.is_none() => Reason::NoVerdict,
                        Some(dest) if dest.group != 0 && verdict.is_some_and(|verdict| verdict.allow != 1) => {
                            Reason::Denied
                        }
                        Some(dest) if dest.kind == 1 => Reason::Direct,
                        Some(dest) if dest.kind == 2 => Reason::Proxied,
                        Some(_) => Reason::NotEnrolled,
                    };
                    let found = connect(&caller, dest.as_ref(), is_service, port, verdict.as_ref());
                    assert_eq!(found, expected, "{dest:?} {verdict:?} {port:?} {is_service}");
                }
            }
        }
    }
}

/// The one rule that all of the kernel's vouching rests on: nobody is vouched for who would not be let through now.
#[test]
fn only_what_a_connect_would_let_through_directly_is_attested() {
    for kind in POD_KINDS {
        for own in [OWN, [6; 16], OTHER, [0; 16]] {
            for dest in dests().into_iter().flatten() {
                for verdict in verdicts() {
                    for port in PORTS {
                        let pod = pod(kind);
                        let goes = connect(&pod, Some(&dest), false, port, verdict.as_ref());
                        let expected = kind == PodKind::Mesh as u32
                            && (own == OWN || own == [6; 16])
                            && (goes == Reason::Direct || goes == Reason::Own);
                        assert_eq!(attests(&pod, &own, &dest, port, verdict.as_ref()), expected, "{pod:?} {dest:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_unknown_namespace_is_nobody_and_known_ones_outside_the_mesh_are_left_alone() {
    for is_mesh_address in [false, true] {
        assert_eq!(caller(Some(PodKind::Mesh as u32), is_mesh_address), None);
        for kind in [PodKind::Outside as u32, PodKind::Host as u32, 99] {
            assert_eq!(caller(Some(kind), is_mesh_address), Some(Reason::Untouched));
        }
    }
    assert_eq!(caller(None, true), Some(Reason::UnknownNamespace));
    assert_eq!(caller(None, false), Some(Reason::Untouched));
}

#[test]
fn a_pod_at_its_quota_makes_no_connect_that_would_leave_a_record() {
    let quota = i64::from(capacity::PENDING_PER_POD);
    for reason in Reason::ALL {
        let leaves = [Reason::Direct, Reason::Own, Reason::Proxied].contains(&reason);
        assert_eq!(within_quota(reason, None), reason);
        for (records, is_over) in [(-1, false), (0, false), (quota - 1, false), (quota, true), (quota + 1, true)] {
            let expected = if leaves && is_over { Reason::TooManyPending } else { reason };
            assert_eq!(within_quota(reason, Some(&Pending { records })), expected, "{reason:?} {records}");
        }
    }
}

#[test]
fn the_host_is_vouched_for_at_the_ports_of_probes_on_this_node_alone() {
    for kind in POD_KINDS {
        for dest in dests().into_iter().flatten() {
            for port in PORTS {
                for is_probe in [false, true] {
                    let expected = kind == 3 && is_probe && port == HTTP && [1, 3].contains(&dest.kind);
                    let found = attests_host(&pod(kind), &dest, port, is_probe);
                    assert_eq!(found, expected, "{kind} {dest:?} {port:?} {is_probe}");
                }
            }
        }
    }
}

#[test]
fn an_arrival_goes_where_the_rules_say() {
    let (addr, port, reserved) = (OTHER, HTTP, [0; 2]);
    let original = Original { addr, backend: OTHER, port, backend_port: HTTP, mode: 0, binds: 0, reserved };
    let handoff = |kind| Some(Handoff { socket: 1, source: 2, target: 4, netns: 3, original, kind, sequence: 0 });
    let handoffs = [None, handoff(HandoffKind::Outbound as u32), handoff(HandoffKind::Attested as u32)];
    for dest in dests() {
        for handoff in handoffs.into_iter().chain([handoff(HandoffKind::ProxyDial as u32), handoff(99)]) {
            for port in PORTS {
                let kind = handoff.map(|handoff| handoff.kind);
                let expected = match dest {
                    Some(dest) if dest.kind == 1 || dest.kind == 3 => match (kind, port) {
                        (Some(2), _) => Reason::InAttested,
                        (Some(3), _) => Reason::InProxyDial,
                        (_, TUNNEL_PORT) => Reason::InTunnel,
                        (_, HTTP) => Reason::InPlaintext,
                        _ => Reason::InMeshPort,
                    },
                    _ => Reason::InUnknownAddress,
                };
                assert_eq!(inbound(dest.as_ref(), handoff.as_ref(), port), expected, "{dest:?} {kind:?} {port:?}");
            }
        }
    }
}

#[test]
fn a_loopback_address_is_taken_over_loopback_alone() {
    for own in [LOOPBACK_V4, LOOPBACK_V6] {
        assert_eq!(arrival(true, &own), Some(Reason::InLoopback));
        assert_eq!(arrival(false, &own), Some(Reason::InMartian));
    }
    assert_eq!(arrival(true, &OWN), Some(Reason::InLoopback));
    assert_eq!(arrival(false, &OWN), None);
}

#[test]
fn a_tuple_is_keyed_with_its_namespace_where_its_target_is_loopback() {
    for (target, cookie) in [(OTHER, 0), (LOOPBACK_V4, 5), (LOOPBACK_V6, 5)] {
        assert_eq!(tuple_cookie(&target, 5), cookie);
    }
}

#[test]
fn loopback_is_all_of_127_and_one_address_of_ipv6() {
    let mut far = LOOPBACK_V4;
    far[13..].copy_from_slice(&[255, 255, 254]);
    assert!(is_loopback(&LOOPBACK_V4) && is_loopback(&LOOPBACK_V6) && is_loopback(&far));
    let mut look_alike = LOOPBACK_V4;
    look_alike[0] = 0xfd; // An IPv6 address that ends like 127.0.0.1.
    assert!(!is_loopback(&look_alike) && !is_loopback(&OWN) && !is_loopback(&[0; 16]));
    assert!(is_v4(&OWN) && !is_v4(&LOOPBACK_V6) && !is_v4(&[0; 16]));
}

#[test]
fn the_meshs_ports_are_three() {
    let ports: Vec<u16> = (0..=u16::MAX).filter(|port| is_mesh_port(port.to_be_bytes())).collect();
    assert_eq!(ports, [15008, 15801, 15806]);
}

#[test]
fn every_slot_is_drawn_and_none_beyond() {
    for n_slots in [1, 2, 3, 7, 1000, u32::MAX] {
        assert_eq!(slot(0, n_slots), 0);
        assert_eq!(slot(u32::MAX, n_slots), n_slots - 1);
    }
    let mut drawn = [0u32; 7];
    for draw in (0..=u32::MAX).step_by(65_537) {
        drawn[slot(draw, 7) as usize] += 1;
    }
    let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
    assert!(most - least <= 1, "{drawn:?} is not fair");
}

#[test]
fn a_threshold_splits_the_draws_and_the_greatest_keeps_all() {
    let value = |threshold| SlotValue { addr: OWN, alias_addr: OTHER, port: HTTP, alias_port: TUNNEL_PORT, threshold };
    assert_eq!(backend(&value(10), 9), (OWN, HTTP));
    assert_eq!(backend(&value(10), 10), (OTHER, TUNNEL_PORT));
    assert_eq!(backend(&value(0), 0), (OTHER, TUNNEL_PORT));
    assert_eq!(backend(&value(u32::MAX), u32::MAX), (OWN, HTTP));
}

#[test]
fn slots_are_ordered_by_address_then_port() {
    let addr = |first: u8, last: u8| {
        let mut addr = [0; 16];
        (addr[0], addr[15]) = (first, last);
        addr
    };
    let sorted = [
        (addr(0, 1), [0, 80]),
        (addr(0, 1), [1, 0]),
        (addr(0, 255), [0, 80]),
        (addr(1, 0), [0, 1]),
        (addr(255, 0), [0, 0]),
    ];
    for (i, one) in sorted.iter().enumerate() {
        for (j, other) in sorted.iter().enumerate() {
            assert_eq!(is_before((&one.0, one.1), (&other.0, other.1)), i < j, "{one:?} {other:?}");
        }
    }
}

#[test]
fn affinity_lasts_from_the_last_connection_and_no_longer() {
    let given = AffinityValue { at_ns: 5_000_000_000, addr: OTHER, port: HTTP, reserved: [0; 2], slot: 0 };
    assert!(affinity_holds(&given, 6_999_999_999, 2));
    assert!(!affinity_holds(&given, 7_000_000_000, 2));
    assert!(affinity_holds(&given, 1, 2), "an entry from a moment ahead, of another processor's clock, is fresh");
}

#[test]
fn a_service_without_slots_says_whose_are_missing() {
    let service = |n_slots, flags| ServiceValue { table: 1, n_slots, affinity_s: 0, flags };
    assert_eq!(without_slots(&service(0, 0)), Some(Reason::NoBackend));
    assert_eq!(without_slots(&service(0, 1)), Some(Reason::NoLocalBackend));
    assert_eq!([without_slots(&service(1, 0)), without_slots(&service(1, 1))], [None, None]);
}

#[test]
fn a_connection_that_was_not_made_says_why() {
    assert_eq!(failure(0, 0), None, "given up at once");
    assert_eq!(failure(0, 1), Some(Reason::BackendTimedOut));
    assert_eq!(failure(1, 0), Some(Reason::BackendRefused));
    assert_eq!(failure(1, 3), Some(Reason::BackendRefused), "in the end it answered");
}

#[test]
fn a_port_counts_as_closed_for_half_a_minute_after_its_last_listener() {
    let second = 1_000_000_000;
    let at = |closed_ns, now_ns| is_closed(&Listening { n_open: 0, closed_ns }, now_ns);
    assert!(!at(0, 5 * second), "one that is open");
    assert!(at(5 * second, 5 * second) && at(5 * second, 34 * second));
    assert!(!at(5 * second, 35 * second));
    assert!(at(6 * second, 5 * second), "closed on another core, a moment after this one read its clock");
}
