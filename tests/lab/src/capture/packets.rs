//! Reads a pcap file into TCP streams: Ethernet, IPv4 and IPv6, each direction put together by sequence number.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// One direction of a TCP connection, as far as it was captured without a gap from its first byte.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who sent.
    pub source: SocketAddr,
    /// To whom.
    pub target: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Flow {
    /// Whether these bytes occur in it.
    pub fn contains(&self, needle: &[u8]) -> bool {
        !needle.is_empty() && self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

struct Segment<'a> {
    source: SocketAddr,
    target: SocketAddr,
    sequence: u32,
    opens: bool,
    payload: &'a [u8],
}

/// From whom to whom.
type Direction = (SocketAddr, SocketAddr);

/// All streams of a pcap file. Packets that are not TCP, or cut off, are left out.
pub fn flows(pcap: &[u8]) -> Vec<Flow> {
    let mut segments: BTreeMap<Direction, Vec<Segment<'_>>> = BTreeMap::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some((frame, after)) = record(rest) {
        if let Some(segment) = segment(frame) {
            segments.entry((segment.source, segment.target)).or_default().push(segment);
        }
        rest = after;
    }
    segments.into_iter().map(|((source, target), segments)| Flow { source, target, bytes: join(&segments) }).collect()
}

/// A frame, and what follows it.
type Cut<'a> = (&'a [u8], &'a [u8]);

fn record(rest: &[u8]) -> Option<Cut<'_>> {
    let length: [u8; 4] = rest.get(8..12)?.try_into().ok()?;
    let length = u32::from_le_bytes(length) as usize;
    Some((rest.get(16..16 + length)?, rest.get(16 + length..)?))
}

fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let kind = be16(frame, 12)?;
    let packet = frame.get(14..)?;
    let (source, target, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        0x0800 if packet.get(9) == Some(&6) => {
            let head = usize::from(packet.first()? & 0xf) * 4;
            let total = usize::from(be16(packet, 2)?);
            let at = |from: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(from..from + 4)?).ok()?));
            (at(12)?.into(), at(16)?.into(), packet.get(head..total)?)
        }
        0x86dd if packet.get(6) == Some(&6) => {
            let length = usize::from(be16(packet, 4)?);
            let at = |from: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(from..from + 16)?).ok()?));
            (at(8)?.into(), at(24)?.into(), packet.get(40..40 + length)?)
        }
        _ => return None,
    };
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let head = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        source: SocketAddr::new(source, be16(tcp, 0)?),
        target: SocketAddr::new(target, be16(tcp, 2)?),
        sequence,
        opens: tcp.get(13)? & 2 != 0,
        payload: tcp.get(head..)?,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Puts the segments in order; a retransmission adds only what is new, a gap ends the stream.
fn join(segments: &[Segment<'_>]) -> Vec<u8> {
    let opening = segments.iter().find(|segment| segment.opens).map(|syn| syn.sequence.wrapping_add(1));
    let Some(start) = opening.or_else(|| segments.first().map(|segment| segment.sequence)) else { return Vec::new() };
    let mut placed: Vec<(usize, &[u8])> = segments
        .iter()
        .filter(|segment| !segment.payload.is_empty())
        .map(|segment| (segment.sequence.wrapping_sub(start) as usize, segment.payload))
        .collect();
    placed.sort_by_key(|(at, _)| *at);
    let mut bytes = Vec::new();
    for (at, payload) in placed {
        let Some(new) = bytes.len().checked_sub(at) else { break };
        bytes.extend_from_slice(payload.get(new..).unwrap_or_default());
    }
    bytes
}
