//! Lays out what programs remember of datagrams, and decides about them. Pure, so that it is tested on the host.
//!
//! UDP has no handshake: a datagram is judged each time it is sent and each time it arrives, and what is an answer can only be
//! told by remembering who asked. [`Peers`] is what a socket remembers of the services it sends to; [`AskKey`] is one
//! conversation, under the end that began it.

use crate::{Addr, Dest, DestKind, Original, Port, Reason, Verdict};

/// How many services one unconnected socket may talk to at a time and be shown each one's own address. A resolver asks three, a
/// forwarder a handful; of more, the one that came first is forgotten, and its answers show the backend's address.
pub const N_PEERS: usize = 16;

/// How long an ask is remembered after the last datagram of its conversation: what Linux's own connection tracking gives a
/// UDP conversation that goes both ways.
pub const ASK_LIFE_NS: u64 = 120_000_000_000;

/// How old an entry may get before it is written again: a conversation at any speed costs a write in this time.
pub const ASK_REFRESH_NS: u64 = 5_000_000_000;

/// How many flow records of datagrams one pod may cause in a second. A connect costs its caller a system call and the callee
/// an answer; a datagram costs nobody anything, so that these are bounded where those are not.
pub const FLOWS_PER_POD: u32 = 32;

/// A [`Dest`]'s `udp`: no datagram of a caller without identity is taken, whatever access policies say.
pub const NO_STRANGERS: u32 = 1;

/// A [`Dest`]'s `udp`: VERDICTS has entries of their own for datagrams ([`of_datagrams`]), since a policy tells protocols apart.
pub const JUDGED_APART: u32 = 2;

/// IPPROTO_UDP, in the first of a [`crate::VerdictKey`]'s reserved bytes.
pub const APART: [u8; 6] = [17, 0, 0, 0, 0, 0];

/// True where `dest` takes no datagram of a caller without identity.
#[inline(always)]
pub const fn takes_no_strangers(dest: &Dest) -> bool {
    dest.udp & NO_STRANGERS != 0
}

/// The reserved bytes of the keys by which datagrams to `dest` are judged in VERDICTS.
#[inline(always)]
pub const fn of_datagrams(dest: &Dest) -> [u8; 6] {
    if dest.udp & JUDGED_APART != 0 { APART } else { [0; 6] }
}

/// One service that a socket sends to, and who answers for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The service's address.
    pub asked: Addr,
    /// Who is sent to.
    pub backend: Addr,
    /// When it was sent to last, by the socket's own count; 0: this entry is free.
    pub at: u64,
    /// The service's port.
    pub asked_port: Port,
    /// The backend's port.
    pub backend_port: Port,
    /// The slot that named it last; `u32::MAX` where that was not looked for yet.
    pub slot: u32,
}

/// Value of PEERS: what an unconnected socket sends to. Kept on the socket: it ends with it, and is nobody else's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// How many datagrams it has sent to them.
    pub count: u64,
    /// How many entries were made.
    pub made: u32,
    /// The program's own note.
    pub place: u32,
    /// Each at its place, in the order in which they were made.
    pub all: [Peer; N_PEERS],
}

/// What became of an entry that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It has a place.
    Free,
    /// It has the place of another, which is forgotten.
    Forgot,
}

impl Peers {
    /// Nothing sent yet: all zero, as the kernel makes it.
    pub const NONE: Self = Self {
        count: 0,
        made: 0,
        place: 0,
        all: [Peer { asked: [0; 16], backend: [0; 16], at: 0, asked_port: [0; 2], backend_port: [0; 2], slot: 0 };
            N_PEERS],
    };

    /// Where the entry of a service is; [`N_PEERS`] where there is none.
    #[inline(always)]
    pub fn find(&self, asked: &Addr, port: Port) -> usize {
        let is_it = |peer: &Peer| peer.at != 0 && peer.asked_port == port && peer.asked == *asked;
        self.all.iter().position(is_it).unwrap_or(N_PEERS)
    }

    /// What is shown of a datagram from this address: whatever was asked for last of all that lead there. One socket that asks
    /// two services of one backend is shown the later: nothing in a datagram says which it answers.
    #[inline(always)]
    pub fn shown(&self, backend: &Addr, port: Port) -> Option<(Addr, Port)> {
        let mut latest = 0;
        let mut shown = None;
        for peer in &self.all {
            if peer.at > latest && peer.backend_port == port && peer.backend == *backend {
                latest = peer.at;
                shown = Some((peer.asked, peer.asked_port));
            }
        }
        shown
    }

    /// True where another address leads to this backend already: answers could then not be told apart.
    #[inline(always)]
    pub fn is_taken(&self, backend: &Addr, port: Port) -> bool {
        self.all.iter().any(|peer| peer.at != 0 && peer.backend_port == port && peer.backend == *backend)
    }

    /// The next count of this socket.
    #[inline(always)]
    pub fn tick(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Where an entry for this service is to be made: over its own, else at the next place, whose service is then forgotten. In
    /// turn and not by age, which would take a search that the verifier follows down every way.
    #[inline(always)]
    pub fn room(&mut self, asked: &Addr, port: Port) -> (usize, Noted) {
        let own = self.find(asked, port);
        if own < N_PEERS {
            return (own, Noted::Free);
        }
        let made = self.made;
        self.made = made.wrapping_add(1);
        (made as usize % N_PEERS, if (made as usize) < N_PEERS { Noted::Free } else { Noted::Forgot })
    }
}

/// Key of ASKS: a conversation, as the end that began it sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskKey {
    /// Who asked.
    pub asker: Addr,
    /// Who was asked.
    pub asked: Addr,
    /// Who asked.
    pub asker_port: Port,
    /// Who was asked.
    pub asked_port: Port,
}

impl AskKey {
    /// The same two ends, begun by the other.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        let Self { asker, asked, asker_port, asked_port } = self;
        Self { asker: asked, asked: asker, asker_port: asked_port, asked_port: asker_port }
    }
}

/// Value of ASKS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// CLOCK_MONOTONIC when the conversation was seen last, to within [`ASK_REFRESH_NS`].
    pub at_ns: u64,
}

/// What a remembered ask is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It holds.
    Young,
    /// It holds, and is to be written again.
    Due,
    /// It holds no more.
    Over,
}

/// How old an ask is. One from the future is another processor's, a moment ahead.
#[inline(always)]
pub const fn age(ask: Ask, now_ns: u64) -> Age {
    let passed = now_ns.saturating_sub(ask.at_ns);
    if passed >= ASK_LIFE_NS {
        Age::Over
    } else if passed >= ASK_REFRESH_NS {
        Age::Due
    } else {
        Age::Young
    }
}

/// Key of STRANGERS, without the length of its prefix: what callers without identity get of a group, by address. The longest
/// prefix that matches decides; looked up with the port, then with port 0; where nothing matches the answer is no.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stranger {
    /// The called workload's policy group, big-endian.
    pub group: [u8; 8],
    /// The application's port; 0: every port without entries of its own.
    pub port: Port,
    /// The caller's address, or what a block begins with.
    pub addr: Addr,
    /// Zero.
    pub reserved: [u8; 2],
}

/// The bits of a [`Stranger`] before the address: they match whole.
pub const STRANGER_FIXED_BITS: u32 = 80;
/// The bits of a whole address.
pub const STRANGER_WHOLE_BITS: u32 = STRANGER_FIXED_BITS + 128;

/// Key of STRANGERS, as user space writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StrangerKey {
    /// How many bits of what follows match.
    pub prefix_len: u32,
    /// What matches.
    pub stranger: Stranger,
}

/// Key of TOLD: what a flow record was written of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToldKey {
    /// The pod that is spoken of, by its workload's id; 0 where unknown.
    pub pod: u64,
    /// The other end's address.
    pub addr: Addr,
    /// A [`Reason`].
    pub reason: u32,
    /// The port that is asked for.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How long a decision that is taken again and again is told once.
pub const TOLD_LIFE_NS: u64 = 10_000_000_000;

/// Value of PACE, by workload id: how many flow records of datagrams there were in this second.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The second, by CLOCK_MONOTONIC.
    pub second: u32,
    /// How many.
    pub records: u32,
}

/// A UDP socket that was connected by a service, as the iterator shows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByService {
    /// The kernel's number of the socket, by which sock_diag lists it too.
    pub cookie: u64,
    /// What was asked for, and whom it was given.
    pub original: Original,
}

/// Counts a record at this time; None where there were as many as may be in this second.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "of seconds since the machine began, 2^32 are 136 years")]
pub const fn paced(pace: Pace, now_ns: u64) -> Option<Pace> {
    let second = (now_ns / 1_000_000_000) as u32;
    if pace.second != second {
        return Some(Pace { second, records: 1 });
    }
    if pace.records >= FLOWS_PER_POD { None } else { Some(Pace { second, records: pace.records + 1 }) }
}

/// Whether a workload may send datagrams to another, and how they go.
///
/// `asker` is its id, 0 where unknown; `is_attested` says that the kernel of this node knows it to be one of its own pods.
/// `verdict` is what VERDICTS says of an attested asker and a `dest` of this node, else what STRANGERS says of its address; it is
/// not asked for where the group is 0. Ports of the mesh are TCP's: no program of it reads a datagram.
#[inline(always)]
pub fn ask(asker: u64, is_attested: bool, dest: &Dest, verdict: Option<&Verdict>) -> Reason {
    if dest.id == asker {
        return Reason::Own;
    }
    let is_local = dest.kind == DestKind::Local as u32;
    if !is_local && dest.kind != DestKind::Remote as u32 {
        return Reason::NotEnrolled;
    }
    let is_within = is_local && is_attested;
    if !is_within && takes_no_strangers(dest) {
        return Reason::UdpBetweenNodes;
    }
    if dest.group != 0 {
        match verdict {
            None => return Reason::NoVerdict,
            Some(verdict) if verdict.allow == 1 => {}
            Some(_) if is_within => return Reason::Denied,
            Some(_) => return Reason::UdpNoIdentity,
        }
    }
    if is_within { Reason::UdpDirect } else { Reason::UdpPlain }
}

/// Whether a pod may send a datagram: [`ask`], and what is none of the mesh's.
#[inline(always)]
pub fn send(pod: u64, dest: Option<&Dest>, is_service: bool, verdict: Option<&Verdict>) -> Reason {
    match dest {
        Some(dest) => ask(pod, true, dest, verdict),
        None if is_service => Reason::UdpPlain,
        None => Reason::Untouched,
    }
}

/// What becomes of a datagram that arrives at an unconnected socket of a pod, from outside the pod.
///
/// `own` is who has the address that it came to, `from` who has the one it came from; `verdict` as in [`ask`].
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not known to be let in is not")]
#[inline(always)]
pub fn arrival(own: Option<&Dest>, from: Option<&Dest>, verdict: Option<&Verdict>) -> Reason {
    let Some(own) = own else { return Reason::InUnknownAddress };
    if own.kind == DestKind::Remote as u32 {
        return Reason::InUnknownAddress;
    }
    // A pod whose listeners are not open yet is judged like any: datagrams need none.
    let own = Dest { kind: DestKind::Local as u32, ..*own };
    let (asker, is_attested) = match from {
        Some(from) => (from.id, is_pod_of_this_node(from)),
        None => (0, false),
    };
    match ask(asker, is_attested, &own, verdict) {
        Reason::Own | Reason::UdpDirect | Reason::UdpPlain => Reason::InUdp,
        Reason::UdpBetweenNodes => Reason::InUdpBetweenNodes,
        Reason::UdpNoIdentity => Reason::InUdpNoIdentity,
        // `ask` gives no other than `Denied` and `NoVerdict` here.
        _ => Reason::InUdpDenied,
    }
}

/// True for a captured pod of this node, whose datagrams its own kernel hooks judge.
#[inline(always)]
pub fn is_pod_of_this_node(dest: &Dest) -> bool {
    dest.kind == DestKind::Local as u32
}

/// True where it is remembered who asked whom: only where policies bind one of the two could an answer be taken for an ask,
/// or where `own` is no address that the mesh knows, at which nothing but answers is taken.
#[inline(always)]
pub fn is_tracked(own: Option<&Dest>, other: Option<&Dest>) -> bool {
    own.is_none_or(is_bound) || other.is_some_and(is_bound)
}

/// True where somebody may be refused.
#[inline(always)]
const fn is_bound(dest: &Dest) -> bool {
    dest.group != 0 || takes_no_strangers(dest)
}

/// True for a refusal that an answer is spared.
#[inline(always)]
pub const fn spares_answers(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Denied
            | Reason::NoVerdict
            | Reason::UdpBetweenNodes
            | Reason::UdpNoIdentity
            | Reason::InUdpDenied
            | Reason::InUdpBetweenNodes
            | Reason::InUdpNoIdentity
            | Reason::InUnknownAddress
    )
}

macro_rules! sizes {
    ($($name:ident = $size:literal),* $(,)?) => {
        $(const _: () = assert!(size_of::<$name>() == $size); // A change here is a change of SCHEMA.
        )*
    };
}
sizes! {
    Peer = 48, Peers = 784, AskKey = 36, Ask = 8, Stranger = 28, StrangerKey = 32, ToldKey = 32, Pace = 8, ByService = 48,
}

#[cfg(test)]
mod tests;
