//! Spreads connections that run over a pod's own loopback, so that no four numbers run out before a bare socket's would.
//!
//! A connection is told from others by two addresses and two ports. A bare socket has its 28,000 source ports for each address
//! and port that it calls; the outbound listener, and the port that a proxy dials, are one each. All of 127.0.0.0/8 is loopback,
//! so both pieces vary an address of it: by what they stand for, and by a few bits of chance. What stands for the same far end
//! shares no fewer than [`VARIANTS`] times a bare socket's.

use crate::{Addr, Port, decide::is_v4};

/// How many addresses stand for one destination or one client: as many times more connections than a bare socket's.
pub const VARIANTS: u32 = 16;

/// Addresses of captured connections are 127.64.0.0/10: no application asks for one by accident, and none is a broadcast's.
const OUTBOUND: u32 = 0x7f40_0000;
/// Addresses of the proxy's dials are 127.128.0.0/10: told apart from the others where people look.
const DIALS: u32 = 0x7f80_0000;
/// What is free in both.
const FREE_BITS: u32 = 22;
/// What chance has of it.
const VARIANT_BITS: u32 = VARIANTS.trailing_zeros();

/// The loopback address that a captured connection to this IPv4 backend is sent to. IPv6 has but one: None.
#[inline(always)]
pub fn outbound(backend: &Addr, port: Port, draw: u32) -> Option<Addr> {
    if is_v4(backend) { Some(address(OUTBOUND, mix(backend, port), draw)) } else { None }
}

/// The loopback address that an IPv4 application is dialled from on behalf of this client. IPv6 has but one: None.
#[inline(always)]
pub fn dial(client: &Addr, port: Port) -> Option<Addr> {
    if is_v4(client) { Some(address(DIALS, mix(client, [0; 2]), port_bits(port))) } else { None }
}

/// The v4-mapped address in this range that stands for a hash and a draw.
#[inline(always)]
fn address(range: u32, hash: u32, draw: u32) -> Addr {
    let far_end = hash >> (u32::BITS - (FREE_BITS - VARIANT_BITS)) << VARIANT_BITS;
    let v4 = (range | far_end | (draw % VARIANTS)).to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// An IPv4 address and a port, mixed so that neighbours are far from one another: by Knuth's multiplier, twice.
#[inline(always)]
fn mix(addr: &Addr, port: Port) -> u32 {
    const GOLDEN: u32 = 0x9e37_79b1;
    let host = u32::from_be_bytes([addr[12], addr[13], addr[14], addr[15]]).wrapping_mul(GOLDEN);
    ((host ^ host >> 15) ^ port_bits(port) << 8).wrapping_mul(GOLDEN)
}

#[inline(always)]
fn port_bits(port: Port) -> u32 {
    u16::from_be_bytes(port) as u32
}

const _: () = assert!(VARIANTS.is_power_of_two());

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::{VARIANTS, dial, outbound};
    use crate::{Addr, LOOPBACK_V6, decide::is_loopback};

    fn v4(host: u32) -> Addr {
        let [a, b, c, d] = (0x0a0a_0000 + host).to_be_bytes();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    #[test]
    fn every_address_is_loopback_of_its_own_range() {
        for n in 0..20_000u32 {
            let port = u16::try_from(n).unwrap().to_be_bytes();
            let (sent, dialled) =
                (outbound(&v4(n), port, n.wrapping_mul(77)).unwrap(), dial(&v4(n * 31), port).unwrap());
            assert!(is_loopback(&sent) && is_loopback(&dialled));
            assert!((64..128).contains(&sent[13]) && (128..192).contains(&dialled[13]));
        }
        assert_eq!((outbound(&LOOPBACK_V6, [0; 2], 0), dial(&LOOPBACK_V6, [0; 2])), (None, None));
    }

    #[test]
    fn one_far_end_has_all_its_variants_and_others_have_other_ones() {
        let of = |host, port: u16| -> BTreeSet<Addr> {
            (0..1000).map(|draw| outbound(&v4(host), port.to_be_bytes(), draw).unwrap()).collect()
        };
        assert_eq!(of(7, 80).len(), VARIANTS as usize);
        assert!(of(7, 80).is_disjoint(&of(7, 81)) && of(7, 80).is_disjoint(&of(8, 80)));
        let client: BTreeSet<Addr> = (0..1000u16).map(|port| dial(&v4(7), port.to_be_bytes()).unwrap()).collect();
        assert_eq!(client.len(), VARIANTS as usize);
        assert!(dial(&v4(8), [0; 2]).is_some_and(|other| !client.contains(&other)));
    }

    /// Two that meet share their ports; few do, in a mesh as large as one is.
    #[test]
    fn neighbours_rarely_meet() {
        let all: BTreeSet<Addr> = (0..5000).map(|host| outbound(&v4(host), [0, 80], 0).unwrap()).collect();
        assert!(all.len() > 4900, "{} of 5,000", all.len());
        let ports: BTreeSet<Addr> = (0..5000u16).map(|port| outbound(&v4(7), port.to_be_bytes(), 0).unwrap()).collect();
        assert!(ports.len() > 4900, "{} of 5,000", ports.len());
    }
}
