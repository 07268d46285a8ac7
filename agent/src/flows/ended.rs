//! The end of a connection as the kernel told it: who was at its ends, how it ended, and how it is printed.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use millrace_abi::{EndEvent, Reason, Side, account::state};
use millrace_model::ObjectName;
use serde::Serialize;

use super::{
    Moment, Names, address,
    names::{Named, Who},
    rfc3339,
};

/// A connection that has ended, and between whom it was as far as that was known when it was told.
#[derive(Clone, Debug)]
pub struct Ended {
    at: Duration,
    pub(super) event: EndEvent,
    pub(super) source: Who,
    pub(super) target: Who,
    pub(super) service: Option<ObjectName>,
    policy: Named<ObjectName>,
}

/// As it is printed. Bytes count as the applications sent and received them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Printed {
    /// When, in RFC 3339.
    pub(super) at: String,
    /// `ended`.
    pub(super) event: &'static str,
    /// How: [`Ended::outcome`].
    pub(super) verdict: &'static str,
    /// Which end tells: `client` or `server`.
    pub(super) side: &'static str,
    /// The way that the kernel sent or let it: a reason's name.
    pub(super) path: &'static str,
    /// The calling workload, as namespace/name; empty where unknown.
    pub(super) source: String,
    /// The caller's address and port.
    pub(super) source_address: String,
    /// What was asked for; at the server's side, where it arrived.
    pub(super) asked: String,
    /// Where it went; empty where the proxy chose among a service's endpoints.
    pub(super) target: String,
    /// The called workload, as namespace/name; empty where unknown.
    pub(super) target_workload: String,
    /// The service that was asked for, as namespace/name; empty for none, and at the server's side.
    pub(super) service: String,
    /// The policy that it rests on; empty for none, and at the server's side.
    pub(super) policy: String,
    /// From the caller to the called.
    pub(super) bytes_sent: u64,
    /// From the called to the caller.
    pub(super) bytes_received: u64,
    /// From SYN to close; at the server's side, from establishment.
    pub(super) duration_us: u64,
    /// From SYN to establishment; 0 at the server's side.
    pub(super) connect_us: u32,
    /// The smoothed round-trip time; 0 where none was measured. Of the piece to the proxy, where one carries it.
    pub(super) rtt_us: u32,
    /// Segments that this end sent again.
    pub(super) retransmits: u32,
}

impl Ended {
    /// A kernel's record, with its ids and addresses named as far as they are known.
    pub fn of(event: &EndEvent, names: &Names, now: Moment) -> Self {
        let at = |who: Who, addr, port| if who == Named::Nobody { names.at(address(addr, port).ip()) } else { who };
        let is_server = event.side == Side::Server as u8;
        let source = at(names.who(event.source), event.from, event.from_port);
        let target = if is_chosen_elsewhere(event) {
            Named::Nobody
        } else {
            at(names.who(event.target), event.to, event.to_port)
        };
        let service = if is_server { None } else { names.service(address(event.asked, event.asked_port)).cloned() };
        Self { at: now.of(event.at_ns), event: *event, source, target, service, policy: names.policy(event.policy) }
    }

    /// Which end tells.
    pub(super) fn side(&self) -> Side {
        if self.event.side == Side::Server as u8 { Side::Server } else { Side::Client }
    }

    /// Bytes from the caller to the called, and back.
    pub(super) fn bytes(&self) -> (u64, u64) {
        match self.side() {
            Side::Client => (self.event.sent, self.event.received),
            Side::Server => (self.event.received, self.event.sent),
        }
    }

    /// The way that the kernel sent or let it.
    pub(super) fn path(&self) -> &'static str {
        Reason::from_number(self.event.path.into()).map_or("unknown", Reason::name)
    }

    /// How it ended, as the end that tells saw it. The first five were never established.
    pub(super) fn outcome(&self) -> &'static str {
        match (self.event.state, i32::from(self.event.errno)) {
            (state::SYN_SENT, 0) => "abandoned",
            (state::SYN_SENT, libc::ECONNREFUSED) => "connect_refused",
            (state::SYN_SENT, libc::ETIMEDOUT) => "connect_timeout",
            (state::SYN_SENT, libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES) => "unreachable",
            (state::SYN_SENT, _) => "connect_failed",
            (_, libc::ECONNRESET | libc::EPIPE) => "reset",
            (_, libc::ECONNABORTED) => "destroyed",
            (_, libc::ETIMEDOUT) => "timed_out",
            // It closed before it had finished sending: what it sent was a reset.
            (state::ESTABLISHED | state::CLOSE_WAIT, 0) => "aborted",
            (_, 0) => "closed",
            (_, _) => "failed",
        }
    }

    /// True where it was never established.
    pub(super) fn has_failed(&self) -> bool {
        self.event.state == state::SYN_SENT
    }

    /// The caller's own address, of the family that it called by.
    fn source_address(&self) -> SocketAddr {
        let mut from = address(self.event.from, self.event.from_port);
        let to = address(self.event.to, self.event.to_port);
        // A captured socket is one over loopback to the kernel.
        if self.side() == Side::Client && from.ip().is_loopback() {
            let same_family = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
            let own = self.source.known().and_then(|workload| workload.addresses.iter().find(same_family));
            own.into_iter().for_each(|ip| from.set_ip(*ip));
        }
        from
    }

    /// As it is printed.
    pub(super) fn printed(&self) -> Printed {
        let (event, (bytes_sent, bytes_received)) = (&self.event, self.bytes());
        let to = if is_chosen_elsewhere(event) { None } else { Some(address(event.to, event.to_port)) };
        Printed {
            at: rfc3339(self.at),
            event: "ended",
            verdict: self.outcome(),
            side: side_name(self.side()),
            path: self.path(),
            source: self.source.to_string(),
            source_address: self.source_address().to_string(),
            asked: address(event.asked, event.asked_port).to_string(),
            target: to.map_or_else(String::new, |to| to.to_string()),
            target_workload: self.target.to_string(),
            service: self.service.as_ref().map_or_else(String::new, ToString::to_string),
            policy: self.policy.to_string(),
            bytes_sent,
            bytes_received,
            duration_us: event.duration_ns / 1000,
            connect_us: event.connect_us,
            rtt_us: event.srtt_us,
            retransmits: event.retransmits,
        }
    }
}

/// An end's name, in lines and labels.
pub(super) fn side_name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

/// True where the kernel's pick is not where it went: the proxy draws among a service's endpoints again.
fn is_chosen_elsewhere(event: &EndEvent) -> bool {
    event.path == Reason::Proxied as u8 && (event.asked, event.asked_port) != (event.to, event.to_port)
}
