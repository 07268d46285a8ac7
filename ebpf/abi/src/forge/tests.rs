//! States what a pod may say of itself on the wire, and which connection is the one that was written down.

use super::{FAST_OPEN_DATA, Guard, GuardKind, bytes, continues, mapped};
use crate::{Addr, Reason};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
const V6: Addr = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const OTHER_V6: Addr = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];
const LINK_LOCAL: Addr = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 7];
const OTHER_LINK_LOCAL: Addr = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 8];

fn guard(kind: GuardKind) -> Guard {
    let v4 = mapped([10, 0, 0, 7]);
    Guard { v4, v6: V6, link_local: LINK_LOCAL, id: 7, told_ns: 0, mac: MAC, kind: kind as u16 }
}

fn own() -> Guard {
    guard(GuardKind::Own)
}

fn is_mesh(addr: &Addr) -> bool {
    [V6, OTHER_V6, mapped([10, 0, 0, 7]), mapped([10, 0, 0, 8])].contains(addr)
}

fn arp(mac: [u8; 6], sender: [u8; 4]) -> [u8; 28] {
    let mut message = [0; 28];
    message[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    message[8..14].copy_from_slice(&mac);
    message[14..18].copy_from_slice(&sender);
    message
}

fn neighbour(kind: u8, target: Addr) -> [u8; 24] {
    let mut message = [0; 24];
    message[0] = kind;
    message[8..].copy_from_slice(&target);
    message
}

fn at(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [2, 1, a, b, c, d, e, f]
}

#[test]
fn a_connection_is_the_one_written_down_if_its_first_byte_is() {
    assert!(continues(1000, 1000) && continues(1000, 1000 + FAST_OPEN_DATA));
    assert!(!continues(1000, 999) && !continues(1000, 1001 + FAST_OPEN_DATA));
    assert!(continues(u32::MAX, 10), "numbers wrap");
    assert!(!continues(10, u32::MAX));
    assert!(continues(0, 12345), "it could not be read");
}

fn pairs<const N: usize>(of: &[u8]) -> [u16; N] {
    let mut pairs = of.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    core::array::from_fn(|_| pairs.next().unwrap())
}

/// What is let through at a glance is let through by the rules.
#[test]
fn what_is_plainly_the_pods_own_no_rule_refuses() {
    let nameless = Guard { v4: [0; 16], v6: [0; 16], ..own() };
    let mut n_plain = 0;
    for guard in [own(), guard(GuardKind::Other), guard(GuardKind::Outside), nameless] {
        for mac in [MAC, OTHER_MAC] {
            for addr in
                [mapped([10, 0, 0, 7]), mapped([10, 0, 0, 8]), mapped([0; 4]), V6, OTHER_V6, LINK_LOCAL, [0; 16]]
            {
                let is_v4 = addr[..12] == mapped([0; 4])[..12];
                let is_plain = (is_v4 && guard.is_own_v4(pairs(&mac), pairs(&addr[12..])))
                    || (!is_v4 && guard.is_own_v6(pairs(&mac), pairs(&addr)));
                let refused = guard.frame(&mac).or_else(|| guard.packet(&addr, is_mesh));
                assert!(!is_plain || refused.is_none(), "{addr:?} from {mac:?}: {refused:?}");
                n_plain += u32::from(is_plain);
            }
        }
    }
    assert_eq!(n_plain, 2, "its own addresses, from its own interface");
}

#[test]
fn a_pod_speaks_from_its_own_addresses_alone() {
    for addr in [mapped([10, 0, 0, 7]), V6, LINK_LOCAL] {
        assert_eq!(own().packet(&addr, is_mesh), None);
    }
    for addr in [mapped([10, 0, 0, 8]), mapped([8, 8, 8, 8]), mapped([0; 4]), OTHER_V6, OTHER_LINK_LOCAL, [0; 16]] {
        assert_eq!(own().packet(&addr, is_mesh), Some(Reason::SpoofedSource), "{addr:?}");
    }
    assert_eq!((own().frame(&MAC), own().frame(&OTHER_MAC)), (None, Some(Reason::SpoofedMac)));
}

#[test]
fn a_pod_without_an_address_of_a_family_speaks_from_none_of_it() {
    let guard = Guard { v4: [0; 16], ..own() };
    assert_eq!(guard.packet(&mapped([0; 4]), is_mesh), Some(Reason::SpoofedSource));
    assert_eq!(guard.arp(&arp(MAC, [10, 0, 0, 7]), is_mesh), Some(Reason::SpoofedNeighbour));
}

#[test]
fn arp_claims_no_more_than_the_own_address() {
    assert_eq!(own().arp(&arp(MAC, [10, 0, 0, 7]), is_mesh), None);
    assert_eq!(own().arp(&arp(MAC, [0; 4]), is_mesh), None, "a probe claims nothing");
    assert_eq!(own().arp(&arp(MAC, [10, 0, 0, 8]), is_mesh), Some(Reason::SpoofedNeighbour));
    assert_eq!(own().arp(&arp(OTHER_MAC, [10, 0, 0, 7]), is_mesh), Some(Reason::SpoofedMac));
    let mut other = arp(MAC, [10, 0, 0, 7]);
    other[5] = 16;
    assert_eq!(own().arp(&other, is_mesh), Some(Reason::SpoofedProtocol));
}

#[test]
fn a_pod_answers_for_its_own_addresses_alone_and_is_no_router() {
    let judge = |source: Addr, message: [u8; 24], option: [u8; 8]| own().icmpv6(&source, &message, &option, is_mesh);
    for target in [V6, LINK_LOCAL] {
        assert_eq!(judge(V6, neighbour(136, target), at(MAC)), None);
        assert_eq!(judge([0; 16], neighbour(135, target), [0; 8]), None, "duplicate address detection");
    }
    let forged = Some(Reason::SpoofedNeighbour);
    assert_eq!(judge(V6, neighbour(136, OTHER_V6), at(MAC)), forged);
    assert_eq!(judge(V6, neighbour(136, V6), at(OTHER_MAC)), forged);
    assert_eq!(judge([0; 16], neighbour(135, OTHER_V6), [0; 8]), forged, "it would deny the address to its owner");
    assert_eq!(judge(V6, neighbour(135, OTHER_V6), at(MAC)), None, "to ask is free");
    assert_eq!(judge(V6, neighbour(135, OTHER_V6), at(OTHER_MAC)), forged);
    for router in [134, 137] {
        assert_eq!(judge(LINK_LOCAL, neighbour(router, V6), [0; 8]), forged);
    }
    assert_eq!(judge([0; 16], neighbour(128, V6), [0; 8]), Some(Reason::SpoofedSource), "a ping from nobody");
    assert_eq!(judge([0; 16], neighbour(143, V6), [0; 8]), None, "a report of groups, before there is an address");
    assert_eq!(judge(V6, neighbour(128, V6), [0; 8]), None);
}

/// A second network of the pod is not the mesh's: only the mesh's addresses are kept from it.
#[test]
fn another_interface_may_claim_what_is_nobodys_of_the_mesh() {
    let guard = guard(GuardKind::Other);
    assert_eq!(guard.packet(&mapped([192, 168, 1, 9]), is_mesh), None);
    assert_eq!(guard.packet(&mapped([10, 0, 0, 7]), is_mesh), None);
    assert_eq!(guard.packet(&mapped([10, 0, 0, 8]), is_mesh), Some(Reason::SpoofedSource));
    assert_eq!(guard.frame(&OTHER_MAC), None);
    assert_eq!(guard.arp(&arp(OTHER_MAC, [10, 0, 0, 8]), is_mesh), Some(Reason::SpoofedNeighbour));
    assert_eq!(guard.icmpv6(&V6, &neighbour(136, OTHER_V6), &[0; 8], is_mesh), Some(Reason::SpoofedNeighbour));
}

#[test]
fn bytes_beyond_a_header_are_zero() {
    assert_eq!(bytes::<4, 4>(&[1, 2, 3, 4], 2), [3, 4, 0, 0]);
}
