//! A decision of the kernel's on a connection, with its ids named.

use std::{net::SocketAddr, time::Duration};

use millrace_abi::{FlowEvent, Reason};
use millrace_model::ObjectName;

use super::{
    DECIDED, Flow, Moment, Names, address,
    names::{Named, Who},
    rfc3339,
};

/// One decision of the kernel's, and who it was about as far as that was known when it was told.
#[derive(Clone, Debug)]
pub struct Decided {
    at: Duration,
    reason: u32,
    pub(super) is_datagram: bool,
    netns: u64,
    pub(super) source: Who,
    policy: Named<ObjectName>,
    pub(super) asked: SocketAddr,
    pub(super) target: SocketAddr,
}

impl Decided {
    /// A kernel's record, with its ids named as far as they are known.
    pub fn of(event: &FlowEvent, names: &Names, now: Moment) -> Self {
        Self {
            at: now.of(event.at_ns),
            reason: event.reason,
            is_datagram: event.is_datagram != 0,
            netns: event.netns,
            source: names.who(event.source),
            policy: names.policy(event.policy),
            asked: address(event.asked, event.asked_port),
            target: address(event.target, event.target_port),
        }
    }

    /// Why; None for a reason that this version does not know.
    pub(super) fn reason(&self) -> Option<Reason> {
        Reason::from_number(self.reason)
    }

    /// As it is printed.
    pub(super) fn printed(&self) -> Flow {
        Flow {
            at: rfc3339(self.at),
            event: DECIDED,
            verdict: self.reason().map_or_else(|| format!("reason_{}", self.reason), |reason| reason.name().to_owned()),
            source: self.source.to_string(),
            netns: self.netns,
            asked: self.asked.to_string(),
            target: self.target.to_string(),
            policy: self.policy.to_string(),
        }
    }
}
