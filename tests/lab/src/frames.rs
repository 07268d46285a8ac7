//! Builds frames byte by byte, as one who forges does, and sends and hears them on an interface. Layouts: RFC 826 (ARP), RFC 791
//! and 8200 (IP), RFC 9293 (TCP), RFC 4861 (neighbour discovery).

pub mod hijack;

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::clock;

/// A link address.
pub type Mac = [u8; 6];

/// Everybody's.
pub const BROADCAST: Mac = [0xff; 6];

/// Ethernet's numbers for what a frame holds.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;

const AF_PACKET: libc::sa_family_t = 17;
const ETH_P_ALL: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ICMPV6: u8 = 58;

/// TCP's flags.
pub const SYN: u8 = 2;
/// Acknowledges.
pub const ACK: u8 = 16;
/// Hands on at once.
pub const PUSH: u8 = 8;

/// No frame is longer.
const LONGEST: usize = 65_536;

/// An interface, as root in its namespace has it: every frame is seen, and any may be sent.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// The interface's own link address.
    pub mac: Mac,
}

impl Wire {
    /// The interface of this name in the calling thread's namespace.
    pub fn on(interface: &str) -> io::Result<Self> {
        let protocol = ETH_P_ALL.to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))))?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        socket.bind(&link_address(index.cast_signed(), protocol))?;
        let bound = socket.local_addr()?;
        Ok(Self { socket, mac: mac_of(&bound) })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The first that `pick` takes of the frames that come within this time. Frames that leave are heard too.
    pub fn hear<T>(&self, patience: Duration, mut pick: impl FnMut(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        let deadline = clock::now() + patience;
        let mut frame = vec![MaybeUninit::uninit(); LONGEST];
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut frame) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let heard: Vec<u8> = frame.iter().take(length).map(read).collect();
            if let Some(picked) = pick(&heard) {
                return Ok(Some(picked));
            }
        }
    }
}

#[expect(unsafe_code, reason = "recv fills what it counts")]
fn read(byte: &MaybeUninit<u8>) -> u8 {
    // SAFETY: only bytes that recv has counted are asked for.
    unsafe { byte.assume_init() }
}

#[expect(unsafe_code, reason = "socket2 has no address of AF_PACKET")]
fn link_address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the addresses that the storage is large enough for.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = protocol;
    address.sll_ifindex = index;
    const LENGTH: libc::socklen_t = 20; // Of a sockaddr_ll.
    // SAFETY: the storage holds a sockaddr_ll, of this length.
    unsafe { SockAddr::new(storage, LENGTH) }
}

#[expect(unsafe_code, reason = "socket2 has no address of AF_PACKET")]
fn mac_of(address: &SockAddr) -> Mac {
    // SAFETY: the address of a packet socket is a sockaddr_ll.
    let address = unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() };
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    [a, b, c, d, e, f]
}

/// A frame of this kind.
pub fn ethernet(from: Mac, to: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), body].concat()
}

/// The same frame, tagged as of this network: 0 is taken off by whoever gets it.
pub fn tagged(frame: &[u8], network: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &0x8100u16.to_be_bytes(), &network.to_be_bytes(), rest].concat()
}

/// An ARP message: 1 asks for `target`, 2 answers it; either says that `claimed` is at `mac`.
pub fn arp(operation: u16, (mac, claimed): (Mac, Ipv4Addr), (to, target): (Mac, Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let body = [&head[..], &operation.to_be_bytes(), &mac, &claimed.octets(), &to, &target.octets()].concat();
    ethernet(mac, to, ARP, &body)
}

/// Both ends of what a packet claims to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The link addresses it goes between.
    pub macs: (Mac, Mac),
    /// Whom it claims to be from.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
}

/// A TCP segment's own part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'d> {
    /// [`SYN`], [`ACK`], [`PUSH`].
    pub flags: u8,
    /// The number of its first byte.
    pub sequence: u32,
    /// The number that is expected next.
    pub acknowledges: u32,
    /// What it carries.
    pub data: &'d [u8],
}

/// A TCP segment in a packet in a frame.
pub fn tcp(ends: &Ends, segment: &Segment<'_>) -> Vec<u8> {
    let Segment { flags, sequence, acknowledges, data } = segment;
    let mut body = [&ends.from.port().to_be_bytes()[..], &ends.to.port().to_be_bytes()].concat();
    body.extend_from_slice(&sequence.to_be_bytes());
    body.extend_from_slice(&acknowledges.to_be_bytes());
    body.extend_from_slice(&[5 << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]); // Window; checksum and urgent pointer.
    body.extend_from_slice(data);
    summed(ends, IPPROTO_TCP, &mut body, 16);
    ip(ends, IPPROTO_TCP, 64, &body)
}

/// A datagram in a packet in a frame.
pub fn udp(ends: &Ends, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let mut body = [&ends.from.port().to_be_bytes()[..], &ends.to.port().to_be_bytes(), &length.to_be_bytes()].concat();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(data);
    summed(ends, 17, &mut body, 6);
    ip(ends, 17, 64, &body)
}

/// An ICMPv6 message about a neighbour: 135 asks for `target`, 136 answers it; `option` says at which link address.
pub fn neighbour(ends: &Ends, kind: u8, target: Ipv6Addr, option: Option<Mac>) -> Vec<u8> {
    // The answer overrides what was known.
    let flags = if kind == 136 { 0x20 } else { 0 };
    let mut body = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    if let Some(mac) = option {
        body.extend_from_slice(&[if kind == 136 { 2 } else { 1 }, 1]);
        body.extend_from_slice(&mac);
    }
    icmpv6(ends, body)
}

/// A router's advertisement of itself, for half an hour.
pub fn router(ends: &Ends) -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0];
    body.extend_from_slice(&1800u16.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    icmpv6(ends, body)
}

fn icmpv6(ends: &Ends, mut body: Vec<u8>) -> Vec<u8> {
    summed(ends, IPPROTO_ICMPV6, &mut body, 2);
    ip(ends, IPPROTO_ICMPV6, 255, &body) // Neighbours' messages count with this hop limit alone.
}

/// The same IPv6 frame with an empty extension header of this kind before what it carries.
pub fn behind(frame: &[u8], header: u8) -> Vec<u8> {
    let (head, body) = frame.split_at(14 + 40);
    let mut head = head.to_vec();
    let carried = head.get(20).copied().unwrap_or_default();
    let length = u16_at(&head, 18).unwrap_or_default().saturating_add(8);
    put(&mut head, 18, &length.to_be_bytes());
    put(&mut head, 20, &[header]);
    // Its padding is one option of four bytes.
    [&head[..], &[carried, 0, 1, 4, 0, 0, 0, 0], body].concat()
}

fn ip(ends: &Ends, protocol: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let ((from_mac, to_mac), Ends { from, to, .. }) = (ends.macs, ends);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + body.len()).unwrap_or(u16::MAX);
            let mut head = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 0, 0x40, 0, hops, protocol, 0, 0]].concat();
            head.extend_from_slice(&from.octets());
            head.extend_from_slice(&to.octets());
            let sum = checksum(&head).to_be_bytes();
            put(&mut head, 10, &sum);
            ethernet(from_mac, to_mac, IPV4, &[&head, body].concat())
        }
        (from, to) => {
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
            let mut head = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[protocol, hops]].concat();
            head.extend_from_slice(&octets(from));
            head.extend_from_slice(&octets(to));
            ethernet(from_mac, to_mac, IPV6, &[&head, body].concat())
        }
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Puts the checksum of `body` and the addresses at this place of it.
fn summed(ends: &Ends, protocol: u8, body: &mut [u8], at: usize) {
    let mut pseudo = match (ends.from.ip(), ends.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (from, to) => [octets(from), octets(to)].concat(),
    };
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    pseudo.extend_from_slice(&length.to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, protocol]);
    pseudo.extend_from_slice(body);
    let sum = checksum(&pseudo).to_be_bytes();
    put(body, at, &sum);
}

/// Overwrites what stands at this place.
fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte = *with);
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let byte = |pair: &[u8], at| pair.get(at).copied().map_or(0, u32::from);
    let words = bytes.chunks(2).map(|pair| byte(pair, 0) << 8 | byte(pair, 1));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// What a frame says, where it is a TCP segment without extension headers: the ends, flags, sequence, acknowledgement, data.
pub fn parse(frame: &[u8]) -> Option<(Ends, Segment<'_>)> {
    let mac = |at: usize| frame.get(at..at + 6)?.try_into().ok();
    let (from, to, at): (IpAddr, IpAddr, usize) = match u16_at(frame, 12)? {
        IPV4 if frame.get(23) == Some(&IPPROTO_TCP) => {
            let ip = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
            (ip(26)?, ip(30)?, 14 + usize::from(frame.get(14)? & 15) * 4)
        }
        IPV6 if frame.get(20) == Some(&IPPROTO_TCP) => {
            let ip = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
            (ip(22)?, ip(38)?, 54)
        }
        _ => return None,
    };
    let u32_at = |at: usize| frame.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let data = at + usize::from(frame.get(at + 12)? >> 4) * 4;
    let ends = Ends {
        macs: (mac(6)?, mac(0)?),
        from: SocketAddr::new(from, u16_at(frame, at)?),
        to: SocketAddr::new(to, u16_at(frame, at + 2)?),
    };
    let segment = Segment {
        flags: *frame.get(at + 13)?,
        sequence: u32_at(at + 4)?,
        acknowledges: u32_at(at + 8)?,
        data: frame.get(data..).unwrap_or_default(),
    };
    Some((ends, segment))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{ACK, Ends, Segment, checksum, parse, tcp};

    #[test]
    fn a_segment_is_read_as_it_was_written() {
        for (from, to) in [("10.0.0.1:4444", "10.0.0.2:80"), ("[fd00::1]:4444", "[fd00::2]:80")] {
            let ends = Ends { macs: ([2; 6], [4; 6]), from: from.parse().unwrap(), to: to.parse().unwrap() };
            let segment = Segment { flags: ACK, sequence: 7, acknowledges: 8, data: b"odd" };
            assert_eq!(parse(&tcp(&ends, &segment)), Some((ends, segment)));
        }
    }

    /// The example of RFC 1071, section 3.
    #[test]
    fn a_checksum_is_that_of_the_rfc() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
